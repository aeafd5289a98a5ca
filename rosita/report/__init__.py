"""All models of a folder on one page: runs -> collection -> tables and figures -> page."""
