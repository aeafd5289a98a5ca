"""Texts read from lines and tables: a row for each that the input has, in its order."""

from __future__ import annotations

import csv
import io
import json

import pytest

from rosita.data.tsv import TsvFile
from rosita.deploy.texts import open_input, read_texts
from rosita.errors import RositaError
from rosita.tasks import Task

TEXTS = ["the dog ran", "", 'he "reads" it, red', "  ", "", "a", ""]


def read(content, form, *columns):
    return list(read_texts(io.StringIO(content, newline=""), "in", form, list(columns) or None))


@pytest.mark.parametrize("form", ["text", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_blank_line_is_an_empty_text_so_that_what_is_written_aligns(form, end):
    content = "".join(text + end for text in TEXTS)
    assert read(content, form) == [(text,) for text in TEXTS]
    if form == "tsv":
        assert read(f"text{end}{content}", form, "text") == [(text,) for text in TEXTS]


@pytest.mark.parametrize("form", ["text", "tsv"])
def test_a_line_ends_where_the_lines_of_a_training_file_do(tmp_path, form):
    path = tmp_path / "in.tsv"
    path.write_bytes("a\rb\n\rc\nd\v\fe\x1cf\x85\u2028g\r\nh\r\r\ni".encode())
    task = Task(name="Mood", labels=("a", "b"), metric="accuracy", text_columns=(0,), header=False)
    trained = [row.texts for row in TsvFile(path, task, labelled=False).rows()]
    assert len(trained) == 5
    with open_input(str(path), form) as file:
        assert list(read_texts(file, str(path), form)) == trained


def test_a_field_of_a_tsv_is_as_long_as_training_takes_it():
    assert read("text\n" + "x " * 100_000, "tsv", "text") == [("x " * 100_000,)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_blank_line_of_a_csv_of_one_column_is_an_empty_text_beside_texts_of_many_lines(end):
    texts = ["x", "a\nb", "", "", "c\r\nd\re", "", "f, g"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end)
    for text in texts:
        writer.writerow([text]) if text else file.write(end)
    assert read(file.getvalue(), "csv", "0") == [(text,) for text in texts]


def test_a_table_as_its_writer_wrote_it_is_read_whole():
    rows = [("a\nb", "", "x, y"), ("", "", ""), ('"', "c\r\n", "d")]
    file = io.StringIO()
    csv.writer(file).writerows([("n", "one", "two"), *rows])
    assert read(file.getvalue(), "csv", "two", "n") == [(row[2], row[0]) for row in rows]
    assert read(file.getvalue(), "csv", "0") == [("n",), *((row[0],) for row in rows)]


@pytest.mark.parametrize("form, mark", [("tsv", "\t"), ("csv", ",")])
def test_blank_lines_at_the_end_of_a_table_are_passed_over(form, mark):
    assert read(f"n{mark}text\n1{mark}x\n\n\n", form, "text") == [("x",)]


@pytest.mark.parametrize("form, mark", [("tsv", "\t"), ("csv", ",")])
def test_blank_lines_before_a_header_are_passed_over_and_before_rows_are_told(form, mark):
    assert read(f"\n\nn{mark}text\n1{mark}x\n", form, "text") == [("x",)]
    with pytest.raises(RositaError, match="in line 1 is blank; remove it"):
        read(f"\n1{mark}x\n", form, "0")


def test_a_blank_line_within_jsonl_is_told_and_at_its_end_passed_over():
    row = '{"text": "x"}\n'
    assert read(f"{row}{row}\n\n", "jsonl", "text") == [("x",), ("x",)]
    with pytest.raises(RositaError, match="in line 2 is blank; remove it"):
        read(f"{row}\n{row}", "jsonl", "text")


def test_numbers_and_booleans_of_json_are_the_texts_that_training_reads():
    values = {"x": "x", "1": 1, "1.5": 1.5, "true": True, "": ""}
    content = "".join(json.dumps({"text": value}) + "\n" for value in values.values())
    assert read(content, "jsonl", "text") == [(text,) for text in values]
