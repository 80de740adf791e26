"""An evaluation as one HTML file that needs nothing else, as a picture, as text, and as runs for other programs."""

from __future__ import annotations

from zh_retrieval.evaluation.report.writing import check_outputs, check_picture, write, write_outputs, write_picture

__all__ = ["check_outputs", "check_picture", "write", "write_outputs", "write_picture"]
