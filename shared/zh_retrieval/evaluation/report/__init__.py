"""An evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

from zh_retrieval.evaluation.report.page import write

__all__ = ["write"]
