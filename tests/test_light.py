"""Nothing heavy is imported before it is needed: help, complaints and "finished already" come at
once, not after seconds of imports. Each test asks a fresh process what it has loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, make_bert, run_script, write_cola
from safetensors.torch import load_file

from rosita import api

HEAVY = ("torch", "transformers", "accelerate", "scipy", "sklearn", "matplotlib")
DOORS = (".", "Pruning", "KD", "Deploy", "data", "benchmarks", "benchmarks/scaling", "scripts",
         "experiments")  # fmt: skip
# behind RESULTS.md: no scripts of the door
ENGINE = {"compare.py", "floors.py", "reproduce.py", "results.py"}

# Calls of a script, one after the other -> what each answered and what is loaded after it.
CALL = """
import contextlib, io, json, os, runpy, sys
script, calls, heavy = sys.argv[1], *map(json.loads, sys.argv[2:])
sys.path[0] = os.path.dirname(script)
answers = []
for call in calls:
    sys.argv, text, code = [script, *call], io.StringIO(), 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    answers.append([code, text.getvalue(), [name for name in heavy if name in sys.modules]])
print(json.dumps(answers))
"""

# What `mistakes` lays out in the current folder: model/, CoLA/, data/CoLA/train.tsv, wrong.json.
KD = "--teacher_model nowhere --student_model nowhere --output_dir out --pred_distill True"
ONE_STEP = (
    ("-model_path nowhere -output_dir out -task cola", "nowhere/CoLA does not exist"),
    ("-model_path . -output_dir out -task colla", "did you mean 'CoLA'"),
)
DISTIL = (
    (f"{KD} --task_name cola", "nowhere does not exist"),
    (f"{KD} --task_name colla", "did you mean 'CoLA'"),
    (f"{KD} --task_name cola --config_dir wrong.json", "did you mean 'learning_rate'"),
    (f"{KD} --task_name cola --config_dir nowhere.json", "nowhere.json"),
)
MISTAKES = {  # script -> wrong command lines, and what the answer says
    "Pruning/run_glue.py": (
        ("--model_name_or_path nowhere --output_dir out --task_name cola --do_train", "nowhere"),
        ("--model_name_or_path . --output_dir out --task_name colla --do_train", "'CoLA'"),
    ),
    "Pruning/pruning_one_step.py": ONE_STEP,
    "Pruning/plan.py": (
        ("--model nowhere --max_parameters 15M", "nowhere does not exist"),
        ("--model model --max_parameters 15M --task_name colla", "did you mean 'CoLA'"),
        ("--model model --max_parameters 15X", "is no size"),
        ("--model CoLA --task_name cola", "give a budget"),
    ),
    "KD/train.py": DISTIL,
    "KD/train_with_subset.py": DISTIL,
    "KD/pruning_one_step.py": ONE_STEP,
    "KD/test.py": (
        ("--student_model nowhere --task_name cola --do_eval", "nowhere does not exist"),
        ("--student_model model --task_name colla --do_eval", "did you mean 'CoLA'"),
    ),
    "Deploy/export.py": (
        ("--model nowhere --output_dir out --task_name cola", "nowhere does not exist"),
        ("--model model --output_dir out --task_name colla", "did you mean 'CoLA'"),
        ("--model model --output_dir out --task_name cola --formats tflite", "is not one of hf"),
        ("--model model --output_dir data --task_name cola", "data is no export"),
    ),
    "Deploy/benchmark.py": (
        ("--models nowhere", "nowhere does not exist"),
        ("--models model --task_name colla", "did you mean 'CoLA'"),
        ("--models model --task_name cola --formats hf", "is not one of pytorch"),
        ("--models model --task_name cola --data_dir nowhere", "dev.tsv does not exist"),
    ),
    "Deploy/predict.py": (
        ("--model nowhere", "nowhere does not exist"),
        ("--model data", "it holds no model"),
        ("--model model --format int8", "has no onnx/model_int8.onnx"),
        ("--model model --input nowhere", "--input nowhere does not exist"),
    ),
    "data_augmentation.py": (
        ("--task_name colla", "did you mean 'CoLA'"),
        ("--task_name cola --glue_dir nowhere", "nowhere"),
        ("--task_name cola --pretrained_bert_model nowhere", "nowhere has no tokenizer.json"),
        ("--task_name cola --pretrained_bert_model model --glove_embs nowhere", "nowhere does"),
    ),
    "report.py": (("nowhere", "nowhere"),),
    "download_glue_data.py": (("--tasks colla", "did you mean 'CoLA'"),),
    "download_bert.py": (("--output_dir data", "data is no model folder"),),
    "data/sample_tasks.py": (("--tasks colla", "did you mean 'CoLA'"),),
    "scripts/summarize.py": (
        ("--task_name cola --data_dir . --teacher nowhere --student model --output out --seconds 1",
         "nowhere does not exist"),
    ),
    "experiments/hold_out.py": (
        ("--task_name colla --data_dir . --output_dir out", "did you mean 'CoLA'"),
        ("--task_name cola --data_dir nowhere --output_dir out", "nowhere"),
    ),
}  # fmt: skip


def scripts() -> list[str]:
    """Every script that answers to flags: with a parser, or with another script's."""
    paths = [path for door in DOORS for path in sorted((REPOSITORY / door).glob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in paths if path.name not in ENGINE}
    return [
        str(path.relative_to(REPOSITORY))
        for path, text in texts.items()
        if "__main__" in text and any(f"{word}(" in text for word in ("Parser", "launch", "runpy"))
    ]


def call(script: str, calls: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Exit codes and texts of the calls in one fresh process; nothing heavy is loaded by any."""
    command = [sys.executable, "-c", CALL, str(REPOSITORY / script), json.dumps(calls)]
    done = subprocess.run([*command, json.dumps(HEAVY)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for words, (_, text, heavy) in zip(calls, answers, strict=True):
        assert not heavy, f"{script} {' '.join(words)}: {text}"
    return [(code, text) for code, text, _ in answers]


@pytest.mark.parametrize("script", scripts())
def test_help_and_complaints_come_before_heavy_imports(script, tmp_path):
    for name in ("model", "CoLA", "data/CoLA"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("vocab.txt", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    (tmp_path / "data" / "CoLA" / "train.tsv").write_text("src\t1\t\tthe dog ran\n")
    (tmp_path / "wrong.json").write_text('{"default": {"learning_rat": 1}, "cola": {}}')
    mistakes = MISTAKES.get(script, ())

    calls = [["--help"], ["--no_such_flag"], ["--output_dir", ""]]
    calls += [words.split() for words, _ in mistakes]
    (code, text), unknown, empty, *answers = call(script, calls, tmp_path)

    assert code == 0 and "usage: " in text
    assert unknown[0] == 2 and "error: " in unknown[1]
    if not script.startswith("benchmarks/"):  # argparse's own parser is good enough there
        assert empty == (2, "error: --output_dir: an empty value: give it one, or leave it out\n")
    for (words, expected), (code, text) in zip(mistakes, answers, strict=True):
        assert code == 2 and expected in text, f"{words}: {text}"


def test_the_ground_floor_is_light():
    names = "errors cli files tables tasks config config_file provenance pruning.shape"
    names += " description deploy.labelling"
    floor = names.split()
    code = (
        "import sys, rosita\n"
        "assert [name for name in sys.modules if name.startswith('rosita')] == ['rosita']\n"
        f"import {', '.join(f'rosita.{name}' for name in floor)}\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n", done.stderr


def test_finished_augmentation_is_said_before_heavy_imports(tmp_path):
    """Of weights in either format, and without tokenizer.json; so is that settings differ."""
    (tmp_path / "glove.txt").write_text("dog 1 2 3\ncat 1 2 4\n")
    write_cola(tmp_path / "CoLA", train=4)
    bert = make_bert(tmp_path / "bert")
    words = ["--task_name", "CoLA", "--glue_dir", str(tmp_path), "--glove_embs",
             str(tmp_path / "glove.txt"), "--pretrained_bert_model", str(bert)]  # fmt: skip
    for change in ("as it is", "pytorch_model.bin"):
        if change == "pytorch_model.bin":
            torch.save(load_file(bert / "model.safetensors"), bert / change)
            (bert / "model.safetensors").unlink()
            words.append("--overwrite")
        run_script("data_augmentation.py", *words)
        calls = [[word for word in words if word != "--overwrite"], [*words[:8], "--p", "0.3"]]
        finished, other = call("data_augmentation.py", calls, tmp_path)
        assert finished[0] == 0 and "is finished, nothing to do" in finished[1]
        assert other[0] == 2 and "p 0.4, now 0.3" in other[1]


def test_exported_models_are_timed_without_transformers():
    code = (
        "import sys, rosita.deploy.latency\n"
        f"print([name for name in {HEAVY[1:]} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n", done.stderr


# What `import rosita.api` loads of the extras' packages, then a run without any of them.
WITHOUT_EXTRAS = """
import sys
from pathlib import Path
from rosita import api
extras = ["tensorboard", "matplotlib", "onnx", "onnxruntime", "onnxscript"]
print([name for name in extras if name in sys.modules])
sys.modules |= dict.fromkeys([*extras, "boto3", "botocore"])
root = Path(sys.argv[1])
bert = api.load(root / "bert", "CoLA", new_classifier=True)
tuned = api.fine_tune(bert, root / "CoLA", root / "tuned", num_train_epochs=1)
api.export(tuned, root / "out", root / "CoLA", formats="hf")
print(len(api.label(root / "tuned", ["the dog ran", "a cat"])))
"""


def test_what_the_extras_bring_is_loaded_where_it_is_used_alone(tmp_path):
    make_bert(tmp_path / "bert")
    write_cola(tmp_path / "CoLA")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, str(tmp_path)], capture_output=True, text=True,
        cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "[]" and lines[-1] == "2"
    assert "tensorboard is not installed" in done.stdout


SERVE = """
import contextlib, io, json, runpy, sys
from importlib.metadata import packages_distributions
script, *words = sys.argv[1:]
sys.argv, sys.stdin, told = [script, *words], io.StringIO("the dog ran"), io.StringIO()
with contextlib.redirect_stdout(told):
    runpy.run_path(script, run_name="__main__")
owners = packages_distributions()
names = {name.split(".")[0] for name in sys.modules}
loaded = {package for name in names for package in owners.get(name, ())}
print(json.dumps([told.getvalue(), sorted(loaded)]))
"""


def required(names: list[str]) -> set[str]:
    """These packages and all that they require, their extras left out."""
    found: set[str] = set()
    while names:
        name = re.match(r"[\w-]+", names.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):  # of another system, or of an older Python
                names += [line for line in requires(name) or () if "extra ==" not in line]
    return found


@pytest.mark.parametrize("form", ["onnx", "int8"])
def test_an_onnx_export_is_served_by_the_packages_of_deploys_requirements_alone(tmp_path, form):
    data, bert = write_cola(tmp_path / "CoLA"), make_bert(tmp_path / "bert")
    model = api.load(bert, "CoLA", new_classifier=True)
    api.export(model, tmp_path / "out", data, formats=form, max_drop=2)

    words = [REPOSITORY / "Deploy" / "predict.py", "--model", tmp_path / "out", "--format", form]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told, loaded = json.loads(done.stdout)

    assert re.fullmatch(r"[01]\t0\.\d{6}\n", told)
    named = (REPOSITORY / "Deploy" / "requirements.txt").read_text().splitlines()
    allowed = required([line for line in named if not line.startswith("#")])
    tools = {"rosita-bert", "pip", "setuptools", "packaging"}  # of this environment
    assert {name.lower().replace("_", "-") for name in loaded} <= allowed | tools
    assert not allowed & {"torch", "transformers"}


def test_where_torch_is_not_installed_an_export_is_served_in_onnx_and_pytorch_refused(tmp_path):
    api.export(api.load(make_bert(tmp_path / "bert"), "CoLA", new_classifier=True),
               tmp_path / "out", write_cola(tmp_path / "CoLA"), max_drop=2)  # fmt: skip
    without = "import sys; sys.modules['torch'] = None\n" + SERVE
    words = [sys.executable, "-c", without, REPOSITORY / "Deploy" / "predict.py", "--model"]
    for form, code, told in (
        ("auto", 0, "0."),
        ("pytorch", 2, "error: torch is not installed, and this needs it: pip install -e .\n"),
    ):
        command = [*map(str, words), str(tmp_path / "out"), "--format", form]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code and told in done.stdout + done.stderr


def test_finished_already_is_said_before_heavy_imports(tmp_path):
    data, tuned, student = write_cola(tmp_path / "CoLA"), tmp_path / "ft", tmp_path / "kd"
    common = ["--task_name", "CoLA", "--data_dir", data, "--num_train_epochs", 1]
    bert = make_bert(tmp_path / "bert")
    for script, folder, flags in (
        ("Pruning/run_glue.py", tuned, ["--do_train", "--model_name_or_path", bert]),
        ("KD/train.py", student,
         ["--teacher_model", tuned, "--student_model", tuned, "--pred_distill", "True"]),
    ):  # fmt: skip
        words = list(map(str, [*common, *flags, "--output_dir", folder]))
        run_script(script, *words)
        [(code, text)] = call(script, [words], tmp_path)
        assert code == 0 and "finished" in text
    (tmp_path / "models").mkdir()
    tuned.rename(tmp_path / "models" / "CoLA")
    words = f"-model_path {tmp_path}/models -task CoLA -output_dir {tmp_path}/cut -keep_heads 4"
    words = f"{words} -num_layers 2 -ffn_hidden_dim 48 -emb_hidden_dim 8".split()
    run_script("Pruning/pruning_one_step.py", *words)
    [(code, text)] = call("Pruning/pruning_one_step.py", [words], tmp_path)
    assert code == 0 and "finished" in text
    other = run_script("Pruning/pruning_one_step.py", *words, "-from_scratch", ok=False)
    assert "holds another run (configs.model" in other.stderr or "parents.model" in other.stderr
    weights = tmp_path / "cut" / "CoLA" / "a4_l2_f48_e8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    [(code, text)] = call("Pruning/pruning_one_step.py", [words], tmp_path)
    assert code == 2 and "model.safetensors has changed since" in text
