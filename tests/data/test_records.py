"""A task's table in any format gives the rows that its TSV gives; faults name file and line."""

import json

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
        ("t.parquet", "PAR1", "t.parquet cannot be read as Parquet"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RositaError) as caught:
        list(open_table(tmp_path / name, TASK).rows())
    assert message in str(caught.value)


def test_a_folder_that_is_no_split_names_the_splits_in_it(folder):
    with pytest.raises(RositaError, match=r"no state.json\); name one of its splits: train"):
        list(open_table(folder, TASK).rows())
