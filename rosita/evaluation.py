"""Dev scores, predictions, result files, and the zip that the GLUE server takes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rosita.data.batches import Encoded, batches_by_length, in_file_order
from rosita.errors import RositaError
from rosita.files import atomic_write, write_json
from rosita.progress import Bar
from rosita.tables import printable
from rosita.tasks import GLUE, Task

EVAL_TOKENS_PER_ROW = 128  # a batch of short rows may hold more rows than eval_batch_size


@dataclass(frozen=True)
class Scores:
    """`main` decides which model is best; `all` holds every metric of the task by name.

    `collapsed`: all predictions are the same, and so the correlation that `main` stands for is
    undefined; such a model counts as worse than any other.
    """

    main: float
    metric: str
    all: dict[str, float]
    collapsed: bool = False


class UndefinedScore(RositaError):
    """The rows define no correlation. `collapsed`: because all predictions are the same."""

    def __init__(self, message: str, *, collapsed: bool) -> None:
        super().__init__(message)
        self.collapsed = collapsed


def score(task: Task, logits: np.ndarray, labels: np.ndarray) -> Scores:
    """The task's metrics from logits (rows, num_labels) and gold labels (rows,), or of several
    labels at once (rows, num_labels).

    The main score is Matthews (CoLA), accuracy (all others with labels; MRPC and QQP too), the
    mean of Pearson and Spearman (STS-B), or of several labels the F1 of all pairs of a row and a
    label. Matthews and F1 are 0 where they are 0/0, as scikit-learn has it; correlations raise
    `UndefinedScore` there.
    """
    if task.is_regression:
        return _correlations(logits[:, 0].astype(np.float64), np.asarray(labels, np.float64))
    if task.multi_label:
        return _micro_f1(logits > 0, np.asarray(labels) > 0.5)
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # heavy import

    predicted = logits.argmax(axis=1)
    found = {"accuracy": float(accuracy_score(labels, predicted))}
    if task.metric == "matthews":
        found["matthews"] = float(matthews_corrcoef(labels, predicted))
        return Scores(found["matthews"], "matthews", found, collapsed=_all_equal(predicted))
    if task.metric == "accuracy_and_f1":
        found["f1"] = float(f1_score(labels, predicted, zero_division=0.0))
    return Scores(found["accuracy"], "accuracy", found)


def _micro_f1(predicted: np.ndarray, labels: np.ndarray) -> Scores:
    """F1 of the pairs (row, label); accuracy: the share of rows with just their labels."""
    both, either = int((predicted & labels).sum()), int(predicted.sum() + labels.sum())
    f1 = 2 * both / either if either else 0.0
    right = float((predicted == labels).all(axis=1).mean())
    return Scores(f1, "micro_f1", {"micro_f1": f1, "accuracy": right})


def _correlations(predicted: np.ndarray, labels: np.ndarray) -> Scores:
    from scipy.stats import pearsonr, spearmanr  # heavy import

    for name, values in (("labels", labels), ("predictions", predicted)):
        if _all_equal(values):
            raise UndefinedScore(
                f"pearson and spearman are undefined on these {len(labels)} rows: all {name} are"
                " the same",
                collapsed=name == "predictions",
            )
    pearson = float(pearsonr(predicted, labels)[0])
    spearman = float(spearmanr(predicted, labels)[0])
    if not math.isfinite(pearson + spearman):
        raise RositaError(f"the predictions of these {len(labels)} rows are no finite numbers")
    mean = (pearson + spearman) / 2
    found = {"pearson": pearson, "spearman": spearman, "pearson_and_spearman": mean}
    return Scores(mean, "pearson_and_spearman", found)


def _all_equal(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def collapsed_scores(task: Task) -> Scores:
    """The worst score, for a regression whose predictions are all the same: it has no other."""
    return Scores(-1.0, task.metric, {}, collapsed=True)


def published_metrics(task: Task, scores: Scores) -> dict[str, float]:
    """The same metrics under the names that the reference's eval_results.txt has for them."""
    found = scores.all
    match task.metric:
        case "matthews":
            return {"mcc": found["matthews"]}
        case "accuracy":
            return {"acc": found["accuracy"]}
        case "accuracy_and_f1":
            mean = (found["accuracy"] + found["f1"]) / 2
            return {"acc": found["accuracy"], "f1": found["f1"], "acc_and_f1": mean}
        case "micro_f1":
            return {"micro_f1": found["micro_f1"], "acc": found["accuracy"]}
        case "pearson_and_spearman":
            return {
                "pearson": found["pearson"],
                "spearmanr": found["spearman"],
                "corr": found["pearson_and_spearman"],
            }


def mean_loss(task: Task, logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the rows of the cross-entropy (of several labels the mean of each one's), or of the
    squared error (regression), in float64.

    The reference averages the means of its batches, of which the last may be smaller.
    """
    exact = logits.astype(np.float64)
    if task.is_regression:
        return float(np.mean((exact[:, 0] - labels.astype(np.float64)) ** 2))
    if task.multi_label:
        softplus = np.maximum(exact, 0) + np.log1p(np.exp(-np.abs(exact)))
        return float(np.mean(softplus - exact * labels))
    exact -= exact.max(axis=1, keepdims=True)  # so that no exponential overflows
    chosen = exact[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(exact).sum(axis=1)) - chosen))


def paired_bootstrap(
    task: Task,
    ours: Sequence[Sequence[np.ndarray]],
    theirs: Sequence[Sequence[np.ndarray]],
    labels: np.ndarray,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of the difference of two main scores, each the mean over some trainings' means.

    `ours`, `theirs`: of each training the logits (rows, num_labels) of one model a training seed.
    Rows are drawn with replacement, the same for all models, and each training's seeds as well
    (percentile bootstrap, Efron). A few seeds tell little of how far seeds differ: of three, the
    interval takes two thirds of their variance for all of it, of two half. Draws on which a score
    is undefined are left out.
    """
    random = np.random.default_rng(seed)
    differences = []
    for _ in range(draws):
        rows = random.integers(len(labels), size=len(labels))
        try:
            one, other = (
                np.mean([_mean_of_drawn(task, line, rows, labels, random) for line in side])
                for side in (ours, theirs)
            )
        except UndefinedScore:
            continue
        differences.append(float(one - other))
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def _mean_of_drawn(
    task: Task,
    models: Sequence[np.ndarray],
    rows: np.ndarray,
    labels: np.ndarray,
    random: np.random.Generator,
) -> float:
    """The mean main score on `rows` of as many models as there are, drawn with replacement."""
    drawn = random.integers(len(models), size=len(models)).tolist()
    found = {n: score(task, models[n][rows], labels[rows]).main for n in set(drawn)}
    return float(np.mean([found[n] for n in drawn]))


@torch.inference_mode()
def predict(
    model: nn.Module, data: Encoded, batch_size: int, progress: str | None = None
) -> np.ndarray:
    """Logits (rows, num_labels) in float32, in the order of the file; rows batched by length.

    `progress` names the bar that is shown; None shows none.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    order = list(batches_by_length(data, batch_size * EVAL_TOKENS_PER_ROW))
    answers = []
    bar = Bar(total=len(data), desc=progress, unit="row", disable=progress is None)
    for rows in order:
        bar.update(len(rows))
        batch = data.batch(rows).to(device)
        answers.append(model(**batch.inputs).logits.float())
    bar.close()
    model.train(was_training)
    # read at the end alone: reading each batch would have the host wait for the device each time
    logits = in_file_order(order, [answer.cpu().numpy() for answer in answers])
    check_finite(logits, data)
    return logits


def check_finite(logits: np.ndarray, data: Encoded) -> None:
    """`RositaError` if a model's answers to rows of `data` are no numbers."""
    if not np.isfinite(logits).all():
        raise RositaError(f"the model gives NaN or infinite logits on {data.path}")


def write_eval_results(folder: Path, name: str, scores: Scores, **more: object) -> None:
    """`NAME.txt` (the reference's `key = value` lines) and `NAME.json` with the same."""
    values = {**scores.all, **more, **({"collapsed": True} if scores.collapsed else {})}
    with atomic_write(folder / f"{name}.txt") as file:
        file.writelines(f"{key} = {value}\n" for key, value in sorted(values.items()))
    write_json(folder / f"{name}.json", {"metric": scores.metric, "score": scores.main, **values})


def prediction_texts(task: Task, logits: np.ndarray) -> list[str]:
    """What the GLUE server reads per row: a label's name, or a number in the task's range; of
    several labels their names with commas between."""
    if task.labels is None:
        values = logits[:, 0].clip(*task.label_range) if task.label_range else logits[:, 0]
        return [f"{value:.3f}" for value in values]
    if task.multi_label:
        return [",".join(np.array(task.labels)[row]) for row in logits > 0]
    return [task.labels[index] for index in logits.argmax(axis=1)]


def write_predictions(path: Path, texts: list[str]) -> None:
    """`index<TAB>prediction`, one line per row of the test file; a label's tab becomes a space."""
    with atomic_write(path) as file:
        file.write("index\tprediction\n")
        file.writelines(f"{index}\t{printable(text)}\n" for index, text in enumerate(texts))


def write_submission(path: Path, test_results: dict[str, Path]) -> list[str]:
    """Write the GLUE server's zip when every task's predictions are there; else name the missing.

    `test_results`: submission file name (CoLA.tsv, MNLI-m.tsv, ..., AX.tsv) -> result file.
    """
    wanted = [name for task in GLUE.values() for name in task.submission_files] + ["AX.tsv"]
    missing = [name for name in wanted if name not in test_results]
    if missing:
        return missing
    with atomic_write(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as box:
        for name in wanted:
            # A fixed date: the same predictions give the same bytes.
            entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            box.writestr(entry, test_results[name].read_bytes())
    return []
