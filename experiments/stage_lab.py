"""Runs the stages of an experiment by their scripts, each once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rosita.errors import RositaError
from rosita.provenance import read_run
from rosita.pruning.shape import Shape

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "models" / "minilm"
GLOVE = REPOSITORY / "glove" / "glove.6B.50d"
# dev has whole sentences, train mostly phrases: the choice is made on what is like a sentence
HELD_OUT = {"SST-2": ("--rows", 3000, "--min_words", 8), "CoLA": ("--rows", 1000)}
SOME_ROWS = 20_000
LARGE = ("SST-2",)  # tasks of which most experiments take some rows only
FINE_TUNE = {  # by task and training set
    ("SST-2", "full"): {"learning_rate": 3e-5, "num_train_epochs": 3, "logging_steps": 500,
                        "warmup_steps": 500},
    ("SST-2", "20k"): {"learning_rate": 5e-5, "num_train_epochs": 3, "logging_steps": 500},
    ("CoLA", "full"): {"learning_rate": 5e-5, "num_train_epochs": 8, "logging_steps": 118},
}  # fmt: skip


@dataclass
class StageLab:
    """Runs stages by their scripts; folders are models/minilm/TASK/DATA/NAME-SEED."""

    task: str
    data: str  # full or 20k
    seed: int
    ran: list[Path] = field(default_factory=list)  # folders of the chain, in order

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

    def fine_tune(self, name: str, source: Path, seed: int | None = None, **flags) -> Path:
        folder = self._folder(name, seed)
        flags = {**FINE_TUNE[self.task, self.data], **flags, "seed": seed or self.seed}
        self._run("Pruning/run_glue.py", folder, "--do_train", "--evaluate_during_training",
                  model_name_or_path=source, output_dir=folder, **flags)  # fmt: skip
        return folder

    def score(self, model: Path, teacher: Path | None = None, **flags) -> None:
        output = model / "taylor_score"
        if teacher is None:
            self._run(
                "Pruning/run_glue.py",
                output,
                compute_taylor=True,
                output_dir=model,
                model_name_or_path=model,
                **flags,
            )
        else:
            self._run("KD/train.py", output, "--compute_taylor", "--pred_distill",
                      teacher_model=teacher, student_model=model, output_dir=output,
                      **flags)  # fmt: skip

    def twin(self, name: str, model: Path) -> Path:
        """A folder of links to the files of `model`, for other scores of it."""
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        for file in model.iterdir():
            if file.is_file() and not (folder / file.name).is_symlink():
                (folder / file.name).symlink_to(file)
        return folder

    def prune(self, name: str, model: Path, shape: str, **flags) -> Path:
        wanted = Shape.parse(shape)
        # the script wants MODEL_PATH/TASK and writes OUTPUT/TASK/SHAPE
        link = self._folder(f"{name}_source") / self.task
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(model)
        output = self._folder(name)
        folder = output / self.task / shape
        self.ran.append(folder)
        more = [
            part
            for flag, value in flags.items()
            for part in ([f"-{flag}"] if value is True else [f"-{flag}", value])
        ]
        self._call("Pruning/pruning_one_step.py", folder, "-model_path", link.parent,
                   "-output_dir", output, "-task", self.task, "-keep_heads", wanted.keep_heads,
                   "-num_layers", wanted.keep_layers, "-ffn_hidden_dim", wanted.ffn_hidden_dim,
                   "-emb_hidden_dim", wanted.emb_hidden_dim, *more)  # fmt: skip
        return folder

    def augment(self, copies: int) -> Path:
        """The training set with so many augmented copies of each row; returns its folder."""
        folder = self.data_dir.parent / f"{self.data}_{copies}_copies" / self.task
        if not (folder / "train_aug.tsv").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for file in ("train.tsv", "dev.tsv"):
                if not (folder / file).is_symlink():
                    (folder / file).symlink_to(self.data_dir / file)
            run_checked(
                "data_augmentation.py", "--glue_dir", folder.parent, "--task_name", self.task,
                "--N", copies, "--pretrained_bert_model", self.base, "--glove_embs", GLOVE,
            )  # fmt: skip
        return folder

    def distil(
        self, name: str, config: str, teacher: Path, student: Path, seed: int | None = None, **flags
    ) -> Path:
        folder = self._folder(name, seed)
        config_dir = REPOSITORY / "KD" / "configurations" / "minilm" / f"config_{config}.json"
        if "fresh_augmentation" in flags:
            flags["glove_embs"] = GLOVE
        flags = {"seed": seed or self.seed, "teacher_cache_gb": 8, "eval_step": 400, **flags}
        self._run(
            "KD/train.py",
            folder,
            config_dir=config_dir,
            teacher_model=teacher,
            student_model=student,
            output_dir=folder,
            **flags,
        )
        return folder

    def hold_out(self) -> None:
        """Make the training set and the held-out rows, once."""
        if (self.data_dir / "dev.tsv").exists():
            return
        few = ("--train_rows", SOME_ROWS) if self.data == "20k" else ()
        run_checked("experiments/hold_out.py", "--task_name", self.task, "--data_dir",
                    REPOSITORY / "data" / self.task, "--output_dir", self.data_dir,
                    *HELD_OUT[self.task], *few)  # fmt: skip

    def _folder(self, name: str, seed: int | None = None) -> Path:
        return self.models / f"{name}-{seed or self.seed}"

    def _run(self, script: str, folder: Path, *switches: str, **flags: object) -> None:
        self.ran.append(folder)
        flags = {"data_dir": self.data_dir, **flags}
        pairs = [part for name, value in flags.items() for part in (f"--{name}", value)]
        self._call(script, folder, "--task_name", self.task, "--do_lower_case", *switches,
                   *pairs)  # fmt: skip

    def _call(self, script: str, folder: Path, *arguments: object) -> None:
        if not read_run(folder).get("finished"):
            run_checked(script, *arguments)


def run_checked(script: str, *arguments: object) -> None:
    """Run a script of the repository; `RositaError` if it fails."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
    print("+", " ".join(command[1:]).replace(f"{REPOSITORY}/", ""), flush=True)
    if code := subprocess.run(command).returncode:
        raise RositaError(f"{script} ended with exit code {code}")
