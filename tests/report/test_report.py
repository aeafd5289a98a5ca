"""report.py: what it finds, joins, averages and writes, against the run.json files themselves."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import REPOSITORY, make_bert, write_cola
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rosita.errors import RositaError
from rosita.pruning.shape import Shape
from rosita.report.collection import build_report
from rosita.report.figures import (
    Point,
    curves,
    curves_figure,
    head_grids,
    pareto_front,
    shape_parts,
)
from rosita.report.lineage import lineage
from rosita.report.page import markdown, page
from rosita.report.runs import Entry, Layer, Record
from rosita.report.tables import beside_paper, latency_slice, numbers, over_seeds, results
from rosita.templating import markdown_text

SMALL = "a2_l4_f256_e64"
SCORES = {42: 0.45, 43: 0.47, 44: 0.40}
LAYERS = [  # of two prunings of a model with one layer
    {"heads_before": [0, 1, 2, 3], "head_scores": [4.0, 1.0, 2.0, 3.0], "heads": [0, 2, 3],
     "ffn_scores": [0.1, 0.4], "ffn_kept": [0.5, 1.0]},
    {"heads_before": [0, 2, 3], "head_scores": [5.0, 1.0, 10.0], "heads": [0, 3],
     "ffn_scores": [0.1, 0.4], "ffn_kept": [0.0, 1.0]},
]  # fmt: skip


def stage(script: str):
    spec = importlib.util.spec_from_file_location(Path(script).stem, REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


report_script = stage("report.py")


def write_run(folder: Path, **record: Any) -> Path:
    """A run.json as a stage writes it; `seed` and other settings go to its identity."""
    settings = {"seed": record.pop("seed", 42), **record.pop("settings", {})}
    whole = {"stage": "distil", "task": "CoLA", "finished": True, "metric": "matthews"}
    whole |= {"identity": {"settings": settings}} | record
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(whole))
    return folder


def link(path: object, weights: str | None = None) -> dict[str, Any]:
    return {"path": str(path), "weights": weights}


def make_tree(root: Path) -> Path:
    """bert_pt -> bert_ft -> one step -> setting1 with three seeds; setting4, pruned iteratively."""
    write_run(root / "bert_pt", stage="download_bert", task=None, model="bert-tiny")
    write_run(root / "bert_ft/CoLA", stage="fine_tune", weights="ft", dev_score=0.5,
              parameters=20_000_000, shape="a12_l6_f1536_e-1", seconds=60,
              parents={"model": link("../models/bert_pt", "pt")})  # fmt: skip
    write_run(root / f"one_step_prun/CoLA/{SMALL}", stage="one_step_prune", weights="cut",
              parameters=4_000_000, shape=SMALL, parents={"model": link("../x/bert_ft/CoLA", "ft")},
              history=[{"step": 0, "shape": SMALL, "layers": LAYERS[:1]}])  # fmt: skip
    for seed, score in SCORES.items():
        write_run(root / f"setting1_{seed}/CoLA/{SMALL}", seed=seed, weights=f"one{seed}",
                  dev_score=score, parameters=4_000_000, shape=SMALL, seconds=100 + seed,
                  parents={"teacher": link("elsewhere", "ft"), "student": link("gone", "cut")},
                  history=[{"step": 10, "loss_prediction": 0.5}, {"step": 10, "score": score,
                            "metric": "matthews", "shape": SMALL}])  # fmt: skip
    write_run(root / f"setting4/CoLA/{SMALL}", weights="four", dev_score=0.49, shape=SMALL,
              parameters=4_000_000, settings={"depth_or_width": "width"},
              parents={"teacher": link("../models/bert_ft/CoLA"),
                       "student": link("../models/bert_ft/CoLA")},
              history=[{"step": 4, "shape": "a3_l6_f512_e-1", "layers": LAYERS[:1]},
                       {"step": 5, "loss_prediction": 0.1, "loss_representation": 2.0},
                       {"step": 8, "shape": "a2_l6_f256_e-1", "layers": LAYERS[1:]},
                       {"step": 9, "score": 0.49, "shape": "a2_l6_f256_e-1"}])  # fmt: skip
    write_run(root / f"setting4/CoLA/{SMALL}/ladder/a3_l6_f512_e-1", stage="ladder",
              weights="rung", dev_score=0.495, parameters=9_000_000,
              shape="a3_l6_f512_e-1", run="models/elsewhere",
              parents={"teacher": link("../models/bert_ft/CoLA", "ft")})  # fmt: skip
    return root


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "models")


class Page(HTMLParser):
    """The tags of a page, what they point to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.targets.append(value or "")
            assert not name.startswith("on")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# ---------------------------------------------------------------------- finding


def test_every_run_is_found_once_whatever_links_and_circles_there_are(models):
    expected = {str(path.parent.relative_to(models)) for path in models.rglob("run.json")}
    (models / "aaa_link").symlink_to(models / "bert_ft")
    (models / "bert_ft" / "round").symlink_to(models)
    outside = write_run(models.parent / "outside" / "far", weights="far")
    (models / "linked").symlink_to(outside.parent)
    (models / "dangling").symlink_to("nowhere")
    names = [model.name for model in build_report(models).models]
    assert sorted(names) == sorted(expected | {"linked/far"})


def test_a_broken_file_costs_one_line_that_names_it_and_nothing_else(models, capsys):
    deep = b"[" * 700 + b"]" * 700
    broken = {
        "cut": b'{"stage": "dis', "list": b"[1]", "typed": b'{"dev_score": "high"}',
        "nan": b'{"dev_score": NaN}', "bytes": b"\xff\xfe", "huge": b'{"parameters": 1e400}',
        "deep": b'{"identity":' + b"[" * 100_000, "nested": b'{"a": %s}' % deep,
        "digits": b'{"steps": ' + b"7" * 5000 + b"}",
    }  # fmt: skip
    for name, content in broken.items():
        (models / "bad" / name).mkdir(parents=True)
        (models / "bad" / name / "run.json").write_bytes(content)
    before = len(list(models.rglob("run.json"))) - len(broken)
    report_script(models)
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(lines) == len(broken)
    for name in broken:
        assert sum(f"bad/{name}" in line for line in lines) == 1
    written = json.loads((models / "report" / "report.json").read_text())
    assert len(written["models"]) == before


def test_a_folder_without_runs_says_what_to_do(tmp_path):
    with pytest.raises(RositaError, match="holds no run.json .*scripts/setting1.sh"):
        report_script(tmp_path)
    with pytest.raises(RositaError, match="absent is no folder; give"):
        report_script(tmp_path / "absent")


def test_an_unfinished_run_is_told_and_its_score_counts_nowhere(models):
    write_run(models / "setting2" / "CoLA", finished=False, dev_score=0.777, parameters=1)
    report = build_report(models)
    assert "setting2/CoLA" in markdown(report).split("## Unfinished runs")[1]
    assert "77.7" not in markdown(report)


# ---------------------------------------------------------------------- lineage


def parents_of(report, name: str) -> dict[str, tuple[str, str | None]]:
    model = next(model for model in report.models if model.name == name)
    return {p.role: (p.how, p.model.name if p.model else None) for p in model.parents}


def test_a_parent_is_found_by_its_weights_and_only_else_by_its_path(models):
    report = build_report(models)
    one_step = f"one_step_prun/CoLA/{SMALL}"
    assert parents_of(report, f"setting1_42/CoLA/{SMALL}") == {
        "teacher": ("weights", "bert_ft/CoLA"),
        "student": ("weights", one_step),
    }
    assert parents_of(report, one_step) == {"model": ("weights", "bert_ft/CoLA")}
    assert parents_of(report, f"setting4/CoLA/{SMALL}")["teacher"] == ("path", "bert_ft/CoLA")
    assert parents_of(report, "bert_ft/CoLA") == {"model": ("path", "bert_pt")}


def test_a_rung_of_a_ladder_comes_from_the_run_whose_folder_it_is_in(models):
    rung = f"setting4/CoLA/{SMALL}/ladder/a3_l6_f512_e-1"
    run = f"setting4/CoLA/{SMALL}"
    assert parents_of(build_report(models), rung) == {"model": ("path", run)}


def test_a_parent_trained_again_or_not_at_hand_is_told(models):
    write_run(models / "late" / "CoLA", dev_score=0.4, parameters=5,
              parents={"teacher": link("../models/bert_ft/CoLA", "older"),
                       "student": link("/a/other/bert_pt", "x")})  # fmt: skip
    report = build_report(models)
    assert parents_of(report, "late/CoLA") == {
        "teacher": ("changed", "bert_ft/CoLA"),
        "student": ("absent", None),
    }
    text = Page(page(report)).text
    assert "its weights changed since" in text and "not in this folder" in text


def test_records_that_name_each_other_as_parents_are_no_endless_loop(models):
    for name, other in (("x", "y"), ("y", "x")):
        write_run(
            models / name,
            dev_score=0.3,
            parameters=7,
            parents={"teacher": link(f"../models/{other}"), "student": link(f"../models/{name}")},
        )
    assert "report" in page(build_report(models))


def boxes(report) -> list[str]:
    """The titles of the boxes in the lineage of CoLA."""
    return [box.title for box in lineage(report, "CoLA").boxes]


def tuned(models: Path, name: str, path: str, weights: str | None = None) -> None:
    write_run(models / name / "CoLA", stage="fine_tune", dev_score=0.4, parameters=9,
              settings={"run": name}, parents={"model": link(path, weights)})  # fmt: skip


def test_a_downloaded_bert_is_one_box_be_it_called_by_its_name_or_by_its_path(models):
    before = boxes(build_report(models))
    assert sum(title.startswith("bert_pt |") for title in before) == 1
    tuned(models, "by_name", "bert-tiny", "with a classifier of its own")
    report = build_report(models)
    assert parents_of(report, "by_name/CoLA") == {"model": ("path", "bert_pt")}
    assert len(boxes(report)) == len(before) + 1  # by_name itself


def test_the_same_weights_are_one_box_under_whatever_names_and_other_weights_another(models):
    tuned(models, "by_name", "bert-other", "pt")  # bert_ft calls these weights ../models/bert_pt
    report = build_report(models)
    assert parents_of(report, "by_name/CoLA") == {"model": ("path", "bert_pt")}
    before = len(boxes(report))
    for number, (path, weights) in enumerate([
        ("bert-far", "1"), ("/far/bert", "2"), ("../far", "2"), ("../far", "1"), ("", "1"),
        ("", "3"), ("../else", "4"),
    ]):  # fmt: skip
        tuned(models, f"run{'x' * number}", path, weights)
    titles = boxes(build_report(models))
    assert sum("not in this folder" in title for title in titles) == 3
    assert len(titles) == before + 7 + 3  # the runs, and what they started from


# ---------------------------------------------------------------------- numbers


def test_mean_and_deviation_over_seeds_are_those_of_numpy(models):
    (row,) = over_seeds(build_report(models)).rows
    scores = 100 * np.array(list(SCORES.values()))
    assert row[2] == "42, 43, 44"
    assert row[4:] == [f"{scores.mean():.2f}", f"{scores.std(ddof=1):.2f}", "3"]


def test_only_runs_that_differ_in_seeds_alone_are_averaged(models):
    base = {"weights": "w", "dev_score": 0.46, "shape": SMALL, "parameters": 4_000_000,
            "parents": {"teacher": link("", "ft"), "student": link("", "cut")}}  # fmt: skip

    def groups() -> list[set[str]]:
        return [{m.name for m in g.members} for g in build_report(models).groups]

    ours = {f"setting1_{seed}/CoLA/{SMALL}" for seed in SCORES}
    assert ours in groups()
    write_run(models / "other_rate", seed=45, settings={"learning_rate": 1.0}, **base)
    write_run(models / "other_task", seed=45, **base | {"task": "RTE"})
    write_run(models / "other_shape", seed=45, **base | {"shape": "a1_l4_f256_e64"})
    write_run(models / "other_parent", seed=45, **base | {"parents": {"teacher": link("", "four")}})
    assert ours in groups()
    write_run(models / "fourth", seed=45, **base)
    assert ours | {"fourth"} in groups()


def test_seeds_of_the_parents_make_repetitions_and_copies_do_not(models):
    for seed in (1, 2):
        write_run(models / f"ft{seed}", stage="fine_tune", seed=seed, weights=f"t{seed}",
                  dev_score=0.5 + seed / 100, shape="a12_l6_f1536_e-1", parameters=9,
                  parents={"model": link("../models/bert_pt")})  # fmt: skip
        write_run(models / f"cut{seed}", stage="one_step_prune", weights=f"c{seed}", shape=SMALL,
                  parents={"model": link("", f"t{seed}")})  # fmt: skip
        write_run(models / f"kd{seed}", seed=42, weights=f"k{seed}", dev_score=0.3 + seed / 100,
                  shape=SMALL, parents={"student": link("", f"c{seed}")})  # fmt: skip
    shutil.copytree(models / "kd1", models / "kd1_copy")
    groups = build_report(models).groups
    group = next(g for g in groups if g.first.name == "kd1")
    assert {model.name for model in group.members} == {"kd1", "kd2", "kd1_copy"}
    assert sorted(group.scores) == [0.31, 0.32]


def test_a_recipe_of_many_generations_is_told_apart_by_its_first_one(tmp_path):
    for seed, rate in ((1, 0.1), (2, 0.1), (3, 0.2)):
        for number in range(40):
            above = link(tmp_path / f"{seed}/{number - 1}", f"{seed}-{number - 1}")
            write_run(tmp_path / f"{seed}/{number}", seed=seed, weights=f"{seed}-{number}",
                      settings={} if number else {"rate": rate},
                      parents={"teacher": above, "student": above} if number else {})  # fmt: skip
    report = build_report(tmp_path)
    groups = [{model.name for model in group.members} for group in report.groups]
    expected = [{f"1/{n}", f"2/{n}"} for n in range(40)] + [{f"3/{n}"} for n in range(40)]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, expected))


def test_the_same_seed_on_other_data_is_no_repetition(models):
    for name, rows in (("few", ["a"]), ("many", ["b"])):
        run = {"settings": {"seed": 42}, "data": {"train": rows, "dev": "d"}}
        write_run(models / name, weights=name, dev_score=0.3, identity=run)
    sizes = {g.first.name: len(g.scores) for g in build_report(models).groups}
    assert sizes["few"] == sizes["many"] == 1


def test_other_seeds_on_other_training_data_are_no_repetitions_and_older_records_are(models):
    used = {"few1": "a", "few2": "a", "many3": "b", "many4": "b", "old5": None, "old6": None}
    for number, (name, train) in enumerate(used.items(), 1):
        data = {"dev": "d"} | ({"train": [train]} if train else {})
        run = {"settings": {"seed": number, "rate": 1}, "data": data}
        write_run(models / name, weights=name, dev_score=number / 10, identity=run)
    found = {group.first.name: group.scores for group in build_report(models).groups}
    assert found["few1"] == [0.1, 0.2] and found["many3"] == [0.3, 0.4]
    assert found["old5"] == [0.5, 0.6]


@pytest.mark.parametrize("key", ["train", "glove"])
def test_students_of_one_seed_each_go_apart_where_their_teachers_learnt_other_rows(models, key):
    for seed, value in ((1, "a"), (2, "a"), (3, "b")):
        run = {"settings": {"seed": seed, "rate": 1}, "data": {"dev": "d", key: value}}
        write_run(models / f"ft{seed}", weights=f"t{seed}", dev_score=0.5, identity=run)
        write_run(models / f"kd{seed}", seed=seed, weights=f"k{seed}", dev_score=seed / 10,
                  parents={"teacher": link("", f"t{seed}")})  # fmt: skip
    found = {group.first.name: group.scores for group in build_report(models).groups}
    assert found["kd1"] == [0.1, 0.2] and found["kd3"] == [0.3]


def test_sizes_and_kept_scores_are_ratios_to_the_fine_tuned_ancestor(models):
    report = build_report(models)
    found = {row[0]: row for row in results(report, "CoLA").rows}
    mean = np.mean(list(SCORES.values()))
    assert found["setting1_42"][2] == f"{100 * mean / 0.5:.1f} %"
    assert found["setting4"][2:5] == ["98.0 %", "4.0 M", "5.0x"]
    assert found["setting4/ladder"][2:5] == ["99.0 %", "9.0 M", "2.2x"]
    assert found["bert_ft"][2] == "–"


def test_the_published_values_stand_first_marked_and_ours_below(models):
    rows = beside_paper(build_report(models)).rows
    assert rows[0] == ["published (Liu et al., 2021), BERT-base", "7.5x", "98.5 %",
                       "109 M → 14.5 M", "BERT-base", "a2_l8_f512_e128",
                       "CoLA, SST-2, QQP, QNLI, MNLI"]  # fmt: skip
    assert all(row[0].startswith("ours: ") for row in rows[1:])
    assert ["ours: setting4", "5.0x", "98.0 %", "20.0 M → 4.0 M", "bert-tiny", SMALL,
            "CoLA"] in rows  # fmt: skip


def test_ours_is_the_ratio_of_averages_over_the_tasks(models):
    write_run(models / "bert_ft/RTE", stage="fine_tune", task="RTE", weights="rte", dev_score=0.8,
              parameters=20_000_000, shape="a12_l6_f1536_e-1")  # fmt: skip
    write_run(models / f"setting4/RTE/{SMALL}", task="RTE", weights="r4", dev_score=0.6,
              parameters=4_000_000, shape=SMALL, parents={"teacher": link("", "rte")})  # fmt: skip
    rows = {row[0]: row for row in beside_paper(build_report(models)).rows}
    assert rows["ours: setting4"][2] == f"{100 * (0.49 + 0.6) / (0.5 + 0.8):.1f} %"
    assert rows["ours: setting4"][6] == "CoLA, RTE"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_dominates(pairs):
    points = [Point(x, y, "", "") for x, y in pairs]
    best = {
        (x, y)
        for x, y in pairs
        if not any((a <= x and b >= y) and (a, b) != (x, y) for a, b in pairs)
    }
    front = pareto_front(points)
    assert {(point.x, point.y) for point in front} == best
    assert [point.x for point in front] == sorted(point.x for point in front)


def test_the_head_map_has_each_heads_last_score_and_the_pruning_that_cut_it():
    score, cut = head_grids([[Layer(**layer)] for layer in LAYERS])
    np.testing.assert_allclose(score, [[5 / 10, 1 / 4, 1 / 10, 10 / 10]])
    np.testing.assert_array_equal(cut, [[0, 1, 2, 0]])


def test_the_shape_curves_count_what_is_left_and_a_full_embedding_is_as_wide_as_hidden():
    history = [Entry(step=3, shape="a9_l6_f900_e96"), Entry(step=6, shape="a6_l6_f600_e48")]
    assert shape_parts(history, Shape.parse("a12_l6_f1200_e-1"), 192) == {
        "heads": [(0, 12), (3, 9), (6, 6)],
        "FFN units": [(0, 1200), (3, 900), (6, 600)],
        "embedding rank": [(0, 192), (3, 96), (6, 48)],
    }


def test_curves_that_shrink_at_the_same_rate_do_not_hide_each_other(tmp_path):
    write_run(
        tmp_path,
        history=[
            {"step": step, "shape": f"a{12 - step}_l8_f{256 * (12 - step)}_e-1"}
            for step in (3, 6, 9)
        ],
    )
    (model,) = build_report(tmp_path).models
    figure = curves_figure(model, Shape.parse("a12_l8_f3072_e-1"), None)
    figure.canvas.draw()
    heads, units = figure.axes
    assert [axes.get_title(loc="left") for axes in (heads, units)] == [
        "heads: 12 → 3",
        "FFN units: 3072 → 768",
    ]
    at = {}
    for axes in (heads, units):
        line = next(line for line in axes.lines if len(line.get_xdata()) > 2)
        at[axes] = axes.transData.transform(line.get_xydata())[:, 1]
    assert list(at[heads]) == sorted(at[heads], reverse=True)
    assert min(at[heads]) - max(at[units]) > 10  # units of 1/72 inch


@pytest.mark.parametrize("losses, expected", [
    ([(14.6, 0.35), (3.0, 0.1)], ["0.1", "1", "10"]), ([(5.0, 0.4)], ["0.5", "1", "2", "5"]),
    ([(1e-3, 9e5), (2.0, 2.0)], ["0.001", "0.1", "10", "1000", "100000"]),
    ([(0.74, 0.66), (0.69, 0.68)], ["0.675", "0.700", "0.725"]), ([(0.31978, 0.31979)], []),
    ([(0.0, -3.0), (1.0, 2.0)], ["-3.0", "0.0", "1.5"]), ([(3.0, 3.0)], ["3.0"]),
])  # fmt: skip
def test_the_axis_of_the_losses_has_a_few_plain_numbers(tmp_path, losses, expected):
    write_run(
        tmp_path,
        history=[{"step": step, "loss_a": a, "loss_b": b} for step, (a, b) in enumerate(losses, 1)],
    )
    (model,) = build_report(tmp_path).models
    svg = ElementTree.fromstring(curves(model, None, None))
    ticks = [part for part in svg.iter() if part.get("id", "").startswith("ytick_")]
    labels = ["".join(tick.itertext()).strip() for tick in ticks]
    assert 2 <= len(labels) <= 7
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)
    assert set(expected) <= set(labels)


@pytest.mark.parametrize("written, expected", [
    ({"loss_label": 0.5}, "loss"), ({"score": 0.5, "shape": "x"}, "dev"),
    ({"shape": "x", "layers": LAYERS[:1]}, "pruning"), ({}, None),
    ({"kind": "pruning", "shape": "x", "score": 0.5}, "pruning"), ({"kind": "clock"}, "clock"),
])  # fmt: skip
def test_an_entry_of_the_history_is_what_it_says_it_is_or_else_what_its_keys_say(written, expected):
    assert Entry(**written).kind == expected


def test_a_history_is_drawn_the_same_whether_its_entries_say_their_kind_or_not(models):
    path = models / f"setting4/CoLA/{SMALL}" / "run.json"
    silent = page(build_report(models))
    record = json.loads(path.read_text())
    for entry, kind in zip(record["history"], ("pruning", "loss", "pruning", "dev"), strict=True):
        entry["kind"] = kind
    path.write_text(json.dumps(record))
    assert page(build_report(models)) == silent


# ---------------------------------------------------------------------- latency


def write_latency(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return path


def test_latency_joins_the_pictures_and_the_card_in_one_batch_size_and_length(models):
    common = {"p95_ms": 1.0, "bytes": 1000, "format": "pytorch"}
    rows = [
        {"model": f"../models/{name}", "batch_size": batch, "length": length, **common,
         "median_ms": ms * batch * length / 64}
        for name, ms in (("bert_ft/CoLA", 10.0), (f"setting4/CoLA/{SMALL}", 4.0))
        for batch in (1, 8) for length in (64, 128)
    ]  # fmt: skip
    rows.append({**rows[-1], "model": "models/not/here", "batch_size": 1, "length": 64})
    write_latency(models / "benchmark.json", *rows)
    report = build_report(models)
    assert latency_slice(report) == (1, 64)
    text = Page(page(report)).text
    assert "2.5x faster" in text and "not/here" in text
    assert "not measured" not in text


def test_a_timed_export_counts_for_the_model_that_it_was_made_from(models):
    export = models / "export" / "CoLA"
    export.mkdir(parents=True)
    facts = {
        "model": f"../models/setting4/CoLA/{SMALL}",
        "task": "CoLA",
        "formats": {"int8": {"score": 0.48, "agreement": 0.99, "bytes": 4_000_000}},
    }
    (export / "export.json").write_text(json.dumps(facts))
    path = write_latency(models.parent / "speed.json", {
        "model": "../models/export/CoLA", "format": "int8", "median_ms": 2.0, "dev_score": 0.48,
    })  # fmt: skip
    report = build_report(models, [path])
    ((row, model),) = report.latency
    assert model.name == f"setting4/CoLA/{SMALL}" and row.median_ms == 2.0
    text = Page(page(report)).text
    assert "setting4 int8" in text and "99.0 %" in text


def test_without_latency_the_page_says_what_to_run(models):
    text = Page(page(build_report(models))).text
    assert "Latency is not measured. python Deploy/benchmark.py" in text


@pytest.mark.parametrize("content", [None, "{}", "[", '{"rows": [{"model": 3}]}'])
def test_a_latency_file_that_is_none_is_one_line(models, content):
    path = models / "speed.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RositaError, match="speed.json"):
        report_script(models, "--latency", path)


# ---------------------------------------------------------------------- the files


def test_the_page_needs_nothing_else_and_is_the_same_every_time(models, tmp_path):
    report_script(models, "--output_dir", tmp_path / "a")
    subprocess.run(  # another process orders its sets otherwise
        [sys.executable, REPOSITORY / "report.py", models, "--output_dir", tmp_path / "b"],
        check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "report.html").read_text()
    found = Page(text)
    assert not found.tags & {"script", "link", "img", "iframe", "object"}
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in found.targets)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(text) < 2_000_000


def test_the_page_shows_each_part(models):
    text = page(build_report(models))
    found = Page(text)
    for title in ("Score against size and speed", "Beside the paper", "Where each model comes from",
                  "Iterative pruning over its steps", "What each layer kept", "Time per stage",
                  "Over seeds"):  # fmt: skip
        assert title in found.words, title
    assert text.count("importance of the heads of") == 2  # the one-step and the iterative pruning


def test_a_run_without_layers_has_no_heat_map(tmp_path):
    write_run(tmp_path / "m", history=[{"step": 3, "shape": "a4_l2_f9_e-1"}], dev_score=0.1)
    assert "What each layer kept" not in page(build_report(tmp_path))


MARKUP = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "](http://x) [a](http://x)", "a|b",
    "two\n\n# lines", "{{97*89}} {% raw %}", "\"'`$x$&amp;&#60;", "-- - 1. *a* _b_ ~~c~~ www.x.y",
]  # fmt: skip


def shown(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Three runs whose every text is markup: a reference, a model made from it, an unfinished."""
    root, evil = tmp_path / "models", "".join(MARKUP)
    folder = root / evil.replace("/", "").replace("\n", " ")
    write_run(folder / "top", stage="fine_tune", task=evil, weights="t", dev_score=0.9,
              metric=evil, parameters=100, shape=evil, seconds=3.0)  # fmt: skip
    write_run(folder / "low", task=evil, weights="l", dev_score=0.8, parameters=10, metric=evil,
              shape="a1_l1_f1_e1", settings={evil: evil, "x": "\ud800", "depth_or_width": evil},
              data={"folder": evil, "train": [evil, "\u0000"]}, seconds=2.0,
              history=[{"step": 1, "loss_" + evil: 0.4}, {"step": 2, "score": 0.2}],
              parents={"teacher": link(evil, "t"), "student": link(evil, "none"), evil: link(evil)},
              )  # fmt: skip
    write_run(folder / "open", task=evil, stage=evil, finished=False)
    (root / "cut").mkdir()
    (root / "cut" / "run.json").write_text(json.dumps({"parents": {evil: 3}}))
    return root


def test_no_text_of_a_run_becomes_markup_on_the_page(hostile):
    found = Page(page(build_report(hostile)))
    assert not found.tags & {"script", "img", "a", "em", "del"}
    for text in MARKUP:
        assert shown(text) in found.text
    assert not any("8633" in word for word in found.words if "{{" in word)


def rendered(text: str) -> Page:
    """Markdown as an independent renderer shows it."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return Page(reader.render(text.encode("utf-8", "replace").decode()))


def test_no_text_of_a_run_becomes_markup_in_the_markdown(hostile):
    text = markdown(build_report(hostile))
    found = rendered(text)
    assert found.tags <= {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    for one in MARKUP:
        assert shown(one) in found.text
    assert not re.search(r"(?i)http://|www\.", text)  # links without brackets
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


@given(st.text(max_size=40) | st.text("a1_*`~|\\<>[]()#-+.:&;!$@ \n", max_size=20))
def test_whatever_a_text_is_markdown_shows_just_it(text):
    expected = shown("".join(c if c.isprintable() else " " for c in text))
    escaped = markdown_text(text)
    for frame in ("# {}", "- {}", "{}", "| |\n| --- |\n| {} |"):
        found = rendered(frame.format(escaped))
        assert found.tags <= {"h1", "ul", "li", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert found.text.strip() == expected
        assert found.tags.isdisjoint({"h1", "ul"}) or frame[0] in "#-"


JUNK = [None, "x", -1, [], {}, 1e300, [None], {"a": {"b": [1]}}, 2**70, 10**400, True,
        f"a{'9' * 400}_l1_f1_e1", reduce(lambda deep, _: [deep], range(90), 1)]  # fmt: skip


def test_whatever_stands_in_a_field_the_page_is_written(models):
    good = json.loads((models / f"setting4/CoLA/{SMALL}/run.json").read_text())
    history = [
        f"history.{entry}{key}"
        for entry, key in (
            (0, ""),
            (0, ".shape"),
            (1, ""),
            (1, ".step"),
            (1, ".loss_prediction"),
            (3, ".score"),
        )
    ]
    names = [*Record.model_fields, *history, "identity.settings", "identity.settings.seed",
             "identity.settings.depth_or_width", "parents.teacher.path"]  # fmt: skip
    for name in names:
        for number, junk in enumerate(JUNK):
            record = part = json.loads(json.dumps(good))
            *outer, last = (int(key) if key.isdigit() else key for key in name.split("."))
            for key in outer:
                part = part[key]
            part[last] = junk
            folder = models / "junk" / f"{name}-{number}"
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(json.dumps(record))
            (folder / "config.json").write_text(json.dumps({"embedding_size": junk}))
            exported = {"score": junk, "agreement": junk, "bytes": junk}
            export = {"formats": junk if name == "stage" else {"onnx": exported, "hf": junk}}
            (folder / "export.json").write_text(json.dumps(export | {"task": junk}))
    report = build_report(models)
    assert len(report.warnings) + len(report.models) == len(list(models.rglob("run.json")))
    assert len(page(report)) < 2_000_000
    json.dumps(numbers(report), allow_nan=False)


# ---------------------------------------------------------------------- real runs


def test_the_report_of_real_runs_has_their_scores_sizes_and_lineage(tmp_path):
    data, models = write_cola(tmp_path / "data" / "CoLA"), tmp_path / "models"
    bert = make_bert(models / "bert_pt")
    common = ("--task_name", "CoLA", "--data_dir", data, "--max_seq_length", 16)
    fine_tune, distil = stage("Pruning/run_glue.py"), stage("KD/train.py")
    fine_tune(*common, "--model_name_or_path", bert, "--do_train", "--num_train_epochs", 2,
              "--output_dir", models / "bert_ft/CoLA", "--learning_rate", "1e-3")  # fmt: skip
    tuned = models / "bert_ft" / "CoLA"
    fine_tune(*common, "--model_name_or_path", tuned, "--compute_taylor", "True")
    stage("Pruning/pruning_one_step.py")(
        "-model_path", models / "bert_ft", "-task", "CoLA", "-output_dir", models / "cut",
        "-keep_heads", 2, "-num_layers", 2, "-ffn_hidden_dim", 20, "-emb_hidden_dim", 8,
    )  # fmt: skip
    cut = models / "cut" / "CoLA" / "a2_l2_f20_e8"
    for seed in (1, 2):
        distil(*common, "--teacher_model", tuned, "--student_model", cut, "--pred_distill",
               "--num_train_epochs", 4, "--seed", seed, "--learning_rate", "1e-3",
               "--output_dir", models / f"seed{seed}" / "CoLA")  # fmt: skip
    distil(*common, "--teacher_model", tuned, "--student_model", tuned, "--pred_distill",
           "--num_train_epochs", 6, "--depth_or_width", "width", "--prun_period_proportion", 0.9,
           "--keep_heads", 2, "--keep_layers", 3, "--ffn_hidden_dim", 20, "--emb_hidden_dim", 8,
           "--output_dir", models / "width" / "CoLA")  # fmt: skip

    report_script(models)
    found = json.loads((models / "report" / "report.json").read_text())
    by_name = {model["name"]: model for model in found["models"]}
    for name, model in by_name.items():
        run = json.loads((models / name / "run.json").read_text())
        for key in ("dev_score", "parameters", "shape", "seconds", "weights"):
            assert model[key] == run.get(key)
    parents = {p["role"]: p["model"] for p in by_name["seed1/CoLA"]["parents"]}
    assert parents == {"teacher": "bert_ft/CoLA", "student": "cut/CoLA/a2_l2_f20_e8"}
    group = next(group for group in found["groups"] if "seed1/CoLA" in group["members"])
    assert group["members"] == ["seed1/CoLA", "seed2/CoLA"]
    large, small = (by_name[name]["parameters"] for name in ("bert_ft/CoLA", "seed1/CoLA"))
    assert group["times_smaller"] == pytest.approx(large / small)
    text = (models / "report" / "report.html").read_text()
    assert "Iterative pruning over its steps" in text
    for name in ("cut/CoLA/a2_l2_f20_e8", "width/CoLA"):
        assert f"importance of the heads of {name}" in text
        kept = by_name[name]["history"]
        layers = [entry["layers"] for entry in kept if "layers" in entry][-1]
        assert {len(layer["heads"]) for layer in layers} == {2}
