"""The drawing of a family tree: what stands where, and that nothing runs through a box."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rosita.report.collection import Group, Report
from rosita.report.lineage import lineage
from rosita.report.runs import Model, Parent, Record

# a model -> those that it comes from, by role
TREE = {
    "bert_pt": {},
    "bert_ft": {"model": "bert_pt"},
    "student": {"teacher": "bert_ft", "student": "bert_pt"},
    "cut": {"model": "student"},
    "setting": {"teacher": "bert_ft", "student": "cut"},
    "other": {"teacher": "student", "student": "bert_ft"},
}


def report(tree: dict[str, dict[str, str]]) -> Report:
    models = {
        name: Model(name, Path(name), Record(stage="distil", task="CoLA", finished=True))
        for name in tree
    }
    for name, parents in tree.items():
        models[name].parents = [
            Parent(role, parent, None, "path" if parent in models else "absent", models.get(parent))
            for role, parent in parents.items()
        ]
    groups = [Group([model]) for model in models.values()]
    return Report(Path("models"), list(models.values()), groups, [], [], [])


@pytest.fixture(scope="module")
def tree():
    return lineage(report(TREE), "CoLA")


def boxes(tree):
    return {box.title.split(" | ")[0]: box for box in tree.boxes}


def test_each_model_is_a_box_right_of_all_that_it_comes_from(tree):
    at = boxes(tree)
    assert at.keys() == TREE.keys() and len(tree.boxes) == len(TREE)
    for name, parents in TREE.items():
        assert all(at[name].x >= at[parent].x + at[parent].width for parent in parents.values())


def test_boxes_lie_within_the_tree_and_on_no_other(tree):
    for box in tree.boxes:
        assert 0 <= box.x and box.x + box.width <= tree.width
        assert 0 <= box.y and box.y + box.height <= tree.height
        for other in tree.boxes:
            apart = other.y >= box.y + box.height or box.y >= other.y + other.height
            assert other is box or other.x != box.x or apart


def test_an_edge_per_parent_begins_and_ends_at_its_boxes(tree):
    at = boxes(tree)
    expected = sorted(
        ("teacher" if role == "teacher" else "weights", at[parent].x + at[parent].width, at[name].x)
        for name, parents in TREE.items()
        for role, parent in parents.items()
    )
    found = []
    for edge in tree.edges:
        begin = int(re.match(r"M(\d+) ", edge.curve)[1])
        tip = int(re.search(r"L(\d+) ", edge.head)[1])
        found.append((edge.kind, begin, tip))
    assert sorted(found) == expected


def test_an_edge_over_a_column_passes_between_its_boxes(tree):
    passed = 0
    for edge in tree.edges:
        for x, y, end in re.findall(r" (\d+) ([\d.]+) H(\d+)", edge.curve):
            for box in tree.boxes:
                if box.x == int(x):
                    assert int(end) == box.x + box.width
                    assert not box.y <= float(y) <= box.y + box.height
            passed += 1
    assert passed >= 3  # bert_pt to the student, bert_ft to the setting over two columns


def test_a_parent_that_is_not_at_hand_is_a_box_and_a_lone_model_is_no_tree():
    found = lineage(report({"bert_ft": {"model": "elsewhere"}}), "CoLA")
    assert {box.kind for box in found.boxes} == {"distil", "absent"}
    assert lineage(report({"bert_ft": {}}), "CoLA") is None
    assert lineage(report(TREE), "MNLI") is None


def test_models_that_name_each_other_as_parents_are_drawn_all_the_same():
    found = lineage(report({"one": {"model": "two"}, "two": {"model": "one"}}), "CoLA")
    assert len(found.boxes) == len(found.edges) == 2
