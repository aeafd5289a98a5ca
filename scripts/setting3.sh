#!/usr/bin/env bash
# Setting 3, two-stage KD: bert_student loses its top layers in one step, its width iteratively.
source "$(dirname "$(realpath "$0")")/common.sh"
start "$@"
fine_tune
augment
distil_bert_student
say "drop the top layers of bert_student"
(cd "$ROOT/KD" && "$PYTHON" pruning_one_step.py -model_path "$MODELS/bert_student" -task "$TASK" \
    -output_dir "$MODELS/bert-8layer/one_step_prun" -keep_heads "$BASE_HEADS" \
    -num_layers "$LAYERS" -ffn_hidden_dim "$BASE_FFN" -emb_hidden_dim -1)
CUT=a${BASE_HEADS}_l${LAYERS}_f${BASE_FFN}_e-1
distil setting3 "bert_student/$NAME" "$MODELS/bert-8layer/one_step_prun/$NAME/$CUT" \
    "setting3/$NAME/$SHAPE"
test_model "setting3/$NAME/$SHAPE"
