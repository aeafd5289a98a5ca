#!/usr/bin/env bash
# Open an export of Deploy/export.py where this project is not: one fresh environment per version of
# transformers, with torch and nothing else. Prints what the pipeline says of a sentence.
#
#   scripts/check_export.sh models/export/CoLA 5.23.0 4.57.6
set -euo pipefail
if [ $# -lt 2 ] || [ ! -e "$1/modeling_rosita.py" ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
EXPORT=$(realpath "$1")
shift
WORK=$(mktemp -d)
trap 'rm -r "$WORK"' EXIT
PROGRAM='
import sys, torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
text = "the film was a great joy to watch"
folder = sys.argv[1]
piped = pipeline("text-classification", folder, trust_remote_code=True)(text)[0]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
with torch.inference_mode():
    logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
label = model.config.id2label[int(logits.argmax())] if len(logits) > 1 else piped["label"]
assert label == piped["label"], (label, piped)
print(f"transformers {transformers.__version__}: {piped}")
'
"${BASE_PYTHON:-python3}" -m venv "$WORK/venv"
PIP=("$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
# the CPU build that the rest of the project uses, where one is pinned
"${PIP[@]}" "$(grep '^torch' "$(dirname "$0")/../requirements.txt" || echo torch)"
cd "$WORK"  # no folder of this project on the path
for version in "$@"; do
    "${PIP[@]}" "transformers==$version"
    HF_HUB_OFFLINE=1 HF_MODULES_CACHE="$WORK/modules-$version" \
        "$WORK/venv/bin/python" -c "$PROGRAM" "$EXPORT"
done
