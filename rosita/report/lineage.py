"""The family tree of a task's models, laid out: who gave the weights, who taught."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rosita.report.collection import Group, Report
from rosita.report.runs import WEIGHT_ROLES, Parent, tail
from rosita.report.texts import how_made, score_text, shortened

BOX_WIDTH, BOX_HEIGHT, GAP, ROW_GAP = 212, 78, 48, 18
LANE = 10  # height of an edge that passes through a column


@dataclass(eq=False)
class Node:
    """A box, or (without lines) the bend of an edge that passes through a column."""

    key: str
    lines: list[str]
    kind: str = ""
    parents: list[tuple[Node, str]] = field(default_factory=list)  # (node, "weights" or "teacher")
    column: int = 0
    y: float = 0.0

    @property
    def height(self) -> int:
        return BOX_HEIGHT if self.lines else LANE

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Box:
    """A model as it is drawn; `lines`: (class, text, height)."""

    kind: str
    title: str
    x: int
    y: float
    lines: list[tuple[str, str, float]]
    width: int = BOX_WIDTH
    height: int = BOX_HEIGHT


@dataclass(frozen=True)
class Edge:
    """The paths of a curve from box to box, and of the arrow head at its end."""

    kind: str
    curve: str
    head: str


@dataclass(frozen=True)
class Tree:
    width: int
    height: float
    edges: list[Edge]
    boxes: list[Box]


def lineage(report: Report, task: str) -> Tree | None:
    """The tree of one task: seeds share a box, a ladder is named in its run's; None for one box."""
    nodes = _nodes(report, task)
    if len(nodes) < 2:
        return None
    _columns(nodes)
    columns, edges = _with_bends(nodes)
    _place(columns, edges)
    return Tree(
        width=len(columns) * (BOX_WIDTH + GAP) - GAP + 16,
        height=max(node.y + node.height for column in columns for node in column) + 8,
        edges=[_edge(path, kind) for path, kind in edges],
        boxes=[_box(node) for column in columns for node in column if node.lines],
    )


def _nodes(report: Report, task: str) -> list[Node]:
    """A node per group of the task and of what it comes from, and one per parent not at hand."""
    own = [group for group in report.groups if group.first.record.task == task]
    wanted = [group for group in own if group.first.record.stage not in ("taylor", "ladder")]
    above = [report.group_of(model) for group in wanted for model in group.first.ancestors()]
    groups = list(dict.fromkeys([*wanted, *above]))
    rungs = Counter(
        model.parent(*WEIGHT_ROLES)
        for group in own
        for model in group.members
        if model.record.stage == "ladder"
    )
    nodes = {
        _key(report, group): Node(
            _key(report, group), _lines(group, rungs[group.first]), group.first.record.stage
        )
        for group in groups
    }
    for group in groups:
        for parent in group.first.parents:
            _join(report, nodes, nodes[_key(report, group)], parent)
    return list(nodes.values())


def _key(report: Report, group: Group) -> str:
    return f"group {report.groups.index(group)}"


def _lines(group: Group, rungs: int) -> list[str]:
    """Name, shape, what was done, and how good it is."""
    record = group.first.record
    made = how_made(group.first) if record.finished else "unfinished"
    ladder = f"ladder of {rungs}" if rungs else ""
    facts = [score_text(group) if group.scores else "", ladder]
    return [group.label, record.shape or record.model or "", made, " · ".join(filter(None, facts))]


def _join(report: Report, nodes: dict[str, Node], node: Node, parent: Parent) -> None:
    kind = "teacher" if parent.role == "teacher" else "weights"
    if parent.model:
        key = _key(report, report.group_of(parent.model))
    else:
        key = f"absent {parent.place}"
        nodes.setdefault(
            key, Node(key, [tail(parent.path, 2), "", "not in this folder", ""], "absent")
        )
    if key in nodes and nodes[key] is not node and (nodes[key], kind) not in node.parents:
        node.parents.append((nodes[key], kind))


def _columns(nodes: list[Node]) -> None:
    """Each node right of all its parents; a circle (a copied record) stops after a few rounds."""
    for _ in nodes:
        for node in nodes:
            least = max((parent.column + 1 for parent, _ in node.parents), default=0)
            node.column = max(node.column, min(least, len(nodes)))


def _with_bends(nodes: list[Node]) -> tuple[list[list[Node]], list[tuple[list[Node], str]]]:
    """The columns, and each edge as the nodes it runs through, bends in the columns it crosses."""
    columns: list[list[Node]] = [[] for _ in range(max(node.column for node in nodes) + 1)]
    for node in nodes:
        columns[node.column].append(node)
    edges = []
    for node in nodes:
        for parent, kind in node.parents:
            bends = [
                Node(f"bend {parent.key} {node.key} {kind}", [], column=column)
                for column in range(parent.column + 1, node.column)
            ]
            for bend in bends:
                columns[bend.column].append(bend)
            edges.append(([parent, *bends, node], kind))
    return columns, edges


def _place(columns: list[list[Node]], edges: list[tuple[list[Node], str]]) -> None:
    """Order each column by the mean height of its neighbours, a few times to and fro; pack it."""
    near: dict[int, list[Node]] = {}
    for path, _ in edges:
        for left, right in zip(path, path[1:], strict=False):
            near.setdefault(id(left), []).append(right)
            near.setdefault(id(right), []).append(left)
    for column in columns:
        _pack(column)
    for turn in range(8):
        for column in columns if turn % 2 == 0 else columns[::-1]:
            wish = {}
            for node in column:
                others = near.get(id(node), [node])
                wish[id(node)] = sum(other.middle for other in others) / len(others)
            column.sort(key=lambda node: wish[id(node)])
            _pack(column)
            shift = sum(wish[id(node)] - node.middle for node in column) / max(1, len(column))
            for node in column:
                node.y += shift
    top = min(node.y for column in columns for node in column)
    for column in columns:
        for node in column:
            node.y += 8 - top


def _pack(column: list[Node]) -> None:
    y = 0.0
    for node in column:
        node.y = y
        y += node.height + ROW_GAP


def _edge(path: list[Node], kind: str) -> Edge:
    """A curve from the right of a box, through the bends, to the left of another, with a head."""
    shift = 9 if kind == "teacher" else -9  # both kinds may join the same two boxes
    left = 8 + path[0].column * (BOX_WIDTH + GAP) + BOX_WIDTH
    curve = f"M{left} {path[0].middle + shift:.1f}"
    for before, node in zip(path, path[1:], strict=False):
        at = 8 + node.column * (BOX_WIDTH + GAP)
        out = at - GAP
        start = before.middle + (shift if before.lines else 0)
        end = node.middle + (shift if node.lines else 0)
        tip = 0 if not node.lines else 7
        curve += (
            f" C{out + GAP / 2:.1f} {start:.1f} {at - GAP / 2:.1f} {end:.1f} {at - tip} {end:.1f}"
        )
        if not node.lines:
            curve += f" H{at + BOX_WIDTH}"
    x, y = 8 + path[-1].column * (BOX_WIDTH + GAP), path[-1].middle + shift
    head = f"M{x - 8} {y - 4.5:.1f}L{x} {y:.1f}L{x - 8} {y + 4.5:.1f}z"
    return Edge(kind, curve, head)


def _box(node: Node) -> Box:
    lines = [
        (name, shortened(line, 21 if name == "name" else 27))  # names are bold
        for name, line in zip(("name", "shape", "how", "score"), node.lines, strict=True)
        if line
    ]
    first = node.y + BOX_HEIGHT / 2 - 8 * (len(lines) - 1) + 4.5
    return Box(
        kind=node.kind if node.kind.isidentifier() else "unknown",
        title=" | ".join(filter(None, node.lines)),
        x=8 + node.column * (BOX_WIDTH + GAP),
        y=node.y,
        lines=[(name, line, first + 16.5 * at) for at, (name, line) in enumerate(lines)],
    )
