"""What a line of a table says of its records: numbers over seeds, as texts."""

from __future__ import annotations

from math import sqrt
from statistics import mean, stdev, variance

from records import difference_95, held_out

OVER_SEEDS = " †"


def spread(values: list[float]) -> str:
    """`88.1 ± 0.3`, or the one value, or a dash."""
    if not values:
        return "–"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def signed(points: float) -> str:
    """`+0.6`; no -0.0."""
    return f"{round(points, 1) + 0.0:+.1f}"


def difference(found: list[dict]) -> str:
    """The intervals of the difference to the teacher, in points."""
    intervals, over_seeds = difference_95(found)
    texts = [f"{signed(100 * low)} to {signed(100 * high)}" for low, high in intervals]
    return "; ".join(texts) + OVER_SEEDS * over_seeds


def shares_kept(found: list[dict]) -> list[float]:
    """Of the teacher's dev score, in percent."""
    return [100 * record["score"] / record["teacher_score"] for record in found]


def dev_scores(found: list[dict]) -> list[float]:
    """In percent."""
    return [100 * record["score"] for record in found]


def gain(plus: list[list[float]], minus: list[list[float]]) -> tuple[float, float | None]:
    """The mean of the means of some lines, less that of others, and its standard error.

    Each line is its seeds' values, drawn independently; a line of one seed has no error to add, so
    that there is none.
    """
    value = mean(map(mean, plus)) - mean(map(mean, minus))
    if min(map(len, plus + minus)) < 2:
        return value, None
    parts = (variance(line) / len(line) / len(side) ** 2 for side in (plus, minus) for line in side)
    return value, sqrt(sum(parts))


def scores_on(part: str, found: list[dict]) -> list[float]:
    """CoLA's score, in percent, on one part of dev; of the records that have it apart."""
    return [100 * r["by_source"][part]["score"] for r in found if "by_source" in r]


def agreements(found: list[dict]) -> list[float]:
    """With the teacher on dev, in percent; of the records that have it."""
    return [100 * record["agreement"] for record in found if "agreement" in record]


def teachers(found: list[dict]) -> str:
    """The dev scores of the seeds' teachers, in percent, each once."""
    return ", ".join(dict.fromkeys(f"{100 * record['teacher_score']:.1f}" for record in found))


def states_kept(found: list[dict]) -> str:
    """MB that the teacher's hidden states took on disk in the stages of KD, mean over seeds; a dash
    if it is noted nowhere.
    """
    name = "teacher_states_bytes"
    noted = [[stage[name] for stage in stages_of_kd(one) if name in stage] for one in found]
    largest = [max(of_stages) for of_stages in noted if of_stages]
    if not largest:
        return "–"
    size = mean(largest) / 1e6
    return f"{size:.3g}" if size < 999.5 else f"{size:,.0f}"  # not 1.03e+03


def minutes(found: list[dict]) -> list[float]:
    """Of the training in the stages of KD, by the wall clock."""
    return [sum(stage["seconds"] for stage in stages_of_kd(one)) / 60 for one in found]


def stages_of_kd(record: dict) -> list[dict]:
    return [stage for stage in record["stages"] if stage.get("stage") == "distil"]


def arithmetic(found: list[dict]) -> str:
    """What the last stage was computed in, `fp32`, or of each seed, `fp32; bf16`; a dash where it
    is not noted; nothing if no record has it.
    """
    noted = [r["stages"][-1].get("arithmetic", " –").rpartition(" ")[2] for r in found]
    if len(set(noted)) == 1:
        return noted[0].strip("–")
    return "; ".join(noted)


# What a line of a table says of its records, by the name that findings.md calls it.
NUMBERS = {
    "held_out": lambda found: spread(held_out(found)),
    "dev": lambda found: spread(dev_scores(found)),
    "held_out_1": lambda found: spread(held_out(found)[:1]),  # of the first seed
    "dev_1": lambda found: spread(dev_scores(found)[:1]),
    "known": lambda found: spread(scores_on("known", found)),
    "known_1": lambda found: spread(scores_on("known", found[:1])),
    "new": lambda found: spread(scores_on("new", found)),
    "new_1": lambda found: spread(scores_on("new", found[:1])),
    "agreement": lambda found: spread(agreements(found)),
    "teacher": teachers,
    "kept": lambda found: f"{mean(shares_kept(found)):.1f} %",
    "kept_by_seed": lambda found: ", ".join(f"{share:.1f}" for share in shares_kept(found)),
    "arithmetic": arithmetic,
    "states_kept": states_kept,
    "minutes": lambda found: spread(minutes(found)),
    "seeds": lambda found: ", ".join(str(record["seed"]) for record in found),
}
