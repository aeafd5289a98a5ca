"""A task's table in any format gives the rows that its TSV gives; faults name file and line."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import make_bert

from rosita.data.encode import encode_file
from rosita.data.records import content_hash, open_table
from rosita.errors import RositaError
from rosita.tasks import Task
from rosita.tokenizer import read_tokenizer

TASK = Task(name="Mood", labels=("sad", "glad"), metric="accuracy", text_columns=("a", "b"),
            label_column="mood")  # fmt: skip
REGRESSION = {"labels": None, "metric": "pearson_and_spearman"}
RECORDS = [
    {"id": 7, "a": 'he said "no", twice', "b": "the dog ran", "mood": "sad"},
    {"id": 8, "a": "a cat sings\nall day", "b": "slowly", "mood": "glad"},
    {"id": 9, "a": "dinner, at\tsix", "b": "häppy", "mood": "glad"},
]
QUOTED = """id,a,b,mood
7,"he said ""no"", twice",the dog ran,sad
8,"a cat sings
all day",slowly,glad
9,"dinner, at\tsix",häppy,glad
"""


def save_dataset(folder):
    """As datasets' save_to_disk writes a split whose label is a number with a name."""
    folder.mkdir()
    table = pa.Table.from_pylist([{**r, "mood": TASK.labels.index(r["mood"])} for r in RECORDS])
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_indices_files": None}))
    features = {"a": {"dtype": "string"}, "mood": {"names": list(TASK.labels)}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    (folder / "t.csv").write_text(QUOTED, encoding="utf-8")
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    (folder / "t.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pa.parquet.write_table(pa.Table.from_pylist(RECORDS), folder / "t.parquet")
    save_dataset(folder / "train")
    return folder


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "train"])
def test_every_format_gives_the_same_texts_and_labels(folder, name):
    table = open_table(folder / name, TASK)
    rows = list(table.rows())
    assert [row.texts for row in rows] == [(r["a"], r["b"]) for r in RECORDS]
    assert [row.label for row in rows] == ["sad", "glad", "glad"]
    assert table.header == "id\ta\tb\tmood"
    assert rows[2].fields[:3] == ["9", "dinner, at six", "häppy"]  # fit for a line of a .tsv
    unlabelled = next(open_table(folder / name, TASK, labelled=False).rows())
    assert unlabelled.label is None


@pytest.mark.parametrize("name", ["t.csv", "train"])
def test_token_ids_are_those_of_the_texts_and_a_changed_file_has_another_hash(
    folder, name, tmp_path
):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    data = encode_file(folder / name, TASK, tokenizer, 32, cache_dir=tmp_path / "cache")
    expected = [tokenizer.build().encode(r["a"], r["b"]).ids for r in RECORDS]
    assert [
        data.ids[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)
    ] == expected
    np.testing.assert_array_equal(data.labels, [0, 1, 1])
    assert data.sha256 == content_hash(folder / name) != content_hash(folder / "t.jsonl")


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "t.csv",
            "a,b,mood\nx,y,sad\nx,y,z,sad\n",
            "line 3: 4 columns, but the header has 3",
        ),
        ("t.csv", "a,b,mood\n", "t.csv has no rows"),
        ("t.csv", "a,b,a\nx,y,z\n", "t.csv has the column 'a' twice"),
        ("t.csv", "a,text,mood\nx,y,sad\n", "t.csv has no column 'b'; it has"),
        ("t.csv", "", "t.csv has no rows"),
        # a quote left open would take all that follows into one text
        ("t.csv", 'mood,a,b\nsad,x,y\nglad,x,"y\nsad,x,y\n', "t.csv line 3: not csv: unexpected"),
        ("t.csv", 'a,b,mood\n"x" y,z,sad\n', "t.csv line 2: not csv: "),
        (
            "t.jsonl",
            '{"a": "x", "b": "y", "mood": "sad"}\n{"a": "x"}\n',
            "line 2 has no 'b'",
        ),
        ("t.jsonl", '{"a": null, "b": "y", "mood": "sad"}\n', "line 1: 'a' is None, but a text"),
        ("t.jsonl", '{"a": ["x"], "b": "y", "mood": "sad"}\n', "line 1: 'a' is ['x'], but a text"),
        ("t.jsonl", "{\n", "t.jsonl line 1 is not JSON"),
        ("t.jsonl", "[1]\n", "t.jsonl line 1 is no JSON object"),
        ("t.jsonl", '{"a": "x\\uD83D", "b": "y", "mood": "sad"}\n', "line 1 has half a character"),
        ("t.jsonl", '{"a": NaN, "b": "y", "mood": "sad"}\n', "line 1: 'a' is nan, but a text"),
        ("t.parquet", "PAR1", "t.parquet cannot be read as Parquet"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RositaError) as caught:
        list(open_table(tmp_path / name, TASK).rows())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content, labelled, changes",
    [
        ("the dog ran,1.5\na cat,2\n", True, REGRESSION),
        ("the dog ran,2.5\na cat,2\n", False, REGRESSION | {"header": False}),
        ('the dog ran,"sad,glad"\na cat,sad\n', True, {"multi_label": True}),
        ("0,the dog ran\n1,a cat\n", False, {"text_columns": (1,)}),
        ("the dog ran,sad\na cat,glad\n", False, {"header": False}),
    ],
)
def test_the_first_row_of_a_csv_without_a_header_is_never_lost(
    tmp_path, content, labelled, changes
):
    by_number = TASK.model_copy(update={"text_columns": (0,), "label_column": 1} | changes)
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(RositaError, match="put the names of the columns before it"):
        list(open_table(tmp_path / "t.csv", by_number, labelled=labelled).rows())
    if "header" not in changes:
        (tmp_path / "t.csv").write_text("x,y\n" + content)
        assert len(list(open_table(tmp_path / "t.csv", by_number, labelled=labelled).rows())) == 2


def test_a_number_names_a_column_of_a_csv_whose_texts_have_no_labels(tmp_path):
    (tmp_path / "t.csv").write_text("0\nthe dog ran\n")  # as pandas writes a list of texts
    named = TASK.model_copy(update={"text_columns": ("0",)})
    (row,) = open_table(tmp_path / "t.csv", named, labelled=False).rows()
    assert row.texts == ("the dog ran",)


def test_the_rows_of_an_augmented_file_have_a_header_only_if_the_tasks_files_have_one(folder):
    assert open_table(folder / "t.jsonl", TASK).header == "id\ta\tb\tmood"
    bare = TASK.model_copy(update={"header": False, "text_columns": (1, 2), "label_column": 3})
    assert open_table(folder / "t.jsonl", bare).header is None
    assert len(list(open_table(folder / "t.jsonl", bare).rows())) == len(RECORDS)


def test_the_name_of_a_table_in_capitals_tells_its_format_too(folder, tmp_path):
    shutil.copy(folder / "t.csv", tmp_path / "T.CSV")
    rows = list(open_table(tmp_path / "T.CSV", TASK).rows())
    assert [row.texts for row in rows] == [(r["a"], r["b"]) for r in RECORDS]


def test_a_parquet_file_that_has_a_column_twice_is_refused(tmp_path):
    columns = [pa.array(["x"]), pa.array(["y"]), pa.array(["z"]), pa.array(["sad"])]
    pa.parquet.write_table(pa.table(columns, names=["a", "b", "a", "mood"]), tmp_path / "t.parquet")
    with pytest.raises(RositaError, match="t.parquet has the column 'a' twice"):
        list(open_table(tmp_path / "t.parquet", TASK).rows())


@pytest.mark.parametrize("state", ["{}", "[]", '{"_data_files": [1]}'])
def test_a_split_whose_state_names_no_files_is_refused_in_one_line(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(RositaError, match="state.json (names no data files|must hold one JSON)"):
        list(open_table(tmp_path, TASK).rows())


def test_a_folder_that_is_no_split_names_the_splits_in_it(folder):
    with pytest.raises(RositaError, match=r"no state.json\); name one of its splits: train"):
        list(open_table(folder, TASK).rows())


@pytest.mark.parametrize(
    "labels, classes, told",
    [
        (("sad", "glad"), ["sad", "glad"], ["glad", "sad"]),
        (("glad", "sad"), ["sad", "glad", "unused"], ["glad", "sad"]),
        (("0", "1", "2"), ["1", "2", "3"], ["1", "0"]),  # else 0 would be 1, and 1 be 2
        (("0", "1"), ["sad", "glad"], ["1", "0"]),
    ],
)
def test_class_numbers_are_all_names_of_labels_or_all_the_labels_themselves(
    tmp_path, labels, classes, told
):
    save_dataset(tmp_path / "train")
    features = {
        "mood": {"names": classes, "_type": "ClassLabel"},
        "tags": [{"names": classes}],  # a list, as older and as newer versions write it
        "more": {"feature": {"dtype": "string"}, "_type": "List"},
    }
    (tmp_path / "train" / "dataset_info.json").write_text(json.dumps({"features": features}))
    table = pa.Table.from_pylist([{"a": "x", "b": "y", "mood": number} for number in (1, 0)])
    with pa.ipc.new_stream(
        tmp_path / "train" / "data-00000-of-00001.arrow", table.schema
    ) as stream:
        stream.write_table(table)
    task = TASK.model_copy(update={"labels": labels})
    assert [row.label for row in open_table(tmp_path / "train", task).rows()] == told


def test_rows_for_an_augmented_file_have_the_label_that_was_read(folder, tmp_path):
    rows = list(open_table(folder / "train", TASK).rows())
    assert [row.fields[3] for row in rows] == ["sad", "glad", "glad"]
    several = TASK.model_copy(update={"multi_label": True, "text_columns": ("a",)})
    line = '{"a": "x", "mood": ["sad", "glad"]}\n'
    (tmp_path / "t.jsonl").write_text(line)
    (row,) = open_table(tmp_path / "t.jsonl", several).rows()
    assert row.fields == ["x", "sad,glad"] and row.label == "sad,glad"


def test_the_same_bytes_in_another_format_are_encoded_anew(tmp_path):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    task = Task(name="One", labels=("sad", "glad"), metric="accuracy", text_columns=("a",))
    content = 'a\n"the dog\nran"\n'
    counts = {}
    for name in ("t.tsv", "t.csv"):
        (tmp_path / name).write_text(content)
        counts[name] = len(encode_file(tmp_path / name, task, tokenizer, 32, labelled=False))
    assert counts == {"t.tsv": 2, "t.csv": 1}
