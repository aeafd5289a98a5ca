import csv
import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, make_bert, run_script, write_cola

from rosita.checkpoint import load_model
from rosita.deploy.labelling import Answer
from rosita.errors import RositaError
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer

sys.path.insert(0, str(REPOSITORY / "Deploy"))
import predict  # noqa: E402

TEXTS = ["the dog ran", "a cat sings happy songs slowly and never", "she", 'he "reads" it, red']


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A tuned model, and its export in all formats."""
    root = tmp_path_factory.mktemp("predict")
    data = write_cola(root / "CoLA")
    run_script("Pruning/run_glue.py", "--model_name_or_path", make_bert(root / "bert"),
               "--do_train", "--output_dir", root / "ft", "--task_name", "CoLA", "--data_dir",
               data, "--learning_rate", 1e-3)  # fmt: skip
    run_script("Deploy/export.py", "--model", root / "ft", "--output_dir", root / "out",
               "--data_dir", data, "--max_drop", 2)  # fmt: skip
    return root / "out"


def probabilities(folder, texts):
    """The oracle: one sentence at a time, unpadded."""
    model, tokenizer = load_model(folder, GLUE["CoLA"]).eval(), read_tokenizer(folder).build()
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([tokenizer.encode(text).ids])).logits.softmax(-1)[0]
            for text in texts
        ]


def check(lines, folder, texts=TEXTS, tolerance=1e-4):
    assert len(lines) == len(texts)
    for (label, probability), expected in zip(lines, probabilities(folder, texts), strict=True):
        assert float(probability) == pytest.approx(expected[int(label)].item(), abs=tolerance)
        assert expected[int(label)] >= 0.5 - tolerance


def test_lines_from_stdin_get_the_models_label_and_probability_in_order(export):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "Deploy" / "predict.py", "--model", export],
        input="\n".join(TEXTS), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check([line.split("\t") for line in done.stdout.splitlines()], export)


@pytest.mark.parametrize("name", ["-", "in.txt", "in.tsv"])
def test_a_lone_carriage_return_ends_no_line_of_stdin_or_of_a_file(export, tmp_path, name):
    content = "the dog\rran\r\nshe\n"
    path = "-" if name == "-" else tmp_path / name
    if path != "-":
        path.write_bytes(content.encode())
    done = subprocess.run(
        [sys.executable, REPOSITORY / "Deploy" / "predict.py", "--model", export, "--input", path],
        input=content, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check([line.split("\t") for line in done.stdout.splitlines()], export, ["the dog ran", "she"])


@pytest.mark.parametrize(
    "closed, told",
    [
        ("<&-", "stdin is closed: give --input FILE"),
        (">&-", "stdout is closed: give --output FILE"),
    ],
)
def test_a_closed_stdin_or_stdout_is_one_line(export, closed, told):
    command = f'printf "she\\n" | ("$0" "$1" --model "$2" {closed})'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, REPOSITORY / "Deploy" / "predict.py", export],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {told}\n")


@pytest.mark.parametrize("form, tolerance", [("pytorch", 1e-4), ("onnx", 1e-4), ("int8", 0.1)])
def test_every_format_gives_the_labels_of_the_model(export, tmp_path, capsys, form, tolerance):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    predict.main(["--model", str(export), "--format", form, "--input", str(tmp_path / "in.txt")])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    check(lines, export, tolerance=tolerance)


@pytest.mark.parametrize("name, flags", [("labels.csv", []), ("x", ["--output_format", "csv"])])
def test_labels_are_written_as_csv_where_the_name_or_a_flag_says_so(export, tmp_path, name, flags):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    predict.main(["--model", str(export), "--input", str(tmp_path / "in.txt"),
                  "--output", str(tmp_path / name), *flags])  # fmt: skip
    with open(tmp_path / name, encoding="utf-8", newline="") as file:
        check(list(csv.reader(file)), export)


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_columns_of_tables_are_read_by_name_and_labels_written_whole(
    export, tmp_path, capsys, form
):
    path, output = tmp_path / f"in.{form}", tmp_path / "out.jsonl"
    if form == "jsonl":
        path.write_text("".join(json.dumps({"n": 1, "text": text}) + "\n" for text in TEXTS))
    elif form == "tsv":
        path.write_text("n\ttext\n" + "".join(f"1\t{text}\n" for text in TEXTS))
    else:
        quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
        path.write_text("n,text\n" + "".join(f"1,{text}\n" for text in quoted))
    predict.main(["--model", str(export), "--input", str(path), "--text_columns", "text",
                  "--output", str(output)])  # fmt: skip
    assert f"4 labels are in {output}" in capsys.readouterr().out
    found = [json.loads(line) for line in output.read_text().splitlines()]
    check([(one["label"], one["probability"]) for one in found], export)


@pytest.mark.parametrize(
    "name, content, flags, words",
    [
        ("a.tsv", "n\ttext\n1\tx\n", ["--text_columns", "texd"], "did you mean 'text'"),
        ("a.tsv", "n\ttext\n1\n", ["--text_columns", "text"], "line 2: 1 columns, but column 2"),
        ("a.jsonl", '{"text": 1}\n{\n', ["--text_columns", "text"], "line 2 is not JSON"),
        ("a.csv", "text\n" + "x" * 200_000, ["--text_columns", "text"], "field larger than"),
        ("a.jsonl", "[1]\n", ["--text_columns", "text"], "line 1 is no JSON object"),
        ("a.jsonl", '{"text": null}\n', ["--text_columns", "text"], "line 1: 'text' is None, but"),
        ("a.jsonl", '{"text": ["x"]}\n', ["--text_columns", "text"], "'text' is ['x'], but a text"),
        ("a.jsonl", '{"texd": "x"}\n', ["--text_columns", "text"], "did you mean 'texd'"),
        (
            "a.csv",
            "n,text\n1,x\n2,the dog, and the cat\n",
            ["--text_columns", "text"],
            "line 3: 3 columns, but the first row has 2; put quotes around a text with a comma",
        ),
        ("a.csv", "the dog\nthe dog, and the cat\n", [], "line 2: 2 columns, but the first row"),
        ("a.csv", "n,text\n1\n", ["--text_columns", "n"], "line 2: 1 columns, but the first row"),
        ("a.tsv", "n\ttext\n1\tx\ty\n", ["--text_columns", "text"], "take the tabs out"),
        ("a.tsv", "n\ttext\n1\tx\n\n2\ty\n", ["--text_columns", "text"], "line 3 is blank; rem"),
        ("a.csv", 'n,text\n1,"x\ny"\n\n2,y\n', ["--text_columns", "text"], "line 4 is blank; rem"),
        ("a.csv", "text,text\nx,y\n", ["--text_columns", "text"], "has the column 'text' twice"),
        ("a.txt", "text\nx\n", ["--text_columns", "text"], "add --input_format tsv, csv or jsonl"),
        ("a", "n\ttext\n1\tx\n", ["--text_columns", "0"], "add --input_format tsv, csv or jsonl"),
        ("a.tsv", "a\tb\tc\n", ["--text_columns", "a,b,c"], "takes one column, or two"),
        ("a.txt", "", [], "holds no text"),
        ("a.txt", "x\n", ["--max_seq_length", "999"], "the model has 64 positions"),
        ("a.txt", b"\xff\n", [], "is not UTF-8"),
    ],
)
def test_a_fault_of_the_input_is_one_line_and_writes_nothing(
    export, tmp_path, name, content, flags, words
):
    path, output = tmp_path / name, tmp_path / "labels.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RositaError) as error:
        predict.main(
            ["--model", str(export), "--input", str(path), "--output", str(output), *flags]
        )
    assert words in str(error.value)
    assert not output.exists()


@pytest.mark.parametrize(
    "texts, name, flags, words",
    [
        (2, "a.txt", [], "labels pairs: give a table: --input_format tsv --text_columns 0,1 reads"),
        (2, "a.tsv", [], "labels pairs: --text_columns A,B names the columns of the two"),
        (2, "a.tsv", ["--text_columns", "0"], "labels pairs: --text_columns A,B names"),
        (1, "a.tsv", ["--text_columns", "0,1"], "labels one text a row: give --text_columns one"),
    ],
)
def test_rows_of_other_texts_than_the_models_are_refused_with_the_flags_to_type(
    export, tmp_path, texts, name, flags, words
):
    folder = shutil.copytree(export, tmp_path / "model")
    record = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(record | {"texts": texts}))
    (tmp_path / name).write_text("the dog ran\ta cat\nshe\the\n")
    output = tmp_path / "labels.tsv"
    asked = ["--model", str(folder), "--input", str(tmp_path / name), "--output", str(output)]
    with pytest.raises(RositaError) as error:
        predict.main([*asked, *flags])
    assert words in str(error.value) and not output.exists()
    columns = ["--input_format", "tsv", "--text_columns", "0,1" if texts == 2 else "0"]
    predict.main([*asked, *columns])  # as the words say
    assert len(output.read_text().splitlines()) == 2


def test_a_label_cannot_break_out_of_its_column():
    line = Answer("a\tb\nc\x1b[2J", 0.5).as_tsv()
    assert line == "a b c [2J\t0.500000"
    (fields,) = csv.reader([Answer('a,"b"\nc', 0.5).as_csv()])
    assert fields == ['a,"b" c', "0.500000"]
    assert Answer(3.14159, None).as_csv() == "3.1416"
