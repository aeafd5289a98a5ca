"""Arbitrary bytes and values in every file that a user gives: one line of error, or read rightly.

`pytest --campaign` tries fifty times as many (benchmarks/robustness.md has the last figures).
"""

from __future__ import annotations

import json
import shutil
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_bert, write_cola
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from rosita.checkpoint import load_model
from rosita.config import FineTuneSettings, KDSettings
from rosita.config_file import load_config
from rosita.data.encode import encode_file
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.provenance import read_run, require_finished
from rosita.pruning.importance import load_scores, save_scores, scored_weights
from rosita.tasks import GLUE, Task, find_task
from rosita.tokenizer import read_tokenizer

fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.integers(-3, 20))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def json_objects(keys: list[str]) -> st.SearchStrategy:
    """Objects of a few known keys with arbitrary values, rarely an unknown key."""
    names = st.one_of(st.sampled_from(keys), st.text(string.ascii_letters, max_size=6))
    return st.dictionaries(names, values, max_size=5)


def near(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A good object, up to three of whose values are others of their kind, or arbitrary."""
    change = st.sampled_from(sorted(good)).flatmap(
        lambda key: st.tuples(st.just(key), like(good[key]) | like(good[key]) | values)
    )
    return st.lists(change, max_size=3).map(lambda changes: good | dict(changes))


def like(value: Any) -> st.SearchStrategy:
    """Values that may well do where `value` does."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.integers(1, 40)
        case float():
            return st.floats(0.01, 1)
    return st.just(value)


def settings_near(kind: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """The defaults of all settings and what has none, some of them changed."""
    needed = {"teacher_model": "t", "student_model": "s", "model_name_or_path": "m",
              "output_dir": "o", "pred_distill": True}  # fmt: skip
    fields = kind.model_fields.items()
    return near({name: needed.get(name, field.default) for name, field in fields})


def row_of(task: Task) -> bytes:
    """A good line of a training file."""
    columns = {int(column): "the dog ran" for column in task.text_columns}
    at = int(task.label_column) if task.label_column != -1 else max(columns) + 1
    columns[at] = task.labels[0] if task.labels else "2.5"
    fields = [columns.get(column, "x") for column in range(max(columns) + 1)]
    return ("\t".join(fields) + "\n").encode()


def head_of(task: Task) -> bytes:
    """The header of such a file; none for a task without one."""
    width = row_of(task).count(b"\t") + 1
    return "\t".join(f"column{n}" for n in range(width)).encode() + b"\n" if task.header else b""


def near_tsv(task: Task) -> st.SearchStrategy[bytes]:
    """Good rows of a TSV file, with what may break one among them."""
    row, heads = row_of(task), st.sampled_from([head_of(task), head_of(task), b""])
    odd = st.one_of(
        st.sampled_from([
            b"src\t1\t\tthe dog ran\n", b"src\t0\t\tthe cat\r\n", b"sentence\tlabel\n",
            b"\xef\xbb\xbf", b"\0", b"\xff", b"\n", b"\t", b"\r", b" \n", b"\xc2\x85", b"'",
            b"a\tb\tc\td\te\tf\n",
            b"\xe2\x80\xa8", b"unknown\t1\n", b"entailment\n",
        ]),
        st.binary(max_size=12),
        st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )  # fmt: skip
    some = st.integers(0, 4)
    return st.tuples(heads, some, st.lists(odd, max_size=4), some).map(
        lambda parts: parts[0] + row * parts[1] + b"".join(parts[2]) + row * parts[3]
    )


@pytest.fixture
def outcomes():
    """Counts what a test's examples came to: a tenth at least is taken, and a tenth refused.

    A test that refuses everything would pass whatever happens to what is taken.
    """
    found: Counter[str] = Counter()
    yield found
    for outcome in ("taken", "refused"):
        assert found[outcome] >= 0.1 * found.total(), found


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    make_bert(root / "bert")
    write_cola(root / "CoLA")
    return root


@fuzz
@given(
    case=st.sampled_from(sorted(GLUE)).flatmap(
        lambda name: st.tuples(st.just(name), near_tsv(GLUE[name]))
    ),
    labelled=st.booleans(),
)
def test_any_bytes_as_tsv_are_read_as_written_or_refused_in_one_line(
    home, outcomes, case, labelled
):
    name, content = case
    path = home / "fuzz.tsv"
    path.write_bytes(content)
    try:
        rows = list(TsvFile(path, GLUE[name], labelled=labelled).rows())
    except RositaError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error).strip()
        outcomes["refused"] += 1
        return
    outcomes["taken" if rows else "empty"] += 1
    # independently: fields joined by tabs are lines of the file, byte for byte
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for row in rows:
        assert "\t".join(row.fields).encode() == lines[row.line - 1].rstrip(b"\r\n")


@fuzz
@given(content=near_tsv(GLUE["CoLA"]))
def test_any_bytes_as_training_data_are_encoded_or_refused(home, outcomes, content):
    path = home / "encode" / "train.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    tokenizer = read_tokenizer(home / "bert")
    try:
        file = encode_file(path, GLUE["CoLA"], tokenizer, 16, cache_dir=home / "cache")
    except RositaError:
        assert not list((home / "cache").glob(".new-*"))  # nothing half-written
        outcomes["refused"] += 1
        return
    outcomes["taken"] += 1
    assert len(file) >= 1
    assert file.lengths().max() <= 16
    shutil.rmtree(file.cache)


@fuzz
@given(
    case=st.sampled_from([KDSettings, FineTuneSettings]).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.dictionaries(
                st.sampled_from(["default", "default", "CoLA", "cola", "SST-2"]),
                st.one_of(
                    *[settings_near(kind)] * 4, json_objects(sorted(kind.model_fields)), values
                ),
                min_size=1,
                max_size=2,
            ),
        )
    ),
    flags=st.dictionaries(
        st.sampled_from(sorted(KDSettings.model_fields.keys() & FineTuneSettings.model_fields)),
        st.one_of(
            st.text(max_size=6), st.sampled_from(["1", "-1", "nan", "1e999", "True", "none"])
        ),
        max_size=1,
    ),
)
def test_any_json_as_settings_is_taken_within_its_limits_or_refused(home, outcomes, case, flags):
    kind, sections = case
    path = home / "config.json"
    path.write_text(json.dumps(sections))
    try:
        made = load_config(kind, GLUE["CoLA"], flags, path)
    except RositaError:
        outcomes["refused"] += 1
        return
    outcomes["taken"] += 1
    assert made.learning_rate > 0
    assert made.seed >= 0


@fuzz
@given(content=st.one_of(st.binary(max_size=60), st.text("{}[]:,\"'0123e-. \n", max_size=40)))
def test_any_bytes_as_json_are_refused_by_line_and_column(home, content):
    path = home / "bytes.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (
        lambda: load_config(KDSettings, GLUE["CoLA"], {}, path),
        lambda: find_task(str(path)),
    ):
        with pytest.raises(RositaError):
            read()


@fuzz
@given(
    value=st.one_of(
        near(GLUE["SST-2"].model_dump() | {"name": "Mood"}),
        json_objects(sorted(Task.model_fields)),
        values,
    )
)
def test_any_json_as_a_task_is_a_task_or_refused(home, outcomes, value):
    path = home / "task.json"
    path.write_text(json.dumps(value))
    try:
        assert isinstance(find_task(str(path)), Task)
        outcomes["taken"] += 1
    except RositaError as error:
        assert str(path) in str(error)
        outcomes["refused"] += 1


CONFIG_KEYS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act"
    " hidden_dropout_prob max_position_embeddings type_vocab_size layer_norm_eps pad_token_id"
    " classifier_dropout prun_hidden_size prun_intermediate_size emb_hidden_dim id2label model_type"
    " classifier_activation architectures"
).split()


@fuzz
@given(changes=json_objects(CONFIG_KEYS))
def test_any_config_of_a_model_opens_or_is_refused(home, outcomes, changes):
    folder = home / "opened"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "bert", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    try:
        load_model(folder, GLUE["CoLA"], new_classifier=True)
        outcomes["taken"] += 1
    except RositaError as error:
        assert str(folder) in str(error)
        outcomes["refused"] += 1


@fuzz
@given(
    run=st.one_of(
        near({"finished": True, "task": "CoLA", "stage": "s", "identity": {}, "model": "m"}),
        json_objects("finished task stage identity model".split()),
        values,
    )
)
def test_any_run_json_is_taken_or_refused(home, outcomes, run):
    folder = home / "run"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    try:
        require_finished(folder, "CoLA", "advice")
        read_run(folder)
        outcomes["taken"] += 1
    except RositaError as error:
        assert str(folder) in str(error)
        outcomes["refused"] += 1


@fuzz
@given(
    what=st.sampled_from(["model.safetensors", "taylor.pkl"]),
    cut=st.integers(0, 200_000),
    flips=st.just([])
    | st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 255)), max_size=4),
)
def test_altered_weights_and_scores_are_refused_or_read_as_numbers(
    home, outcomes, what, cut, flips
):
    folder = home / "altered"
    if not folder.exists():
        shutil.copytree(home / "bert", folder)
        model = load_model(folder, GLUE["CoLA"], new_classifier=True)
        save_scores(folder / "taylor.pkl", {n: w.abs() for n, w in scored_weights(model).items()})
        for name in ("model.safetensors", "taylor.pkl"):
            shutil.copy(folder / name, home / name)
    content = bytearray((home / what).read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    (folder / what).write_bytes(content[: cut % (len(content) + 1)] if cut % 2 else content)
    try:
        model = load_model(folder, GLUE["CoLA"], new_classifier=True)
        scores = load_scores(folder / "taylor.pkl", model)
    except RositaError as error:
        assert str(folder) in str(error)
        outcomes["refused"] += 1
    else:
        outcomes["taken"] += 1
        assert all(torch.isfinite(value).all() for value in scores.values())
    finally:
        shutil.copy(home / what, folder / what)


@fuzz
@given(value=values)
def test_any_object_as_scores_is_refused(home, value):
    path = home / "object.pkl"
    torch.save(value, path)
    model = load_model(home / "bert", GLUE["CoLA"], new_classifier=True)
    with pytest.raises(RositaError):
        load_scores(path, model)
