"""Runs the stages of an experiment, each once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hold_out import write_rows
from rosita import api
from rosita.config import Precision
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.provenance import read_run
from rosita.pruning.importance import read_scores
from rosita.stages.inputs import train_texts
from rosita.tasks import find_task

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "models" / "minilm"
CONFIGS = REPOSITORY / "KD" / "configurations" / "minilm"
GLOVE = REPOSITORY / "glove" / "glove.6B.50d"
# dev has whole sentences, train mostly phrases: the choice is made on what is like a sentence
HELD_OUT = {
    "SST-2": ("--rows", 3000, "--min_words", 8),
    "CoLA": ("--rows", 1000),
    "MRPC": ("--rows", 400),
    "STS-B": ("--rows", 600),
    "RTE": ("--rows", 300),
}
SOME_ROWS = 20_000
LARGE = ("SST-2",)  # tasks of which most experiments take some rows only
FINE_TUNE = {  # by task and training set
    ("SST-2", "full"): {"learning_rate": 3e-5, "num_train_epochs": 3, "logging_steps": 500,
                        "warmup_steps": 500},
    ("SST-2", "20k"): {"learning_rate": 5e-5, "num_train_epochs": 3, "logging_steps": 500},
    ("CoLA", "full"): {"learning_rate": 5e-5, "num_train_epochs": 8, "logging_steps": 118},
    ("MRPC", "full"): {"learning_rate": 1e-4, "num_train_epochs": 5, "logging_steps": 51},
    ("STS-B", "full"): {"learning_rate": 1e-4, "num_train_epochs": 5, "logging_steps": 80},
    ("RTE", "full"): {"learning_rate": 5e-5, "num_train_epochs": 5, "logging_steps": 35},
}  # fmt: skip


@dataclass
class StageLab:
    """Runs stages by the API; folders are models/minilm/TASK/DATA/NAME-SEED."""

    task: str
    data: str  # full or 20k
    seed: int
    precision: Precision = "auto"  # of stages that compute; a model that is there is taken as it is
    ran: dict[Path, dict[str, Any]] = field(default_factory=dict)  # the chain: folder -> settings

    def __post_init__(self) -> None:
        if self.task not in LARGE:
            self.data = "full"

    @property
    def base(self) -> Path:
        return REPOSITORY / "models" / "bert_pt"

    @property
    def data_dir(self) -> Path:
        return REPOSITORY / "data" / "held_out" / self.task / self.data

    @property
    def models(self) -> Path:
        return MODELS / self.task / self.data

    def fine_tune(
        self,
        name: str,
        source: Path,
        seed: int | None = None,
        renewed_layers: int = 0,
        **settings: Any,
    ) -> Path:
        folder, seed = self._folder(name, seed), seed or self.seed
        chosen = {"seed": seed, "precision": self.precision}
        settings = {**FINE_TUNE[self.task, self.data], **settings, **chosen}
        how = {**settings, "renewed_layers": renewed_layers} if renewed_layers else settings
        if self._runs(folder, how):
            start = self._load(source, seed)
            renew(start, renewed_layers, seed)
            api.fine_tune(start, self.data_dir, folder, evaluate_during_training=True, **settings)
        return folder

    def score(self, model: Path, teacher: Path | None = None, **settings: Any) -> None:
        """Taylor scores by the labels, or by the logits of a teacher."""
        settings["precision"] = self.precision
        if self._runs(model / "taylor_score", settings):
            start = self._load(model)
            if teacher:
                settings = {**settings, "teacher": self._load(teacher), "pred_distill": True}
            api.score(start, self.data_dir, model, **settings)

    def twin(self, name: str, model: Path) -> Path:
        """A folder of links to the files of `model`, for other scores of it."""
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        for file in model.iterdir():
            if file.is_file() and not (folder / file.name).is_symlink():
                (folder / file.name).symlink_to(file)
        return folder

    def prune(self, name: str, model: Path, shape: str, **how: Any) -> Path:
        folder = self._folder(name) / self.task / shape
        if self._runs(folder, how):
            start = self._load(model)
            scored = how.keys().isdisjoint(("importance", "from_scratch"))
            scored = scored and (model / "taylor_score").exists()
            scores = read_scores(model, start.model) if scored else None
            api.prune(start, shape, scores, folder, **how)
        return folder

    def keep_pieces(self, name: str, model: Path, of: str) -> Path:
        """A model with the word pieces of the training data of a task alone, not trained on."""
        folder = self._folder(name)
        if self._runs(folder, {"vocabulary": of}):
            task = find_task(of)
            data = self.data_dir if of == self.task else REPOSITORY / "data" / of
            texts = list(train_texts([data / task.train_file], task))
            start = self._load(model)
            api.prune(start, start.shape, None, folder, vocabulary=texts)
        return folder

    def distil(
        self,
        name: str,
        config: str,
        teacher: Path,
        student: Path,
        seed: int | None = None,
        **settings: Any,
    ) -> Path:
        folder, seed = self._folder(name, seed), seed or self.seed
        if how := settings.get("fresh_augmentation"):
            settings["glove_embs"] = None if how == "never" else GLOVE
        settings = {
            "data_dir": self.data_dir,
            "teacher_cache_gb": 8,
            "eval_step": 400,
            **settings,
            "seed": seed,
            "precision": self.precision,
            "config": CONFIGS / f"config_{config}.json",
        }
        if self._runs(folder, settings):
            start = self._load(student, seed)
            api.distil(self._load(teacher), start, output_dir=folder, **settings)
        return folder

    # These are not stages of the API: commands, as a user types them.

    def augment(self, copies: int) -> Path:
        """The training set with so many augmented copies of each row; returns its folder."""
        folder = self.data_dir.parent / f"{self.data}_{copies}_copies" / self.task
        if not (folder / "train_aug.tsv").exists():
            self._link_data(folder, "train.tsv", "dev.tsv")
            run_checked(
                "data_augmentation.py", "--glue_dir", folder.parent, "--task_name", self.task,
                "--N", copies, "--pretrained_bert_model", self.base, "--glove_embs", GLOVE,
            )  # fmt: skip
        return folder

    def with_pairs_of(self, others: Sequence[str]) -> Path:
        """The training set and, after it, the pairs of others; returns its folder.

        A pair of another task has no label here: it has the first row's, for its place in the file,
        and is for a distillation by the teacher alone.
        """
        folder = self.data_dir.parent / f"{self.data}_and_{'_'.join(others)}" / self.task
        task = find_task(self.task)
        own = TsvFile(self.data_dir / task.train_file, task)
        rows = list(own.rows())
        self._link_data(folder, "dev.tsv")
        for name in others:
            other = find_task(name)
            for row in TsvFile(REPOSITORY / "data" / name / other.train_file, other).rows():
                fields = list(rows[0].fields)
                for column, text in zip(own.text_columns, row.texts, strict=True):
                    fields[column] = text
                rows.append(replace(row, fields=fields))
        write_rows(folder / "train.tsv", own.header, rows)
        return folder

    def hold_out(self) -> None:
        """Make the training set and the held-out rows, once."""
        if (self.data_dir / "dev.tsv").exists():
            return
        few = ("--train_rows", SOME_ROWS) if self.data == "20k" else ()
        run_checked(
            "experiments/hold_out.py", "--task_name", self.task,
            "--data_dir", REPOSITORY / "data" / self.task, "--output_dir", self.data_dir,
            *HELD_OUT[self.task], *few,
        )  # fmt: skip

    def _link_data(self, folder: Path, *files: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if not (folder / file).is_symlink():
                (folder / file).symlink_to(self.data_dir / file)

    def _folder(self, name: str, seed: int | None = None) -> Path:
        return self.models / f"{name}-{seed or self.seed}"

    def _load(self, folder: Path, seed: int | None = None) -> api.TaskModel:
        """A model; with a seed it may be a pretrained one, whose classifier is drawn from that."""
        if seed is None:
            return api.load(folder, self.task)
        return api.load(folder, self.task, new_classifier=True, seed=seed)

    def _runs(self, folder: Path, settings: dict[str, Any]) -> bool:
        """Whether this stage of the chain is still to run; says so."""
        self.ran[folder] = settings
        if read_run(folder).get("finished"):
            return False
        how = " ".join(f"{name}={value}" for name, value in settings.items())
        print(f"+ {folder} {how}".replace(f"{REPOSITORY}/", ""), flush=True)
        return True


def renew(start: api.TaskModel, layers: int, seed: int) -> None:
    """Draw the weights of the top layers and of the pooler anew (Zhang et al., ICLR 2021)."""
    if not layers:
        return
    drawn = api.prune(start, start.shape, from_scratch=True, seed=seed).model.bert
    ours, new = start.model.bert.encoder.layer, drawn.encoder.layer
    for top in range(len(ours) - layers, len(ours)):
        ours[top].load_state_dict(new[top].state_dict())
    start.model.bert.pooler.load_state_dict(drawn.pooler.state_dict())


def run_checked(script: str, *arguments: object) -> None:
    """Run a script of the repository; `RositaError` if it fails."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
    print("+", " ".join(command[1:]).replace(f"{REPOSITORY}/", ""), flush=True)
    if code := subprocess.run(command).returncode:
        raise RositaError(f"{script} ended with exit code {code}")
