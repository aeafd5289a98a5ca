#!/usr/bin/env bash
# Redo RESULTS.md from nothing: MiniLM, GloVe and GLUE, every experiment that has no record yet, the
# tables. Hours on two cores; cut off, the same command goes on. Arguments go to reproduce.py:
#
#   experiments/reproduce_minilm.sh --jobs 2
#   experiments/reproduce_minilm.sh --tasks SST-2 --tables settings --seeds 1
#   GLUE_MIRROR=DIR|URL|s3://bucket/prefix experiments/reproduce_minilm.sh
set -euo pipefail
case ${GLUE_MIRROR:-} in '' | *://*) ;; *) GLUE_MIRROR=$(realpath "$GLUE_MIRROR") ;; esac
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    source scripts/environment.sh
    make_environment quickstart export
    PYTHON=.venv/bin/python
fi
"$PYTHON" download_bert.py --model all-MiniLM-L6-v2
"$PYTHON" download_glove.py --name glove.6B.50d
"$PYTHON" download_glue_data.py --data_dir data --tasks SST-2,CoLA,MRPC,STS-B,RTE \
    ${GLUE_MIRROR:+--mirror "$GLUE_MIRROR"}
"$PYTHON" experiments/reproduce.py --serving "$@"
"$PYTHON" experiments/floors.py
"$PYTHON" experiments/compare.py
"$PYTHON" experiments/results.py
