#!/usr/bin/env bash
# Make the environment, install what the tests need, run them. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
source scripts/environment.sh
make_environment quickstart test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# two files at a time: most of a test's time is spent on one core; the longest ones are begun first
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
