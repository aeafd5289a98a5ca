#!/usr/bin/env bash
# Setting 2, two-stage KD: bert_ft -> bert_student -> its own one-step-pruned copy.
source "$(dirname "$(realpath "$0")")/common.sh"
start "$@"
fine_tune
augment
distil_bert_student
score_bert_student
prune_to_shape bert_student prun_bert_student
distil setting2 "bert_student/$NAME" "$MODELS/prun_bert_student/$NAME/$SHAPE" \
    "setting2/$NAME/$SHAPE"
test_model "setting2/$NAME/$SHAPE"
