"""An evaluation as one HTML file that needs nothing else, and as a picture."""

from __future__ import annotations

from zh_retrieval.evaluation.report.page import write
from zh_retrieval.evaluation.report.picture import check_picture, write_picture

__all__ = ["check_picture", "write", "write_picture"]
