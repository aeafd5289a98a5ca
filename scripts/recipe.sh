#!/usr/bin/env bash
# The one recipe of RESULTS.md: Setting 1 with long training on rows drawn afresh.
source "$(dirname "$(realpath "$0")")/common.sh"
SHAPED_BY=recipe
start "$@"
fine_tune
score_bert_ft
prune_to_shape bert_ft prun_bert
distil recipe "bert_ft/$NAME" "$MODELS/prun_bert/$NAME/$SHAPE" "recipe/$NAME/$SHAPE" \
    --glove_embs "$GLOVE"
test_model "recipe/$NAME/$SHAPE"
