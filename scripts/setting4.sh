#!/usr/bin/env bash
# Setting 4, three-stage KD (ROSITA): bert_student loses layers iteratively, then its width.
source "$(dirname "$(realpath "$0")")/common.sh"
start "$@"
fine_tune
augment
distil_bert_student
DEPTH=bert-8layer/iter_depth_prun/$NAME
distil bert-8layer "bert_student/$NAME" "$MODELS/bert_student/$NAME" "$DEPTH"
distil setting4 "$DEPTH" "$MODELS/$DEPTH" "setting4/$NAME"
test_model "setting4/$NAME"
