"""The GLUE tasks, and a user's own, as one table: files, columns, labels, metric, defaults."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rosita.errors import RositaError, nearest
from rosita.files import read_object

Metric = Literal["accuracy", "matthews", "accuracy_and_f1", "pearson_and_spearman", "micro_f1"]


class Task(BaseModel):
    """One task: where its text and labels stand, and how it is scored.

    A column is a 0-based index (negative: from the end) or the name that the header gives it.
    `labels` stand in the order of the logits; None is regression on a number. With `multi_label` a
    row has any number of them, with commas between (in JSON a list).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    labels: tuple[str, ...] | None
    multi_label: bool = False
    metric: Metric
    text_columns: tuple[int | str, ...] = Field(min_length=1, max_length=2)
    label_column: int | str = -1
    label_range: tuple[float, float] | None = None  # of a regression: what no label lies outside
    test_text_columns: tuple[int | str, ...] | None = None  # None: those of train
    train_file: str = "train.tsv"
    # of dev files the first one chooses the best model
    dev_files: tuple[str, ...] = Field(("dev.tsv",), min_length=1)
    test_files: tuple[str, ...] = ("test.tsv",)
    header: bool = True  # False: of GLUE's files train and dev alone have none, of a user's all
    train_labelled: bool = True  # False: only a teacher can say what train's rows are
    short_rows: bool = False  # rows with too few columns are skipped and counted (QQP)
    max_seq_length: int = Field(128, ge=3)
    train_batch_size: int = Field(32, ge=1)
    augmentation_copies: int = Field(30, ge=1)
    submission_files: tuple[str, ...] = ()  # names the GLUE server wants, one per test file

    @model_validator(mode="after")
    def _metric_fits_labels(self) -> Task:
        if (self.labels is None) != (self.metric == "pearson_and_spearman"):
            raise ValueError(
                "metric pearson_and_spearman goes with labels 'regression' and no other"
            )
        if self.labels is not None and len(set(self.labels)) != max(2, len(self.labels)):
            raise ValueError("labels must be two or more different names")
        if self.label_range and self.labels is not None:
            raise ValueError("label_range goes with labels 'regression' and no other")
        if self.label_range and not -inf < self.label_range[0] < self.label_range[1] < inf:
            raise ValueError("label_range must go from a number to a larger one")
        if self.multi_label != (self.metric == "micro_f1"):
            raise ValueError("metric micro_f1 goes with multi_label true and no other")
        if self.multi_label and any("," in name for name in self.labels or ()):
            raise ValueError("labels of a multi_label task must have no comma in their names")
        if len(self.test_text_columns or self.text_columns) != len(self.text_columns):
            raise ValueError("test_text_columns must be as many as text_columns")
        if self.metric == "accuracy_and_f1" and len(self.labels or ()) != 2:
            raise ValueError("metric accuracy_and_f1 needs two labels, the second the positive one")
        return self

    @model_validator(mode="after")
    def _files_stay_inside(self) -> Task:
        names = (self.train_file, *self.dev_files, *self.test_files, *self.submission_files)
        for name in names:
            if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} must be the name of a file within the task's folder")
        if self.submission_files and len(self.submission_files) != len(self.test_files):
            raise ValueError("submission_files must be one for each of test_files, or left out")
        return self

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own, from a task.json, and not GLUE's."""
        return self.name not in GLUE and self.name != DIAGNOSTIC.name

    @property
    def is_regression(self) -> bool:
        return self.labels is None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the logits: the labels, or "score" for regression."""
        return ("score",) if self.labels is None else self.labels

    @property
    def num_labels(self) -> int:
        """Number of logits: one per label, one for regression."""
        return len(self.outputs)

    def text_columns_of(self, file: Path) -> tuple[int | str, ...]:
        """Text columns of one of the task's files: a test file may have other columns."""
        if self.test_text_columns and self.is_test_file(file):
            return self.test_text_columns
        return self.text_columns

    def is_test_file(self, file: Path) -> bool:
        """Whether a path is that of a test file: of all files that it ends like, the longest."""
        names = (self.train_file, *self.dev_files, *self.test_files)
        ends = [name for name in names if file.parts[-len(Path(name).parts) :] == Path(name).parts]
        return max(ends, key=lambda name: len(Path(name).parts), default=None) in self.test_files

    def split_names(self, kind: Literal["dev", "test"]) -> dict[str, str]:
        """File of each split by its suffix: `{"": "dev.tsv"}`; MNLI `{"": ..., "-mm": ...}`."""
        files = self.dev_files if kind == "dev" else self.test_files
        suffixes = ["", "-mm", *[f"-{number}" for number in range(2, len(files))]]
        return dict(zip(suffixes, files, strict=False))


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="CoLA", labels=_BINARY, metric="matthews", text_columns=(3,), label_column=1,
             test_text_columns=(1,), header=False, max_seq_length=64, augmentation_copies=30,
             submission_files=("CoLA.tsv",)),
        Task(name="SST-2", labels=_BINARY, metric="accuracy", text_columns=(0,), label_column=1,
             test_text_columns=(1,), max_seq_length=64, augmentation_copies=20,
             submission_files=("SST-2.tsv",)),
        Task(name="MNLI", labels=("contradiction", "entailment", "neutral"), metric="accuracy",
             text_columns=(8, 9), train_batch_size=64, augmentation_copies=10,
             dev_files=("dev_matched.tsv", "dev_mismatched.tsv"),
             test_files=("test_matched.tsv", "test_mismatched.tsv"),
             submission_files=("MNLI-m.tsv", "MNLI-mm.tsv")),
        Task(name="QNLI", labels=_ENTAILMENT, metric="accuracy", text_columns=(1, 2),
             train_batch_size=64, augmentation_copies=20, submission_files=("QNLI.tsv",)),
        Task(name="QQP", labels=_BINARY, metric="accuracy_and_f1", text_columns=(3, 4),
             label_column=5, test_text_columns=(1, 2), short_rows=True, train_batch_size=64,
             augmentation_copies=10, submission_files=("QQP.tsv",)),
        Task(name="MRPC", labels=_BINARY, metric="accuracy_and_f1", text_columns=(3, 4),
             label_column=0, submission_files=("MRPC.tsv",)),
        Task(name="STS-B", labels=None, metric="pearson_and_spearman", text_columns=(7, 8),
             label_range=(0, 5), submission_files=("STS-B.tsv",)),
        Task(name="RTE", labels=_ENTAILMENT, metric="accuracy", text_columns=(1, 2),
             submission_files=("RTE.tsv",)),
        Task(name="WNLI", labels=_BINARY, metric="accuracy", text_columns=(1, 2),
             submission_files=("WNLI.tsv",)),
    )
}  # fmt: skip

# MNLI's diagnostic set: predicted with the MNLI model, wanted in a submission as AX.tsv
DIAGNOSTIC = Task(
    name="AX",
    labels=GLUE["MNLI"].labels,
    metric="accuracy",
    text_columns=(1, 2),
    test_files=("diagnostic.tsv",),
)

PAPER_TASKS = ("CoLA", "SST-2", "MNLI", "QNLI", "QQP")
_ALIASES = {"sst": "SST-2", "sst2": "SST-2", "sts": "STS-B", "stsb": "STS-B"}


def glue_task_name(name: str) -> str | None:
    """GLUE's own spelling of a task's name (any case, SST and STS accepted), or None."""
    by_lower = {known.lower(): known for known in GLUE}
    lowered = name.lower()
    return by_lower.get(lowered) or _ALIASES.get(lowered)


def find_task(name: str) -> Task:
    """The task called `name`: a GLUE task in any case, or the path of a user's own task.json.

    Raises `RositaError` for an unknown name or a task.json that breaks the schema of `Task`.
    """
    known = glue_task_name(name)
    if known:
        return GLUE[known]
    if name.endswith(".json"):
        return _read_task(Path(name))
    names = sorted(GLUE)
    raise RositaError(
        f"--task_name {name!r} is not one of {', '.join(names)}{nearest(name, names)}"
        " (a task of your own: the path of its .json)"
    )


def _read_task(path: Path) -> Task:
    values = read_object(path)
    if unknown := sorted(values.keys() - Task.model_fields.keys()):
        hint = nearest(unknown[0], list(Task.model_fields))
        raise RositaError(f"{path}: unknown key {unknown[0]!r}{hint}")
    if values.get("labels") == "regression":
        values["labels"] = None
    try:
        task = Task.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'task'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise RositaError(f"{path}: {'; '.join(faults)}") from None
    if known := glue_task_name(task.name) or (task.name if not task.is_own else None):
        # a run's record holds the name alone: it would be read as GLUE's task
        raise RositaError(f"{path}: name {task.name!r} is that of GLUE's {known}; choose another")
    return task
