#!/usr/bin/env bash
# Open an export of Deploy/export.py (formats hf, onnx and int8) in other people's programs, each
# installed afresh from the registries, and compare their answers to those of Deploy/predict.py.
#
#   scripts/check_clients.sh models/export/CoLA                      all clients
#   scripts/check_clients.sh models/export/CoLA onnxruntime openvino  some of them
#
# Clients: predict.py onnxruntime openvino transformers sentence-transformers optimum transformers.js (npm)
set -euo pipefail
if [ $# -lt 1 ] || [ ! -e "$1/onnx/model_int8.onnx" ] || [ ! -e "$1/modeling_rosita.py" ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
EXPORT=$(realpath "$1")
shift
CLIENTS=("$@")
[ $# -gt 0 ] || CLIENTS=(predict.py onnxruntime openvino transformers sentence-transformers optimum transformers.js)
ROOT=$(realpath "$(dirname "$0")/..")
PYTHON=$ROOT/.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3
TORCH=$(grep '^torch' "$ROOT/requirements.txt")  # the CPU build that the project uses
WORK=$(mktemp -d)
trap 'rm -r "$WORK"' EXIT
export HF_HUB_OFFLINE=1 HF_MODULES_CACHE="$WORK/modules"
cd "$WORK"  # no folder of this project on the path
printf '%s\n' "the film was a great joy to watch" "Müsste  schön — 日本語?" "the dog ran." > texts

ours() {  # ours PYTHON FORMAT: predict.py's answers, a text a call, as int8 rounds by its batch
    while IFS= read -r text; do
        printf '%s\n' "$text" | "$1" "$ROOT/Deploy/predict.py" --model "$EXPORT" --format "$2"
    done < texts
}
for form in onnx int8; do ours "$PYTHON" $form > $form.tsv; done

install() {  # install ENVIRONMENT PACKAGE...: with pip, into a fresh environment
    "${BASE_PYTHON:-python3}" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
}

version() {  # version ENVIRONMENT PACKAGE
    "$1/bin/python" -c "from importlib.metadata import version; print(version('$2'))"
}

check() {  # check NAME EXPECTED TOLERANCE: what a client printed, label<TAB>probability a text
    "$PYTHON" - "$@" <<'PY'
import sys
name, expected, tolerance = sys.argv[1:]
ours, theirs = (
    [line.rstrip("\n").split("\t") for line in open(file)] for file in (expected, "answer.tsv")
)
assert len(ours) == len(theirs), f"{name} gave {len(theirs)} answers to {len(ours)} texts"
far = max(abs(float(a[1]) - float(b[1])) for a, b in zip(ours, theirs))
same = [a[0] for a in ours] == [b[0] for b in theirs]
assert same and far <= float(tolerance), f"{name} answers {theirs}, ours are {ours}"
print(f"{name}: {len(ours)} labels equal, probabilities within {far:.1e}")
PY
}

# ids, mask and token types of a text by `tokenizers` alone, and what makes logits an answer
COMMON='
import json, sys, numpy
from tokenizers import Tokenizer
folder = sys.argv[1]
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
labels = json.load(open(f"{folder}/config.json"))["id2label"]
def answer(run):
    for text in open("texts"):
        coded = tokenizer.encode(text.rstrip("\n"))
        feed = {"input_ids": coded.ids, "attention_mask": coded.attention_mask,
                "token_type_ids": coded.type_ids}
        logits = run({name: numpy.array([value]) for name, value in feed.items()})[0]
        odds = numpy.exp(logits - logits.max())
        print(labels[str(logits.argmax())], (odds / odds.sum()).max(), sep="\t")
'

for client in "${CLIENTS[@]}"; do
    case $client in
    predict.py)  # our own, where there is no torch
        install own -r "$ROOT/Deploy/requirements.txt"
        own/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e "$ROOT"
        for form in onnx int8; do
            ours own/bin/python $form > answer.tsv
            check "predict.py, onnxruntime $(version own onnxruntime), $(du -sm own | cut -f1) MB installed, $form" $form.tsv 1e-6
        done ;;
    onnxruntime)
        install ort onnxruntime tokenizers
        ort/bin/python -c "$COMMON
import onnxruntime
session = onnxruntime.InferenceSession(f'{folder}/model_int8.onnx')
answer(lambda feed: session.run(['logits'], feed)[0])" "$EXPORT/onnx" > answer.tsv
        check "onnxruntime $(version ort onnxruntime), int8" int8.tsv 1e-3 ;;
    openvino)
        install ov openvino tokenizers
        ov/bin/python -c "$COMMON
import openvino
model = openvino.Core().compile_model(f'{folder}/model.onnx', 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
answer(lambda feed: model(feed)['logits'])" "$EXPORT/onnx" > answer.tsv
        check "OpenVINO $(version ov openvino)" onnx.tsv 1e-3 ;;
    transformers)
        install hf "$TORCH" transformers accelerate
        hf/bin/python - "$EXPORT" > answer.tsv <<'PY'
# pipeline, and Trainer: train, checkpoint, resume, save, open again
import sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, \
    TrainingArguments, pipeline
folder = sys.argv[1]
for text in open("texts"):
    found = pipeline("text-classification", folder, trust_remote_code=True)(text.rstrip("\n"))[0]
    print(found["label"], found["score"], sep="\t")
sys.stdout = sys.stderr  # where the Trainer's own lines are no answers
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
rows = [{**tokenizer(text), "labels": number % 2} for number, text in enumerate(open("texts"))]
def trainer(steps):
    arguments = TrainingArguments("trained", max_steps=steps, save_steps=2, report_to=[],
                                  per_device_train_batch_size=2, gradient_checkpointing=True)
    return Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
trainer(2).train()
last = trainer(4)
last.train(resume_from_checkpoint=True)
assert last.state.global_step == 4
last.save_model("saved")
again = AutoModelForSequenceClassification.from_pretrained("saved", trust_remote_code=True)
for name, weight in again.state_dict().items():
    assert torch.equal(weight, last.model.state_dict()[name].cpu()), name
PY
        check "transformers $(version hf transformers), pipeline and Trainer" onnx.tsv 1e-3
        # what the Trainer saved opens here as well
        "$PYTHON" "$ROOT/Deploy/predict.py" --model saved --format pytorch < texts > /dev/null ;;
    sentence-transformers)
        install st "$TORCH" sentence-transformers
        st/bin/python - "$EXPORT" > answer.tsv <<'PY'
import sys, torch
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1], trust_remote_code=True)
for text in open("texts"):  # one at a time: a list of two texts would be a pair
    row = model.predict(text.rstrip("\n"), activation_fn=torch.nn.Softmax(dim=-1))
    print(model.config.id2label[int(row.argmax())], row.max(), sep="\t")
PY
        check "sentence-transformers $(version st sentence-transformers), CrossEncoder" onnx.tsv 1e-3 ;;
    optimum)
        # optimum-onnx 0.1.0, the newest, wants transformers below 4.58: pip takes that of itself
        install om "$TORCH" "optimum-onnx[onnxruntime]"
        for form in onnx:model.onnx int8:model_int8.onnx; do
            IFS=: read -r expected file <<< "$form"
            om/bin/python - "$EXPORT" "$file" > answer.tsv <<'PY'
# as the model card says; no code of the folder is run, so that no flag has to allow it
import sys, torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
folder, file = sys.argv[1:]
model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name=file)
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/onnx")
for text in open("texts"):
    odds = model(**tokenizer(text.rstrip("\n"), return_tensors="pt")).logits.softmax(-1)[0]
    print(model.config.id2label[int(odds.argmax())], float(odds.max()), sep="\t")
PY
            check "optimum-onnx $(version om optimum-onnx) with transformers $(version om transformers), $file" "$expected.tsv" 1e-3
        done ;;
    transformers.js)
        npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/transformers
        for form in onnx:fp32 int8:int8; do
            IFS=: read -r expected dtype <<< "$form"
            node --input-type=module - "$EXPORT/onnx" "$dtype" > answer.tsv <<'JS'
import { readFileSync } from "node:fs";
import { env, pipeline } from "@huggingface/transformers";
const [folder, dtype] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = "/";
const classify = await pipeline("text-classification", folder, { subfolder: "", dtype });
for (const text of readFileSync("texts", "utf-8").trimEnd().split("\n")) {
  const [found] = await classify(text);
  console.log(`${found.label}\t${found.score}`);
}
JS
            check "transformers.js $(node -p 'require("./node_modules/@huggingface/transformers/package.json").version'), $dtype" "$expected.tsv" 1e-3
        done ;;
    *)
        echo "error: no client is called $client" >&2
        exit 2 ;;
    esac
done
