"""What the training stages begin with: the data, and the rows drawn anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rosita.augmentation.glove import load_glove
from rosita.checkpoint import TaskModel
from rosita.config import KDSettings, LoopSettings
from rosita.data.batches import Encoded, Sampler
from rosita.data.encode import encode_file
from rosita.data.records import open_table
from rosita.description import check_length
from rosita.model import RositaConfig
from rosita.stages.identity import fresh_eligible
from rosita.tasks import Task
from rosita.tokenizer import TokenizerFiles
from rosita.training.embedding import used_tokens

if TYPE_CHECKING:
    from rosita.augmentation.fresh import FreshRows

SAMPLE = 256  # rows in which some word must be replaceable, some text another than its label


@dataclass
class Data:
    """Token ids of a task: the files to train on, and the dev set that chooses the best model."""

    task: Task
    train: list[Encoded]
    dev: Encoded
    fresh: FreshRows | None = None  # draws the rows of `train` anew, epoch by epoch

    def used_tokens(self, vocab_size: int) -> Tensor:
        """Ids of all tokens that training and the evaluation on dev can meet."""
        used = used_tokens([*self.train, self.dev], vocab_size)
        if not self.fresh:
            return used
        return torch.cat([used, self.fresh.used_tokens(vocab_size)]).unique()

    def sampler(self, batch_size: int, seed: int) -> Sampler:
        """The global batches of the training set."""
        return Sampler(self.train, batch_size, seed, self.fresh.files if self.fresh else None)


def with_fresh_rows(data: Data, settings: KDSettings, vectors: str, student: TaskModel) -> Data:
    """The same data, drawn anew, alternately or always.

    Candidates are the neighbours by `vectors`, for words of the student's vocabulary.
    """
    # heavy imports, only needed here: they bring transformers' BERT in
    from rosita.augmentation.candidates import CandidateFinder, Sampling
    from rosita.augmentation.fresh import FreshRows
    from rosita.augmentation.sentences import Splitter

    finder = CandidateFinder(
        Splitter(student.tokenizer, fresh_eligible(settings)),
        load_glove(vectors),
        settings.aug_candidates,
    )
    plain = data.train[0]
    source = open_table(plain.path, data.task, labelled=data.task.train_labelled)
    if warning := finder.missing(list(islice(source.rows(), SAMPLE)), "--aug_"):
        print(f"warning: {warning}")
    fresh = FreshRows(
        source,
        plain,
        student.tokenizer.build(settings.max_seq_length),
        finder,
        Sampling(1, settings.aug_probability, settings.seed, settings.aug_edits),
        settings.fresh_augmentation == "alternate",
    )
    return replace(data, fresh=fresh)


def load_data(
    settings: LoopSettings,
    task: Task,
    tokenizer: TokenizerFiles,
    accelerator: Accelerator,
    config: RositaConfig,
    train_files: list[str] | None = None,
) -> Data:
    """Encode the training files (default: the task's own) and dev; report their rows."""
    check_length(settings.max_seq_length, config)
    folder = Path(settings.data_dir)
    header = _train_header(folder, task)
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    with accelerator.main_process_first():
        train = [
            encode_file(
                folder / name,
                task,
                tokenizer,
                settings.max_seq_length,
                labelled=task.train_labelled,
                train_header=header,
                cache_dir=cache,
            )
            for name in train_files or [task.train_file]
        ]
        dev = encode_file(
            folder / task.dev_files[0], task, tokenizer, settings.max_seq_length, cache_dir=cache
        )
    rows = sum(map(len, train))
    names = ", ".join(file.path.name for file in train[:3]) + (" ..." if len(train) > 3 else "")
    print(f"{task.name}: {rows:,} rows to train on ({names}), {len(dev):,} dev rows")
    data = Data(task, train, dev)
    for doubt in _doubts(data):
        print(f"warning: {doubt}")
    return data


def train_texts(files: list[Path], task: Task) -> Iterator[str]:
    """Every text of training files of one folder."""
    header = _train_header(files[0].parent, task)
    for path in files:
        table = open_table(path, task, labelled=task.train_labelled, train_header=header)
        for row in table.rows():
            yield from row.texts


def _doubts(data: Data) -> Iterator[str]:
    """What a run gets through with, and hardly anybody means."""
    task, dev = data.task, data.dev
    for file in data.train:
        if file.sha256 == dev.sha256:
            yield f"{dev.path.name} is the same as {file.path.name}: its scores tell nothing new"
    for files in (data.train if task.train_labelled else [], [dev]):
        labels = [np.asarray(file.labels) for file in files]
        if sum(map(len, labels)) > 1 and all((one == labels[0][0]).all() for one in labels):
            yield (
                f"every row of {files[0].path.name} has the same label: is the label_column of"
                f" {task.name} right?"
            )
    rows = islice(open_table(dev.path, task).rows(), SAMPLE)
    if all(row.label in row.texts for row in rows):
        yield (
            f"the text of {dev.path.name} is its label: are the text_columns of {task.name} right?"
        )


def _train_header(folder: Path, task: Task) -> str | None:
    """The header of train.tsv, by which a headerless piece of a split file is told apart."""
    train = open_table(folder / task.train_file, task, labelled=task.train_labelled)
    return train.header if task.header else None
