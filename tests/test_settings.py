"""Every setting and every flag is read by something, or says itself that it is not needed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
import torch
from conftest import REPOSITORY, load_script, make_bert, stage, write_cola

from rosita.config import FineTuneSettings, KDSettings
from rosita.errors import RositaError
from rosita.evaluation import EVAL_TOKENS_PER_ROW
from rosita.model import RositaForSequenceClassification

SettingsOfTest = load_script("KD/test.py").TestSettings
ExportSettings = load_script("Deploy/export.py").ExportSettings
LOOP = ["rosita/runtime.py"] + [
    str(path.relative_to(REPOSITORY))
    for wing in ("stages", "training")
    for path in sorted((REPOSITORY / "rosita" / wing).glob("*.py"))
]
READERS = {  # the files that handle the settings of each kind
    FineTuneSettings: ["Pruning/run_glue.py", *LOOP, "rosita/config.py"],
    KDSettings: ["KD/train.py", *LOOP, "rosita/config.py"],
    SettingsOfTest: ["KD/test.py", "rosita/stages/test.py"],
    ExportSettings: ["Deploy/export.py", "rosita/stages/export.py"],
}
NOT_NEEDED = {  # old command lines have them; their help says why nothing reads them
    "FineTuneSettings.overwrite_cache", "TestSettings.seed",
}  # fmt: skip


def reads(tree: ast.AST, kind: str) -> Iterator[str]:
    """Names that code takes from settings of this kind: settings.NAME, or flags.pop("NAME").

    In a settings class its properties read, but not its validator: that uses nothing. A property of
    the settings that every loop has is read by all of them.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
            if node.name in (kind, "LoopSettings"):
                yield from (name for name in properties(node))
        elif isinstance(node, ast.FunctionDef) and not takes(node, kind):
            continue
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("settings"):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("flags.pop", "flags.get"):
            yield ast.literal_eval(node.args[0])
        else:
            yield from reads(node, kind)


def properties(settings: ast.ClassDef) -> Iterator[str]:
    for node in settings.body:
        if isinstance(node, ast.FunctionDef) and "property" in map(
            ast.unparse, node.decorator_list
        ):
            names = [part for part in ast.walk(node) if isinstance(part, ast.Attribute)]
            yield from (name.attr for name in names if ast.unparse(name.value) == "self")


def takes(function: ast.FunctionDef, kind: str) -> bool:
    """Whether the settings that a function has a parameter for can be of this kind."""
    for argument in [*function.args.args, *function.args.kwonlyargs]:
        if argument.arg == "settings" and argument.annotation:
            return ast.unparse(argument.annotation) in (
                kind,
                "LoopSettings",
                "TestSettings",
                "BaseModel",
            )
    return True


def unread(kind: type) -> list[str]:
    trees = [ast.parse((REPOSITORY / name).read_text()) for name in READERS[kind]]
    known = {name for tree in trees for name in reads(tree, kind.__name__)}
    return [name for name in kind.model_fields if name not in known]


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
def test_every_setting_is_read_by_something_or_says_that_it_is_not_needed(kind):
    found = {f"{kind.__name__}.{name}" for name in unread(kind)}
    assert found == {name for name in NOT_NEEDED if name.startswith(f"{kind.__name__}.")}
    for name in found:
        text = kind.model_fields[name.split(".")[1]].description
        assert re.match(r"accepted and not needed: \w+", text), name


def test_a_setting_that_nothing_reads_would_be_noticed():
    source = "def f(settings: KDSettings):\n    return settings.one + self.plan.settings.two"
    assert set(reads(ast.parse(source), "KDSettings")) == {"one", "two"}
    assert set(reads(ast.parse(source), "FineTuneSettings")) == set()


SCRIPTS = [
    path.relative_to(REPOSITORY)
    for pattern in ("*.py", "KD/*.py", "Pruning/*.py", "Deploy/*.py", "data/*.py")
    for path in sorted(REPOSITORY.glob(pattern))
    if "ArgumentParser(" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_flag_of_a_script_is_read_by_it(script):
    tree = ast.parse((REPOSITORY / script).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    flags = {
        str(call.args[-1].value).lstrip("-")  # of -d, --data_dir the last one names the attribute
        for call in calls
        if ast.unparse(call.func) in ("parser.add_argument", "add", "group.add_argument")
        and isinstance(call.args[-1], ast.Constant)
    }
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= set(reads(tree, ""))
    assert flags and flags - used == set()


def watch_batches(monkeypatch) -> list[int]:
    """Padded tokens of every batch that a model gets from now on while it evaluates."""
    seen = []
    forward = RositaForSequenceClassification.forward

    def watched(self, input_ids, *args, **kwargs):
        if not self.training and torch.is_inference_mode_enabled():
            seen.append(input_ids.numel())
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(RositaForSequenceClassification, "forward", watched)
    return seen


def test_the_batch_size_of_evaluation_reaches_the_model_in_every_script(tmp_path, monkeypatch):
    fine_tune, distil, evaluate = map(stage, ("Pruning/run_glue.py", "KD/train.py", "KD/test.py"))
    data = write_cola(tmp_path / "data", train=8, dev=300, test=300)
    common = ("--task_name", "CoLA", "--data_dir", data, "--max_seq_length", 32)
    tuned = tmp_path / "tuned"
    fine_tune(*common, "--model_name_or_path", make_bert(tmp_path / "bert"), "--do_train",
              "--max_steps", 1, "--output_dir", tuned)  # fmt: skip
    seen = watch_batches(monkeypatch)

    def most(script, *flags) -> int:
        seen.clear()
        script(*common, *flags)
        return max(seen)

    both = ("--do_eval", "--do_predict")
    distilling = ("--teacher_model", tuned, "--student_model", tuned, "--pred_distill",
                  "--max_steps", 1, "--output_dir", tmp_path / "kd", "--overwrite_output_dir",
                  "--no_cuda")  # fmt: skip
    for script, flag, flags in (
        (evaluate, "--eval_batch_size", ("--student_model", tuned, *both)),
        (fine_tune, "--per_gpu_eval_batch_size", ("--model_name_or_path", tuned, *both)),
        (distil, "--eval_batch_size", distilling),
    ):
        small, large = (most(script, *flags, flag, rows) for rows in (1, 9))
        assert 16 < small <= EVAL_TOKENS_PER_ROW < large <= 9 * EVAL_TOKENS_PER_ROW, flag


def test_a_submission_without_predictions_is_refused(tmp_path):
    asked = ("--task_name", "CoLA", "--student_model", tmp_path, "--do_eval")
    with pytest.raises(
        RositaError, match="--submission_dir collects predictions: add --do_predict"
    ):
        stage("KD/test.py")(*asked, "--submission_dir", tmp_path / "submission")
