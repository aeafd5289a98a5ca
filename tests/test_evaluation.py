"""Every metric against its formula in float64, those cases included where it is 0/0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rosita.errors import RositaError
from rosita.evaluation import (
    UndefinedScore,
    mean_loss,
    paired_bootstrap,
    prediction_texts,
    published_metrics,
    score,
    write_predictions,
)
from rosita.tasks import GLUE, Task

# --- the oracles: formulas in float64, none of them from a library ---------------------------


def table(predicted, labels):
    """True positives, false positives, false negatives, true negatives."""
    pairs = [(int(p), int(is_)) for p, is_ in zip(predicted, labels, strict=True)]
    return tuple(float(pairs.count(pair)) for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))


def matthews(predicted, labels):
    tp, fp, fn, tn = table(predicted, labels)
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


def f1(predicted, labels):
    tp, fp, fn, _ = table(predicted, labels)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def pearson(one, other):
    one, other = (np.asarray(values, np.float64) for values in (one, other))
    one, other = one - one.mean(), other - other.mean()
    return (one * other).sum() / math.sqrt((one**2).sum() * (other**2).sum())


def ranks(values):
    """1 for the smallest; values that tie share the mean of their ranks."""
    values = np.asarray(values, np.float64)
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def logits_of(predicted, num_labels, rng):
    """Random logits (rows, num_labels) of which the predicted label's is the largest."""
    logits = rng.normal(size=(len(predicted), num_labels)).astype(np.float32)
    logits[np.arange(len(predicted)), predicted] = logits.max(axis=1) + 0.1
    return logits


def draws(num_labels, count=40):
    """(predictions, labels) of several sizes, and all the lopsided ones of two labels."""
    rng = np.random.default_rng(num_labels)
    for _ in range(count):
        rows = int(rng.integers(2, 60))
        yield rng.integers(num_labels, size=rows), rng.integers(num_labels, size=rows)
    mixed = np.array([0, 1, 1, 0, 1])
    for constant in (np.zeros(5, int), np.ones(5, int)):
        yield constant, mixed
        yield mixed, constant
        for other in (np.zeros(5, int), np.ones(5, int)):
            yield constant, other


# --- the claims ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["CoLA", "SST-2", "MNLI", "QNLI", "QQP", "MRPC", "RTE", "WNLI"])
def test_scores_of_labels_are_those_of_their_formulas(task):
    task, rng = GLUE[task], np.random.default_rng(0)
    for predicted, labels in draws(task.num_labels):
        found = score(task, logits_of(predicted, task.num_labels, rng), labels)
        expected = {"accuracy": float((predicted == labels).mean())}
        if task.metric == "matthews":
            expected["matthews"] = matthews(predicted, labels)
        if task.metric == "accuracy_and_f1":
            expected["f1"] = f1(predicted, labels)
        assert found.all == pytest.approx(expected, abs=1e-12)
        assert found.main == found.all[found.metric]
        assert found.metric == ("matthews" if task.metric == "matthews" else "accuracy")


@pytest.mark.parametrize("levels", [None, 26, 6, 2])  # None: without ties
def test_correlations_are_those_of_their_formulas_ties_included(levels):
    rng = np.random.default_rng(levels or 0)
    for rows in (2, 3, 17, 400):
        labels = rng.uniform(0, 5, size=rows)
        predicted = 3 + 0.5 * labels + rng.normal(size=rows)
        if levels:
            labels, predicted = (np.floor(v * levels / 6) / levels for v in (labels, predicted))
        labels[:2], predicted[:2] = (0, 5), (4, 1)  # neither is all the same
        labels, logits = labels.astype(np.float32), predicted.astype(np.float32)[:, None]
        found = score(GLUE["STS-B"], logits, labels)
        expected = {
            "pearson": pearson(logits[:, 0], labels),
            "spearman": pearson(ranks(logits[:, 0]), ranks(labels)),
        }
        expected["pearson_and_spearman"] = sum(expected.values()) / 2
        assert found.all == pytest.approx(expected, abs=1e-12)
        assert found.main == found.all["pearson_and_spearman"] and not found.collapsed


def test_predictions_that_differ_in_their_last_bit_still_correlate():
    logits = np.full((4, 1), 2.5, np.float32)
    logits[3] = np.nextafter(np.float32(2.5), np.float32(3))
    found = score(GLUE["STS-B"], logits, np.array([0, 1, 2, 3], np.float32))
    assert found.all["pearson"] == pytest.approx(pearson([0, 0, 0, 1], [0, 1, 2, 3]), abs=1e-6)


@pytest.mark.parametrize(
    "predicted, labels, cause",
    [
        ([2.5, 2.5, 2.5], [0, 1, 2], "predictions"),
        ([1, 2, 3], [4, 4, 4], "labels"),
        ([1, 1, 1], [4, 4, 4], "labels"),  # no model could do better on such data
        ([1], [4], "labels"),
    ],
)
def test_a_correlation_that_is_undefined_says_what_is_all_the_same(predicted, labels, cause):
    with pytest.raises(UndefinedScore, match=f"all {cause} are the same") as caught:
        score(GLUE["STS-B"], np.array(predicted, np.float32)[:, None], np.array(labels))
    assert caught.value.collapsed == (cause == "predictions")


def test_numbers_that_are_not_finite_are_no_scores():
    with pytest.raises(RositaError, match="no finite numbers"):
        score(GLUE["STS-B"], np.array([[1.0], [np.nan], [2.0]]), np.array([1.0, 2.0, 3.0]))


def test_only_a_matthews_of_one_prediction_for_all_rows_is_collapsed():
    labels = np.array([0, 1, 1, 0])
    alike = logits_of(np.ones(4, int), 2, np.random.default_rng(0))
    assert score(GLUE["CoLA"], alike, labels).collapsed
    assert not score(GLUE["CoLA"], np.eye(2)[labels], labels).collapsed
    # accuracy is defined there, and the majority's label a fair answer
    assert not score(GLUE["SST-2"], alike, labels).collapsed
    assert not score(GLUE["MRPC"], alike, labels).collapsed


def test_the_loss_is_the_mean_over_rows_of_cross_entropy_or_squared_error():
    rng = np.random.default_rng(0)
    for name in ("CoLA", "MNLI"):
        classes = GLUE[name].num_labels
        logits = rng.normal(scale=3, size=(33, classes)).astype(np.float32)
        labels = rng.integers(classes, size=33)
        exact = logits.astype(np.float64)
        shares = [
            math.exp(row[label]) / sum(map(math.exp, row))
            for row, label in zip(exact.tolist(), labels, strict=True)
        ]
        expected = -sum(map(math.log, shares)) / 33
        assert mean_loss(GLUE[name], logits, labels) == pytest.approx(expected, rel=1e-12)
    logits = rng.normal(size=(33, 1)).astype(np.float32)
    labels = rng.uniform(0, 5, size=33).astype(np.float32)
    expected = sum((float(p) - float(v)) ** 2 for p, v in zip(logits[:, 0], labels, strict=True))
    assert mean_loss(GLUE["STS-B"], logits, labels) == pytest.approx(expected / 33, rel=1e-12)


def test_the_loss_of_large_logits_is_a_number():
    logits = np.array([[1000, -1000], [0, 0]], np.float32)
    found = mean_loss(GLUE["CoLA"], logits, np.array([1, 0]))
    assert found == pytest.approx((2000 + math.log(2)) / 2)


def test_the_published_names_stand_for_their_formulas():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(2, size=50), rng.integers(2, size=50)
    accuracy, f = float((predicted == labels).mean()), f1(predicted, labels)
    logits = logits_of(predicted, 2, rng)
    pair = {"acc": accuracy, "f1": f, "acc_and_f1": (accuracy + f) / 2}
    for name, expected in (
        ("CoLA", {"mcc": matthews(predicted, labels)}), ("SST-2", {"acc": accuracy}),
        ("RTE", {"acc": accuracy}), ("QQP", pair), ("MRPC", pair),
    ):  # fmt: skip
        found = published_metrics(GLUE[name], score(GLUE[name], logits, labels))
        assert found == pytest.approx(expected, abs=1e-12), name
    numbers, gold = rng.normal(size=50), rng.normal(size=50)
    r, rho = pearson(numbers, gold), pearson(ranks(numbers), ranks(gold))
    found = published_metrics(GLUE["STS-B"], score(GLUE["STS-B"], numbers[:, None], gold))
    expected = {"pearson": r, "spearmanr": rho, "corr": (r + rho) / 2}
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_bootstrap_leaves_draws_without_a_score_out():
    labels = np.array([0.0, 5.0, 5.0])  # many draws hold one label alone
    first, second = (np.array(v, np.float32)[:, None] for v in ([0, 4, 5], [0, 5, 4]))
    low, high = paired_bootstrap(GLUE["STS-B"], [[first]], [[second]], labels, draws=200)
    assert -1 <= low <= 0 <= high <= 1


def test_predictions_are_a_line_a_row_whatever_stands_in_a_label(tmp_path):
    labels = ('5" disk', "it's, so", "a\ttab", "two\r\nlines", "back\\slash", "schön", "")
    task = Task(name="own", labels=labels, metric="accuracy", text_columns=(0,))
    write_predictions(tmp_path / "own.tsv", prediction_texts(task, np.eye(len(labels))))
    expected = ["index\tprediction", '0\t5" disk', "1\tit's, so", "2\ta tab", "3\ttwo  lines"]
    expected += ["4\tback\\slash", "5\tschön", "6\t"]
    assert (tmp_path / "own.tsv").read_bytes().decode().split("\n") == [*expected, ""]


@pytest.mark.parametrize("name", GLUE)
def test_the_predictions_of_glue_are_labels_and_numbers_as_the_server_reads_them(tmp_path, name):
    task = GLUE[name]
    logits = np.eye(len(task.labels)) if task.labels else np.array([[-1.0], [2.34567], [7.0]])
    write_predictions(tmp_path / "out.tsv", prediction_texts(task, logits))
    texts = task.labels or ("0.000", "2.346", "5.000")
    lines = "".join(f"{index}\t{text}\n" for index, text in enumerate(texts))
    assert (tmp_path / "out.tsv").read_bytes() == b"index\tprediction\n" + lines.encode()
