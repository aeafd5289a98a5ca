#!/usr/bin/env bash
# Setting 1, one-stage KD: bert_ft teaches its own one-step-pruned copy.
source "$(dirname "$(realpath "$0")")/common.sh"
start "$@"
fine_tune
augment
score_bert_ft
prune_to_shape bert_ft prun_bert
distil setting1 "bert_ft/$NAME" "$MODELS/prun_bert/$NAME/$SHAPE" "setting1/$NAME/$SHAPE"
test_model "setting1/$NAME/$SHAPE"
