"""How the report words what it knows of a model: scores, sizes, times, ways of making."""

from __future__ import annotations

from rosita.report.collection import Group
from rosita.report.runs import WEIGHT_ROLES, Model, tail


def how_made(model: Model) -> str:
    """What a run did, in a few words."""
    way = model.record.identity.settings.get("depth_or_width")
    made = {
        "download_bert": "pretrained",
        "fine_tune": "tuned on labels",
        "one_step_prune": "pruned in one step",
        "distil": f"distilled, {way} pruned" if way else "distilled",
        "ladder": "passed on the way",
        "taylor": "Taylor scores",
    }
    return made.get(model.record.stage, model.record.stage)


def shortened(text: str, most: int) -> str:
    """A text of `most` characters at the most: of a name, its end tells more than its start."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def metric_label(metric: str | None) -> str:
    """How an axis or a column names a dev score times 100."""
    return "dev accuracy (%)" if metric == "accuracy" else f"dev {metric or 'score'} x 100"


def duration(seconds: float | None) -> str:
    """`5 s`, `3 min 20 s`, `2 h 05 min`; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def millions(count: float | None) -> str:
    """`14.5 M`, `109 M`; a dash for None."""
    if count is None:
        return "–"
    return f"{count / 1e6:.{0 if count >= 1e8 else 1 if count >= 1e6 else 3}f} M"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1f} %"


def score_text(group: Group) -> str:
    """`91.4`, or over seeds `91.2 ± 0.3 (n = 3)`: the score times 100."""
    if not group.scores:
        return "–"
    if group.deviation is None:
        return f"{100 * group.mean:.1f}"
    return f"{100 * group.mean:.1f} ± {100 * group.deviation:.1f} (n = {len(group.scores)})"


def pruned_how(model: Model) -> str:
    """The prunings that led to a model, oldest first: `depth iteratively, width iteratively`."""
    found = []
    seen: list[Model] = []
    at: Model | None = model
    while at and at not in seen:
        seen.append(at)
        way = at.record.identity.settings.get("depth_or_width")
        if at.record.stage == "one_step_prune":
            same = at.record.shape == model.record.shape
            found.append("one step" if same else f"one step to {at.record.shape}")
        elif at.record.stage == "distil" and way:
            found.append(f"{way} iteratively")
        at = at.parent(*WEIGHT_ROLES)
    return ", ".join(reversed(found)) or "–"


def taught_by(model: Model) -> str:
    model = run_of(model)
    for parent in model.parents:
        if parent.role == "teacher":
            name = parent.model.label if parent.model else tail(parent.path, 2)
            return f"{name} (its weights changed since)" if parent.how == "changed" else name
    return "labels" if model.record.stage == "fine_tune" else "–"


def trained_on(model: Model) -> str:
    data = run_of(model).record.data
    if not data.train:
        return "–"
    files = ", ".join(data.train[:2]) + (" ..." if len(data.train) > 2 else "")
    rows = f", {data.train_rows:,} rows" if data.train_rows is not None else ""
    return files + rows


def run_of(model: Model) -> Model:
    """The run that trained a model: for a rung of a ladder, the run it stood on."""
    return model.parent(*WEIGHT_ROLES) or model if model.record.stage == "ladder" else model
