#!/usr/bin/env bash
# One command: watch a real BERT shrink. Sets everything up, then runs Setting 1 end to end.
#
#   ./quickstart.sh                                   on the sample task
#   ./quickstart.sh --task CoLA                       on real GLUE data, from the internet
#   ./quickstart.sh --task CoLA --glue_mirror DIR     from a mirror (a folder, URL or s3://)
#
# Run again, it resumes, or says that it is done. Its models are in models/quickstart/.
set -euo pipefail

fail() { echo "error: $1" >&2 && exit 2; }

SAMPLE=SST-2
GLUE_TASK='' MIRROR=''
while [ $# -gt 0 ]; do
    case $1 in
        --task)
            [ -n "${2:-}" ] || fail "--task needs a name"
            GLUE_TASK=$2 && shift 2
            ;;
        --glue_mirror)
            case ${2:-} in
                '') fail "--glue_mirror needs a folder or an address" ;;
                *://*) MIRROR=$2 ;;
                *) MIRROR=$(realpath "$2" 2>/dev/null) || fail "--glue_mirror $2 does not exist" ;;
            esac
            shift 2
            ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
done
[ -z "$MIRROR" ] || [ -n "$GLUE_TASK" ] || fail "--glue_mirror is for real data: add --task"
case $GLUE_TASK in
    .* | *[!A-Za-z0-9._-]*) fail "--task '$GLUE_TASK' is no name of a GLUE task" ;;
esac
# the names of rosita/tasks.py, which cannot be asked before all is installed
grep -qixE 'cola|sst(-?2)?|mnli|qnli|qqp|mrpc|sts(-?b)?|rte|wnli' <<< "${GLUE_TASK:-$SAMPLE}" ||
    fail "--task '$GLUE_TASK' is not one of CoLA, SST-2, MNLI, QNLI, QQP, MRPC, STS-B, RTE, WNLI"
cd "$(dirname "$(realpath "$0")")"

if [ -z "${PYTHON:-}" ]; then  # PYTHON=... takes an environment of your own as it is
    source scripts/environment.sh
    make_environment quickstart
fi
source scripts/common.sh

STARTED=$SECONDS
if [ -n "$GLUE_TASK" ]; then
    FOLDER=$GLUE_TASK DATA_FOLDER=data/quickstart  # data/TASK is left to the paper's commands
    EPOCHS_OF_KD=6
else
    FOLDER=sample-$SAMPLE DATA_FOLDER=data/sample
    EPOCHS_OF_KD=4  # enough for the sample, and minutes less
fi
SUMMARY=models/quickstart/summary.json
TABLE=models/quickstart/$FOLDER/table.txt
CLOCK=models/quickstart/$FOLDER/seconds  # of earlier runs that were cut off
if [ -e "$TABLE" ] && grep -q "quickstart/$FOLDER/" "$SUMMARY"; then
    cat "$TABLE"
    echo "done already; to run it again: rm -r models/quickstart/$FOLDER"
    exit
fi
mkdir -p "models/quickstart/$FOLDER"
EARLIER=$(cat "$CLOCK" 2>/dev/null || true)
# bash would run what stands in brackets in a text that it is to calculate with
if [[ $EARLIER =~ ^[0-9]{1,9}$ ]]; then EARLIER=$((10#$EARLIER)); else EARLIER=0; fi
trap 'echo $((EARLIER + SECONDS - STARTED)) > "$CLOCK"' EXIT

say "a real BERT (6 layers, 22.7 M parameters) and real GloVe vectors"
BASE_FOLDER=models/bert_pt
if [ -e models/bert_pt ] && ! grep -qs all-MiniLM-L6-v2 models/bert_pt/run.json; then
    BASE_FOLDER=models/quickstart/bert_pt  # models/bert_pt holds another BERT
fi
"$PYTHON" download_bert.py --model all-MiniLM-L6-v2 --output_dir "$BASE_FOLDER"
"$PYTHON" download_glove.py --name glove.6B.50d
if [ -n "$GLUE_TASK" ]; then
    say "GLUE data: $GLUE_TASK"
    "$PYTHON" download_glue_data.py --data_dir "$DATA_FOLDER" --tasks "$GLUE_TASK" \
        ${MIRROR:+--mirror "$MIRROR"}
else
    say "the sample task $SAMPLE"
    "$PYTHON" data/sample_tasks.py --tasks "$SAMPLE" --data_dir data/sample
fi

start "${GLUE_TASK:-$SAMPLE}" --data "$DATA_FOLDER" --models "models/quickstart/$FOLDER" \
    --base "$BASE_FOLDER" --glove glove/glove.6B.50d --N 3 \
    --epochs "$EPOCHS_OF_KD"
fine_tune
augment
score_bert_ft
prune_to_shape bert_ft prun_bert
distil setting1 "bert_ft/$NAME" "$MODELS/prun_bert/$NAME/$SHAPE" "setting1/$NAME/$SHAPE"
test_model "bert_ft/$NAME"
test_model "setting1/$NAME/$SHAPE"
"$PYTHON" scripts/summarize.py --task_name "$TASK" --data_dir "$DATA/$NAME" \
    --teacher "$MODELS/bert_ft/$NAME" --student "$MODELS/setting1/$NAME/$SHAPE" \
    --output "$SUMMARY" --seconds $((EARLIER + SECONDS - STARTED)) | tee "$TABLE.new"
mv "$TABLE.new" "$TABLE"
