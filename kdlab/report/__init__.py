"""A study as one web page that opens anywhere, without a network and without Python."""

from kdlab.report.page import build_report

__all__ = ["build_report"]
