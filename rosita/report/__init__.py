"""All models of a folder on one page: runs -> collection -> tables and figures -> page."""

from rosita.report.collection import build_report
from rosita.report.page import write_report

__all__ = ["build_report", "write_report"]
