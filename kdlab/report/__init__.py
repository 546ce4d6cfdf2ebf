"""A study as one web page that opens anywhere, without a network or Python; or all of it in one zip file."""

from kdlab.report.everything import save_everything
from kdlab.report.page import build_report

__all__ = ["build_report", "save_everything"]
