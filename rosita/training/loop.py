"""The one training loop: fine-tuning, scoring and distilling differ in their objective only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rosita.data.batches import Batch, Sampler, Step, steps_of
from rosita.distillation.losses import Objective
from rosita.errors import RositaError
from rosita.evaluation import Scores
from rosita.model import RositaForSequenceClassification
from rosita.progress import Bar
from rosita.pruning.cut import Cut
from rosita.pruning.importance import CUT_MATRICES, MATRICES, TaylorImportance
from rosita.pruning.moments import Moments, put_moments, surviving_moments
from rosita.pruning.schedule import PruningSchedule
from rosita.pruning.shape import Shape
from rosita.pruning.survivors import all_units, follow
from rosita.runtime import arithmetic
from rosita.training.cpu import fast_on_cpu
from rosita.training.curves import Curves
from rosita.training.embedding import Vocabulary
from rosita.training.optimizer import (
    build_optimizer,
    clip_gradients,
    gradients_are_finite,
    learning_rate,
    rate_share,
    set_rate,
)
from rosita.training.plan import Plan, Progress, total_steps
from rosita.training.signals import agree_to_stop, stop_on_signal
from rosita.training.state import resume, save_state, state_file

CHECK_STEPS = 20  # losses are read from the device, and checked, this often at least
LOGGED_POINTS = 200  # of the loss curve in run.json and TensorBoard, where no setting says how many
COLLAPSED = (
    "warning: the best model gives the same prediction for every dev row; try a lower"
    " --learning_rate, or --precision fp32"
)


def rank(evaluation: dict[str, Any]) -> tuple[bool, float]:
    """What to compare evaluations by: the score, but a collapsed model is worse than any other.

    Its Matthews is 0 by convention, and would else beat one that has learnt to be wrong.
    """
    return not evaluation.get("collapsed", False), evaluation["score"]


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGINT came; the state is saved."""


class Training:
    """One run of the loop. `run` goes on from the state in `folder`/last, if there is one.

    `evaluate(model)` scores the dev set; `save(model, evaluation=...)` writes the best model so
    far, `save(model, name, evaluation)` another one, into a folder within. `saved`: the evaluation
    of the best model that is written already, which may be later than the state. `used`: ids of all
    tokens of the data; the embedding rows of others are left out of the training, which changes
    nothing but its speed (see `Vocabulary`). `run_hash`: of the run's identity; it takes no state
    of another.
    """

    def __init__(
        self,
        model: RositaForSequenceClassification,
        objective: Objective,
        sampler: Sampler,
        plan: Plan,
        accelerator: Accelerator,
        folder: Path,
        evaluate: Callable[[nn.Module], Scores] | None = None,
        save: Callable[..., None] | None = None,
        used: Tensor | None = None,
        saved: dict[str, Any] | None = None,
        run_hash: str = "",
    ) -> None:
        self.objective = objective
        self.sampler = sampler
        self.plan = plan
        self.settings = plan.settings
        self.accelerator = accelerator
        self.folder = folder
        self.evaluate = evaluate
        self.save = save
        self.saved = saved
        self.run_hash = run_hash
        self.vocabulary = Vocabulary(used) if used is not None else None
        self.progress = Progress()
        self.total_steps = total_steps(plan.settings, sampler)
        self.unread: list[tuple[int, dict[str, Tensor]]] = []  # losses still on the device
        self.started = time.perf_counter()
        self.curves: Curves | None = None
        self.use(model)

    # ------------------------------------------------------------------ the outline

    def run(self, log_dir: Path | None = None) -> Progress:
        """Train to the end, to the end of patience, or until a signal; return where it stands.

        Raises `RositaError` for a loss that is not finite; `Interrupted` after saving the state
        when a signal came.
        """
        resume(self)
        if self.progress.step and self.saved:
            self._take_for_best(self.saved)
        now = arithmetic(self.accelerator)
        if self.progress.arithmetic[-1:] != [now]:
            self.progress.arithmetic.append(now)
        self._open_log(log_dir)
        with stop_on_signal() as stop, self._bar() as bar:
            steps = steps_of(
                self.sampler,
                self.plan.micro_batch_size,
                self.progress.step,
                self.total_steps,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            )
            for step in steps:
                if self._out_of_patience():  # here: a run may be cut off just as it comes to that
                    bar.write(
                        f"no better dev score for {self.settings.patience:g} epochs: stopping"
                    )
                    break
                schedule = self.plan.schedule
                if schedule and (shape := schedule.due(step.number)):
                    self._prune(step.number, shape, schedule, bar)
                self._update(step)
                self.progress.step = step.number
                bar.update()
                self._after_step(step.number, bar)
                if agree_to_stop(self.accelerator, stop, step.number % CHECK_STEPS == 0):
                    save_state(self)
                    raise Interrupted
            self._finish(bar)
        return self.progress

    def _after_step(self, step: int, bar: Bar) -> None:
        """Whatever is due now: losses, evaluation, an intermediate model, the state."""
        settings = self.settings
        if settings.eval_step and step % settings.eval_step == 0:
            self._evaluate(bar)
        if step % CHECK_STEPS == 0:
            self.read_losses()
        often = settings.log_step or max(CHECK_STEPS, self.total_steps // LOGGED_POINTS)
        if step % often == 0:
            self._log_losses(bar)
        if settings.save_steps and step % settings.save_steps == 0 and self.save:
            if self.accelerator.is_main_process:
                self.save(self.whole_model, f"checkpoint-{step}")
        if step % settings.save_state_steps == 0 and step < self.total_steps:
            save_state(self)

    def _finish(self, bar: Bar) -> None:
        self._log_losses(bar)
        self._last_evaluation(bar)
        if self.progress.best.get("collapsed"):
            bar.write(COLLAPSED)
        self.progress.seconds += time.perf_counter() - self.started
        if self.curves:
            self.curves.close()
        self.accelerator.wait_for_everyone()  # the best model is written by the main process

    @property
    def whole_model(self) -> RositaForSequenceClassification:
        """The model being trained, with the embedding rows of all tokens."""
        return self.vocabulary.restore(self.student) if self.vocabulary else self.student

    @property
    def student(self) -> RositaForSequenceClassification:
        """The model being trained, without the wrapper of many processes."""
        return self.accelerator.unwrap_model(self.model)

    # ------------------------------------------------------------------ one step

    def _update(self, step: Step) -> None:
        """Forward, backward and one optimizer step on the global batch."""
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(step.micro_batches, 1):
            last = number == len(step.micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                for name, value in self._backward(batch, step).items():
                    sums[name] = sums[name] + value if name in sums else value
        self.unread.append((step.number, sums))
        self.accelerator.unscale_gradients(self.optimizer)  # fp16; once only, so clipped below
        if self.importance.sums and gradients_are_finite(self.accelerator, self.student):
            self.importance.add(self.student)
        if not self.plan.update and self.accelerator.scaler:
            self.accelerator.scaler.update()
        if self.plan.update:
            settings = self.settings
            clip_gradients(
                self.model.parameters(), settings.max_grad_norm, settings.clip == "global"
            )
            rate = self.rate(step.number - 1)
            set_rate(self.optimizer, settings, rate, self.progress.moment_steps)
            self.optimizer.step()
            if not self.optimizer.step_was_skipped:
                self.progress.moment_steps += 1
                if self.vocabulary:
                    layers, decay = self.config.num_hidden_layers, settings.layer_decay
                    rate *= rate_share(".embeddings.", layers, decay)
                    self.vocabulary.decay *= 1 - rate * settings.weight_decay

    def _backward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Add one micro-batch's gradients; return its share of each mean loss of the step."""
        with self.accelerator.autocast():
            losses = self.objective.losses(self.model, batch.to(self.accelerator.device))
        share = 0.0 if step.idle else 1.0
        means = {
            name: loss.total * (share / step.counts[loss.unit]) for name, loss in losses.items()
        }
        # DDP averages gradients over processes; the mean is over the global batch already
        self.accelerator.backward(sum(means.values()) * self.accelerator.num_processes)
        return {name: mean.detach() for name, mean in means.items()}

    def rate(self, done: int) -> float:
        """Learning rate after `done` steps."""
        return learning_rate(self.plan, self.progress, self.total_steps, done)

    # ------------------------------------------------------------------ pruning

    def _prune(self, step: int, shape: Shape, schedule: PruningSchedule, bar: Bar) -> None:
        """Swap the model for a smaller one; importance, and mostly the optimizer, start afresh."""
        rate = self.rate(step - 1)
        self.read_losses()
        if schedule.save_ladder:
            self._save_rung(bar)
        scores = self.importance.scores(self.student, divide_by=schedule.period)
        cut = Cut.decide(self.config, shape, scores)
        living = self.progress.survivors or all_units(self.config)
        self.progress.survivors, layers = follow(living, cut, scores)
        rotated = schedule.recompute_svd
        moments: Moments = {}
        if schedule.keep_optimizer:
            moments = surviving_moments(self.student, self.optimizer, cut, rotated)
        self.use(cut.of_model(self.whole_model, rotated))
        counted = self.settings.bias_correction
        put_moments(self.student, self.optimizer, moments, counted=counted)
        if not moments:
            self.progress.moment_steps = 0
        self.progress.anchor_step, self.progress.anchor_rate = step - 1, rate
        # the best model of a resumed run may be later than its state, and so than this pruning
        self.progress.last_gain = max(step, self.progress.last_gain)
        entry = {"kind": "pruning", "step": step, "shape": str(shape)}
        self._record(entry | ({"layers": layers} if layers else {}))
        bar.write(f"step {step}: pruned to {shape}")

    def _save_rung(self, bar: Bar) -> None:
        """Keep the model as it is before it is pruned, with its dev score."""
        evaluation = self._last_evaluation(bar)
        if evaluation and self.save and self.accelerator.is_main_process:
            self.save(self.whole_model, f"ladder/{Shape.of(self.config)}", evaluation)

    def use(self, model: RositaForSequenceClassification) -> None:
        """Train `model` from now on: a new optimizer, importance from zero."""
        self.config = model.config
        model = fast_on_cpu(model.to(self.accelerator.device).train())
        schedule = self.plan.schedule
        scored: tuple[str, ...] = ()  # matrices
        if not self.plan.update:
            scored = MATRICES
        elif schedule and schedule.depth_or_width == "width":
            if Shape.of(model.config) != schedule.target:
                scored = CUT_MATRICES
        self.importance = TaylorImportance(model, scored, self.settings.score_by == "unit")
        if self.vocabulary:
            self.vocabulary.shrink(model)
        optimizer = build_optimizer(model, self.settings)
        self.accelerator.free_memory()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    # ------------------------------------------------------------------ evaluation

    def _evaluate(self, bar: Bar) -> None:
        self.read_losses()
        if not self.evaluate:
            return
        scores = self.evaluate(self.student)
        progress = self.progress
        shape = Shape.of(self.config)
        entry = {
            "kind": "dev",
            "step": progress.step,
            "metric": scores.metric,
            "score": scores.main,
            **scores.all,
            "shape": str(shape),
            **({"collapsed": True} if scores.collapsed else {}),
        }
        candidate = not self.plan.schedule or shape == self.plan.schedule.target
        better = not progress.best or rank(entry) > rank(progress.best)
        if candidate and (better or self.plan.keep_last):
            self._take_for_best(entry)
            if self.save and self.accelerator.is_main_process:
                self.save(self.whole_model, evaluation=entry)
        self._record(entry)
        best = f", best {progress.best['score']:.4f}" if progress.best else ""
        same = " (all predictions are the same)" if scores.collapsed else ""
        bar.write(f"step {progress.step}: dev {scores.metric} {scores.main:.4f}{same}{best}")

    def _take_for_best(self, evaluation: dict[str, Any]) -> None:
        self.progress.best = evaluation
        self.progress.last_gain = evaluation["step"]

    def _last_evaluation(self, bar: Bar) -> dict[str, Any] | None:
        """The evaluation of the model as it stands, made now if there is none yet."""
        if not (entry := self._newest("dev")) or entry["step"] != self.progress.step:
            self._evaluate(bar)
            entry = self._newest("dev")
        return entry

    def _newest(self, kind: str) -> dict[str, Any] | None:
        """The last entry of the history that is of this kind: "loss", "dev" or "pruning"."""
        return next((e for e in reversed(self.progress.history) if e["kind"] == kind), None)

    def _out_of_patience(self) -> bool:
        if not self.settings.patience or not self.progress.best:
            return False
        evaluated = self._newest("dev")
        if not evaluated or evaluated["step"] != self.progress.step:
            return False  # since then it may have become better
        waited = self.progress.step - self.progress.last_gain
        return waited >= self.settings.patience * self.sampler.steps_per_epoch

    # ------------------------------------------------------------------ losses and logs

    def read_losses(self) -> None:
        """Fetch the losses since the last call from the device; stop if one is not finite."""
        if not self.unread:
            return
        steps = [step for step, _ in self.unread]
        columns = {}
        for name in self.unread[0][1]:
            values = torch.stack([losses[name] for _, losses in self.unread])
            columns[name] = self.accelerator.reduce(values, "sum").tolist()
            for step, value in zip(steps, columns[name], strict=True):
                if not math.isfinite(value):
                    self._not_finite(step, name, value)
        self.progress.losses += [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        self.unread.clear()

    def _log_losses(self, bar: Bar) -> None:
        """Record the mean of the losses since the last logged point."""
        self.read_losses()
        losses = self.progress.losses
        if not losses:
            return
        means = {name: sum(row[name] for row in losses) / len(losses) for name in losses[0]}
        bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
        loss = {f"loss_{name}": value for name, value in means.items()}
        self._record({"kind": "loss", "step": self.progress.step, **loss})
        losses.clear()

    def _not_finite(self, step: int, name: str, value: float) -> None:
        epoch, batch = divmod(step - 1, self.sampler.steps_per_epoch)
        kept = state_file(self.folder)
        there = f"; the last good state is kept in {kept.parent}" if kept.exists() else ""
        raise RositaError(
            f"the {name} loss is {value} at step {step} (epoch {epoch + 1}, batch {batch + 1}),"
            f" learning rate {self.rate(step - 1):.3g}{there}: try a lower --learning_rate or"
            " --precision fp32"
        )

    def _record(self, entry: dict[str, Any]) -> None:
        self.progress.history.append(entry)
        if self.curves:
            step = max(1, entry["step"])  # 0: a ladder's score of a model pruned at the first step
            self.curves.add(entry, self.rate(step - 1))

    def _open_log(self, log_dir: Path | None) -> None:
        if log_dir and self.accelerator.is_main_process:
            self.curves = Curves(
                self.settings.trackers,
                log_dir,
                self.accelerator,
                self.progress.step,
                self.settings.model_dump(mode="json"),
            )

    def _bar(self) -> Bar:
        return Bar(
            total=self.total_steps,
            initial=self.progress.step,
            desc="score" if not self.plan.update else "train",
            unit="step",
            disable=not self.accelerator.is_local_main_process,
        )
