#!/usr/bin/env bash
# The tests against the newest torch and transformers that pip finds, in a fresh environment; for a
# scheduled job. Arguments go to pytest.
#
#   scripts/check_newest.sh
#   PIP_CONSTRAINT=held.txt scripts/check_newest.sh -x     held.txt: torch==2.13.0, where only that
#                                                           has a build for the CPU
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
WORK=$(mktemp -d)
trap 'rm -r "$WORK"' EXIT
"${BASE_PYTHON:-python3}" -m venv "$WORK/venv"
PIP=("$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${PIP[@]}" --upgrade torch transformers tokenizers accelerate
"${PIP[@]}" -e ".[quickstart,test]"
"$WORK/venv/bin/python" -m pip list 2>/dev/null | grep -E "^(torch|transformers|tokenizers|accelerate) "
"$WORK/venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
