# The steps that the settings and the quickstart are chained from; sourced, not run.
# Every step is a stage script that starts nothing if it is finished and resumes if it was cut
# off, so a chain can be run again at any time. The first failure stops the chain.
set -euo pipefail
SHAPED_BY=setting1  # the config whose shape is pruned to
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -x "$ROOT/.venv/bin/python" ]; then PYTHON=$ROOT/.venv/bin/python; fi
fi

usage() {
    cat >&2 <<EOF
usage: $(basename "$0") TASK [options]      TASK: a GLUE task, or the path of your own task.json
  --data DIR       folder that holds TASK/        (default: data)
  --models DIR     folder of all models           (default: models)
  --base DIR       the pretrained BERT            (default: models/bert_pt)
  --glove PATH     GloVe vectors                  (default: what glove/ holds)
  --configs DIR    the KD configs   (default: KD/configurations, or its minilm/ for under 8 layers)
  --N COPIES       augmented copies of a sentence (default: the paper's; 3 for under 8 layers)
  --epochs E       of each KD stage               (default: the config's)
EOF
    exit 2
}

# Read the command line; every path becomes absolute.
start() {
    [ $# -ge 1 ] || usage
    case $1 in -*) usage ;; *.json) TASK=$(realpath -m "$1") ;; *) TASK=$1 ;; esac
    shift
    DATA=data MODELS=models BASE=models/bert_pt GLOVE='' CONFIGS='' COPIES='' EPOCHS=''
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || usage
        case $1 in
            --data) DATA=$(realpath -m "$2") ;;
            --models) MODELS=$(realpath -m "$2") ;;
            --base) BASE=$(realpath -m "$2") ;;
            --glove) GLOVE=$(realpath -m "$2") ;;
            --configs) CONFIGS=$(realpath -m "$2") ;;
            --N) COPIES=$2 ;;
            --epochs) EPOCHS=$2 ;;
            *) usage ;;
        esac
        shift 2
    done
    cd "$ROOT"  # the defaults are within it
    DATA=$(realpath -m "$DATA") MODELS=$(realpath -m "$MODELS") BASE=$(realpath -m "$BASE")
    NAME=$("$PYTHON" -c 'import sys; from rosita.cli import run_script
from rosita.tasks import find_task
run_script(lambda: print(find_task(sys.argv[1]).name))' "$TASK")
    [ -n "$GLOVE" ] || GLOVE=$(find_glove)
    choose_base_settings
}

find_glove() {
    local found
    for found in glove/glove.42B.300d.txt glove/glove.6B.50d; do
        if [ -e "$found" ]; then realpath "$found" && return; fi
    done
    echo "error: glove/ holds no vectors; run download_glove.py" >&2
    return 2
}

# The paper's rates for BERT-base; others for a BERT with fewer layers than the paper's student, as
# MiniLM. BASE_HEADS and BASE_FFN are for Setting 3, which cuts layers alone and names what stays.
choose_base_settings() {
    if [ ! -e "$BASE/config.json" ]; then
        echo "error: $BASE holds no pretrained BERT; run download_bert.py" >&2
        exit 2
    fi
    local fitting found
    found=$("$PYTHON" -c 'import sys
from rosita.backbones import backbone_of
from rosita.cli import run_script
from rosita.config import configs_for
from rosita.errors import RositaError
from rosita.files import read_object


def main():
    path = sys.argv[1]
    values = read_object(path)
    config = backbone_of(values, path).config(values, path)
    keys = ("num_hidden_layers", "num_attention_heads", "intermediate_size")
    layers, heads, ffn = (config.get(key) for key in keys)
    if any(type(size) is not int for size in (layers, heads, ffn)):
        raise RositaError(f"{path} must give {keys} as whole numbers")
    print(configs_for(layers).name, heads, ffn)


run_script(main)' "$BASE/config.json")
    read -r fitting BASE_HEADS BASE_FFN <<<"$found"
    if [ "$fitting" = minilm ]; then
        case $NAME in  # as RESULTS.md chose them; SST-2's, below, are those of 20,000 rows
            MRPC | STS-B) FT_FLAGS=(--learning_rate 1e-4 --num_train_epochs 5) ;;
            CoLA) FT_FLAGS=(--learning_rate 5e-5 --num_train_epochs 8) ;;
            RTE) FT_FLAGS=(--learning_rate 5e-5 --num_train_epochs 5) ;;
            *) FT_FLAGS=(--learning_rate 5e-5 --num_train_epochs 3) ;;
        esac
        [ -n "$CONFIGS" ] || CONFIGS=KD/configurations/minilm
        [ -n "$COPIES" ] || COPIES=3
        KD_THREADS=4
    else
        KD_THREADS=8
        FT_FLAGS=(--learning_rate 2e-5 --num_train_epochs 5)
        [ -n "$CONFIGS" ] || CONFIGS=KD/configurations
    fi
    CONFIGS=$(realpath -m "$CONFIGS")
    if [ ! -e "$CONFIGS/config_$SHAPED_BY.json" ]; then
        echo "error: $CONFIGS holds no config_$SHAPED_BY.json; name another folder by --configs" >&2
        exit 2
    fi
    # -keep_heads ... of the config's shape, and the shape's name
    found=$(numbers "$CONFIGS/config_$SHAPED_BY.json" default \
        keep_heads keep_layers ffn_hidden_dim emb_hidden_dim)
    read -r HEADS LAYERS FFN RANK <<<"$found"
    SHAPE=a${HEADS}_l${LAYERS}_f${FFN}_e${RANK}
}

numbers() {  # FILE SECTION KEY...: whole numbers of a JSON object, or of a section of it
    "$PYTHON" -c 'import sys
from rosita.cli import run_script
from rosita.errors import RositaError
from rosita.files import read_json


def main():
    path, section, *keys = sys.argv[1:]
    values = read_json(path)
    if section:
        values = values.get(section) if isinstance(values, dict) else None
        path = f"{path}, section {section}"
    for key in keys:
        value = values.get(key) if isinstance(values, dict) else None
        if type(value) is not int:
            raise RositaError(f"{path}: {key} must be a whole number, it is {value!r:.40}")
    print(*(values[key] for key in keys))


run_script(main)' "$@"
}

say() { printf '\n== %s\n' "$*"; }

fine_tune() {  # bert_pt -> bert_ft
    say "fine-tune $BASE on $NAME"
    (cd "$ROOT/Pruning" && "$PYTHON" run_glue.py --model_name_or_path "$BASE" --task_name "$TASK" \
        --do_train --do_lower_case --evaluate_during_training \
        --logging_steps 100 --per_gpu_train_batch_size 32 --data_dir "$DATA/$NAME" \
        --output_dir "$MODELS/bert_ft/$NAME" "${FT_FLAGS[@]}")
}

augment() {  # train.tsv -> train_aug.tsv
    say "augment $DATA/$NAME/train.tsv"
    "$PYTHON" "$ROOT/data_augmentation.py" --pretrained_bert_model "$BASE" \
        --glove_embs "$GLOVE" --glue_dir "$DATA" --task_name "$TASK" ${COPIES:+--N "$COPIES"}
}

score_bert_ft() {  # Taylor scores of bert_ft
    say "score the weights of bert_ft"
    (cd "$ROOT/Pruning" && "$PYTHON" run_glue.py --compute_taylor True \
        --model_name_or_path "$MODELS/bert_ft/$NAME" --task_name "$TASK" --do_lower_case \
        --data_dir "$DATA/$NAME")
}

score_bert_student() {  # Taylor scores of bert_student, from the distillation's gradients
    say "score the weights of bert_student"
    (cd "$ROOT/KD" && "$PYTHON" train.py --compute_taylor --pred_distill --do_lower_case \
        --teacher_model "$MODELS/bert_ft/$NAME" --student_model "$MODELS/bert_student/$NAME" \
        --task_name "$TASK" --data_dir "$DATA/$NAME" \
        --output_dir "$MODELS/bert_student/$NAME/taylor_score")
}

prune_to_shape() {  # SOURCE TARGET: one step to the config's shape
    say "prune $1 to $SHAPE"
    (cd "$ROOT/Pruning" && "$PYTHON" pruning_one_step.py -model_path "$MODELS/$1" -task "$TASK" \
        -output_dir "$MODELS/$2" -keep_heads "$HEADS" -num_layers "$LAYERS" \
        -ffn_hidden_dim "$FFN" -emb_hidden_dim "$RANK")
}

# A narrow student's step gains little from more threads (benchmarks/README.md, "Splitting the
# cores"); OMP_NUM_THREADS=... says otherwise.
threads_of_kd() {
    local cores
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    echo "${OMP_NUM_THREADS:-$((cores < KD_THREADS ? cores : KD_THREADS))}"
}

distil() {  # CONFIG TEACHER STUDENT OUTPUT [FLAG ...]: flags in place of --aug_train
    say "distil: $1"
    local flags=("${@:5}")
    [ $# -gt 4 ] || flags=(--aug_train)
    (cd "$ROOT/KD"
    case $1 in setting* | recipe) OMP_NUM_THREADS=$(threads_of_kd) && export OMP_NUM_THREADS ;; esac
    "$PYTHON" train.py \
        --config_dir "$CONFIGS/config_$1.json" \
        --task_name "$TASK" --do_lower_case "${flags[@]}" --teacher_model "$MODELS/$2" \
        --student_model "$3" --data_dir "$DATA/$NAME" --output_dir "$MODELS/$4" \
        ${EPOCHS:+--num_train_epochs "$EPOCHS"})
}

distil_bert_student() {  # bert_pt -> bert_student, taught by bert_ft
    distil bert-student "bert_ft/$NAME" "$BASE" "bert_student/$NAME"
}

test_model() {  # MODEL: dev scores and test predictions
    say "test $1"
    (cd "$ROOT/KD" && "$PYTHON" test.py --student_model "$MODELS/$1" --task_name "$TASK" \
        --do_lower_case --do_eval --do_predict --data_dir "$DATA/$NAME")
}
