"""A run that is hardly meant says so in one line, and a run that is not says nothing."""

import pytest
from conftest import make_bert, write_cola

from rosita.config import FineTuneSettings
from rosita.model import RositaConfig
from rosita.runtime import start_accelerator
from rosita.stages.inputs import load_data
from rosita.tasks import GLUE, Task
from rosita.tokenizer import read_tokenizer

COLA = GLUE["CoLA"]


@pytest.fixture
def warnings(tmp_path, capsys):
    """What is said of a task's folder."""
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))

    def of(folder, task=COLA):
        settings = FineTuneSettings(
            model_name_or_path="m",
            output_dir="o",
            data_dir=str(folder),
            max_seq_length=16,
            precision="fp32",
            no_cuda=True,
        )
        load_data(settings, task, tokenizer, start_accelerator(settings), RositaConfig())
        lines = capsys.readouterr().out.splitlines()
        return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]

    return of


def test_nothing_is_said_of_a_task_as_it_should_be(warnings, cola):
    assert warnings(cola) == []


def test_a_dev_set_that_is_the_training_set_is_told_whatever_its_name(warnings, tmp_path):
    folder = write_cola(tmp_path / "CoLA", train=20)
    (folder / "dev.tsv").write_bytes((folder / "train.tsv").read_bytes())
    assert warnings(folder) == ["dev.tsv is the same as train.tsv: its scores tell nothing new"]


@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv"])
def test_one_label_for_all_rows_is_told(name, warnings, cola):
    lines = (cola / name).read_text().splitlines()
    lines = ["\t".join(["src", "1", *line.split("\t")[2:]]) for line in lines]
    (cola / name).write_text("\n".join(lines) + "\n")
    assert warnings(cola) == [
        f"every row of {name} has the same label: is the label_column of CoLA right?"
    ]


@pytest.mark.parametrize("column", [1, -3, "label"])
def test_a_text_column_that_is_the_label_is_told(column, warnings, tmp_path):
    header = isinstance(column, str)
    task = Task(name="Mine", labels=("0", "1"), metric="accuracy", text_columns=(column,),
                label_column=1, header=header)  # fmt: skip
    for name, rows in (("train", 6), ("dev", 4)):
        lines = [f"src\t{number % 2}\t\tthe dog {name}\n" for number in range(rows)]
        first = "source\tlabel\tstar\ttext\n" if header else ""
        (tmp_path / f"{name}.tsv").write_text(first + "".join(lines))
    assert warnings(tmp_path, task) == [
        "the text of dev.tsv is its label: are the text_columns of Mine right?"
    ]
