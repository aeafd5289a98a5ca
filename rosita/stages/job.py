"""One run of the training loop: what it begins with, runs and leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rosita.checkpoint import TaskModel, load_model, save_model
from rosita.data.batches import Sampler
from rosita.distillation.losses import Objective
from rosita.evaluation import Scores, UndefinedScore, collapsed_scores, predict, score
from rosita.files import read_sealed, write_sealed
from rosita.model import RositaForSequenceClassification
from rosita.provenance import Run, file_hashes
from rosita.stages.inputs import Data
from rosita.stages.preflight import check_disk, show_plan
from rosita.stages.record import _result, finish, score_weights
from rosita.training.loop import Training
from rosita.training.plan import Plan


@dataclass
class Job:
    """One run of the loop, ready to go: what is trained by which objective on what data.

    `begin` comes first; what it says decides whether `train` or `score` follows.
    """

    start: TaskModel
    data: Data
    objective: Objective
    sampler: Sampler
    plan: Plan
    accelerator: Accelerator
    run: Run
    teacher: str = ""  # what it does, in words; empty if there is none

    def train(self, log_dir: Path) -> dict[str, Any]:
        """Train; the best evaluation."""
        training = self._training(
            evaluate=self.evaluate, save=self.save, used=self.used, saved=self._read_best()[1]
        )
        progress = training.run(log_dir)
        return finish(self.run, progress, load_model(self.run.folder, self.start.task))

    def score(self, mean: bool) -> None:
        """Write taylor.pkl of one pass; `mean`: divided by the number of batches."""
        score_weights(self.run, self._training(), mean)

    def evaluate(self, model: RositaForSequenceClassification) -> Scores:
        """Score a model on dev, while it is trained.

        A regression whose predictions are all the same gets the worst score: early in a training,
        and in bf16 above all, a model may still answer every row alike.
        """
        logits = predict(model, self.data.dev, self.plan.settings.eval_batch_size)
        try:
            return score(self.data.task, logits, self.data.dev.labels)
        except UndefinedScore as error:
            if not error.collapsed:
                raise
            return collapsed_scores(self.data.task)

    def save(
        self,
        model: RositaForSequenceClassification,
        name: str = "",
        evaluation: dict[str, Any] | None = None,
    ) -> None:
        """Write the best model to the run's folder, or with a `name` another one to one within.

        With its evaluation given, such a model gets a run.json of its own: a rung of the ladder;
        that of the best model stands in its record.
        """
        run = self.run
        folder = run.folder / name
        if not name:
            self._best.unlink(missing_ok=True)
        save_model(folder, model, self.start.tokenizer, self.start.task)
        if not name:
            write_sealed(self._best, {**file_hashes(folder), "evaluation": evaluation})
        elif evaluation:
            details = {**run.details, "run": str(run.folder)}
            rung = Run(folder, run.identity | {"stage": "ladder"}, details)
            rung.write(finished=True, best=evaluation, **_result(evaluation, model))

    @property
    def _best(self) -> Path:
        """Record of the best model so far, its files and its evaluation: what a killed run goes on
        with."""
        return self.run.folder / "last" / "best.json"

    def _read_best(self) -> tuple[dict[str, str] | None, dict[str, Any] | None]:
        """The hashes of its files, and its evaluation, where the record has them."""
        files = read_sealed(self._best) if self._best.exists() else None
        evaluation = files.pop("evaluation", None) if files else None  # earlier ones do not say it
        return files, evaluation

    def _check_best(self) -> None:
        """Have the run begin again if its best model so far is not as it was written."""
        files = file_hashes(self.run.folder)
        if self._best.exists() and self._read_best()[0] != files:
            print(f"{self.run.folder}: its best model so far was changed; the run begins again")
            for name in files:  # all of them are written anew
                (self.run.folder / name).unlink()
            self.run.remove_state()

    def _training(self, **more: Any) -> Training:
        return Training(
            self.start.model,
            self.objective,
            self.sampler,
            self.plan,
            self.accelerator,
            self.run.folder,
            run_hash=self.run.outcome_hash,
            **more,
        )

    @cached_property
    def used(self) -> Tensor | None:
        """Ids of the tokens whose embedding rows are trained; scoring takes all."""
        vocab_size = self.start.model.config.vocab_size
        return self.data.used_tokens(vocab_size) if self.plan.update else None

    def begin(self) -> bool:
        """Check and claim the folder; False if there is nothing to run: finished, or a dry run."""
        settings = self.plan.settings
        if self.run.is_finished(settings.overwrite_output_dir):
            return False
        check_disk(self.run.folder, self.start.model.config)
        if settings.dry_run:
            show_plan(self)
            return False
        self.run.claim(settings.overwrite_output_dir)
        if self.teacher and self.accelerator.is_main_process:
            print(f"the teacher {self.teacher}")
        if self.run.writes:
            self._check_best()
        self.accelerator.wait_for_everyone()
        # a new classifier has drawn numbers where it was made in this process, or has not
        torch.manual_seed(settings.seed + self.accelerator.process_index)
        return True
