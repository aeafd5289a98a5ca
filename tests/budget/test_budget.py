import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SMALL, error_line, make_bert, run_script, write_cola
from torch.utils.flop_counter import FlopCounterMode

from rosita.budget.costs import file_bytes, macs, parameters, rows_of, shape_macs, shape_of
from rosita.budget.latency_model import features, fit_latency
from rosita.budget.search import KeptScore, Table, candidates, embedding_shares, front, spread
from rosita.checkpoint import load_model, save_model
from rosita.cli import parse_size
from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.pruning.cut import prune
from rosita.pruning.importance import ffn_scores, head_scores, load_scores, scored_weights
from rosita.pruning.shape import Shape, check_target, parameter_count, shaped_config
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer

sys.path.insert(0, str(REPOSITORY / "Pruning"))
import plan as script  # noqa: E402

BASE = RositaConfig()
MINILM = RositaConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
CUT = RositaConfig(  # pruned before: an embedding of two factors, narrow attention
    hidden_size=96, num_hidden_layers=5, num_attention_heads=3, prun_hidden_size=24,
    prun_intermediate_size=50, emb_hidden_dim=40, num_labels=3, vocab_size=1000,
)  # fmt: skip
NARROW = RositaConfig(  # as ELECTRA, but without token types: a projected embedding
    hidden_size=96, num_hidden_layers=5, num_attention_heads=3, intermediate_size=200,
    embedding_size=40, type_vocab_size=0, vocab_size=1000,
)  # fmt: skip


def tiny(**changes) -> RositaForSequenceClassification:
    torch.manual_seed(0)
    config = RositaConfig(vocab_size=120, num_labels=2, **{**SMALL, **changes})
    model = RositaForSequenceClassification(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def random_scores(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(weight.shape, generator=generator)
        for name, weight in scored_weights(model).items()
    }


# --- what a shape costs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [BASE, MINILM, CUT, NARROW], ids=["base", "minilm", "cut", "narrow"]
)
def test_the_closed_form_counts_the_parameters_of_the_model_that_is_built(config):
    rows = candidates(config)
    found = parameters(config, rows)
    for index in np.linspace(0, len(rows) - 1, 25).astype(int):
        assert found[index] == parameter_count(config, shape_of(rows[index]))


@pytest.mark.parametrize("layers", [1, 3, 12])
@pytest.mark.parametrize("rank", [-1, 5, 16])
@pytest.mark.parametrize("more", [{}, {"embedding_size": 20, "type_vocab_size": 0}])
def test_the_predicted_bytes_are_those_of_the_saved_file(tmp_path, layers, rank, more):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    sizes = {**SMALL, "num_hidden_layers": 12, **more}
    whole = RositaConfig(vocab_size=120, num_labels=2, **sizes)
    shapes = [Shape(1, layers, 7, rank), Shape(4, layers, 48, rank), Shape(3, layers, 11, rank)]
    for shape, expected in zip(shapes, file_bytes(whole, rows_of(shapes)), strict=True):
        model = RositaForSequenceClassification(shaped_config(whole, shape))
        save_model(tmp_path / str(shape), model, tokenizer, GLUE["CoLA"])
        assert (tmp_path / str(shape) / "model.safetensors").stat().st_size == expected


@pytest.mark.parametrize("changes", [
    {},
    {"num_attention_heads": 3, "prun_hidden_size": 24, "prun_intermediate_size": 20,
     "emb_hidden_dim": 6},
    {"embedding_size": 20, "emb_hidden_dim": 6, "type_vocab_size": 0},
])  # fmt: skip
@pytest.mark.parametrize("length", [1, 13, 40])
def test_macs_are_half_the_flops_that_torch_counts(changes, length):
    model = tiny(**changes).train()  # with dropout, attention is written out: two products
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=torch.ones(1, length, dtype=torch.long))
    assert counter.get_total_flops() == 2 * macs(model.config, length)
    rows = rows_of([Shape.of(model.config)])
    assert shape_macs(model.config, rows, length) == [macs(model.config, length)]


@pytest.mark.parametrize(
    "config", [BASE, MINILM, CUT, NARROW], ids=["base", "minilm", "cut", "narrow"]
)
def test_candidates_are_different_shapes_that_can_all_be_cut_out_and_hold_the_whole(config):
    rows = candidates(config)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert (rows == rows_of([Shape.of(config)])).all(axis=1).sum() == 1
    now = Shape.of(config)
    assert len(rows) % (now.keep_heads * now.keep_layers * 16) == 0
    for row in rows[:: len(rows) // 200 + 1]:
        check_target(config, shape_of(row))
    assert parameters(config, rows).max() == parameter_count(config)
    assert len(rows) > 1000


def test_spread_shapes_are_different_candidates_the_same_at_every_call():
    rows = candidates(MINILM)
    found = spread(rows, 16)
    assert found == spread(rows, 16) and len(set(found)) == 16
    assert {tuple(row) for row in rows_of(found)} <= {tuple(row) for row in rows}
    assert found[:2] == [Shape(12, 6, 1536, -1), Shape(1, 1, 96, -1)]
    assert len(spread(rows[:1], 16)) == 1


# --- what a shape keeps ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["a4_l3_f48_e-1", "a2_l2_f20_e8", "a1_l3_f3_e-1", "a4_l1_f48_e1"])
def test_the_score_kept_is_the_surviving_importance_times_the_embeddings_energy(shape):
    model, target = tiny(), Shape.parse(shape)
    scores = random_scores(model)
    kept = whole = 0.0
    for layer in range(3):
        heads = sorted(head_scores(scores, layer, 4).tolist(), reverse=True)
        units = sorted(ffn_scores(scores, layer).tolist(), reverse=True)
        whole += sum(heads) + sum(units)
        if layer < target.keep_layers:
            kept += sum(heads[: target.keep_heads]) + sum(units[: target.ffn_hidden_dim])
    energy = torch.linalg.svdvals(model.bert.embeddings.word_embeddings.weight.detach()) ** 2
    rank = 32 if target.emb_hidden_dim == -1 else target.emb_hidden_dim
    expected = kept / whole * (energy[:rank].sum() / energy.sum()).item()
    found = KeptScore.of(model, scores)(rows_of([target]))
    assert found == pytest.approx([expected], rel=1e-5)


def test_the_share_of_a_factorized_embedding_is_one_minus_the_error_that_pruning_makes():
    model = tiny(emb_hidden_dim=12)
    embeddings = model.bert.embeddings
    whole = embeddings.word_embeddings1.weight @ embeddings.word_embeddings2.weight.T
    shares = embedding_shares(model)
    assert len(shares) == 13
    for rank in (1, 5, 12):
        cut = prune(model, Shape(4, 3, 48, rank)).bert.embeddings
        product = cut.word_embeddings1.weight @ cut.word_embeddings2.weight.T
        error = ((whole - product) ** 2).sum() / (whole**2).sum()
        assert shares[rank] == pytest.approx(1 - error.item(), abs=1e-5)


# --- latency, choosing -----------------------------------------------------------------------


def test_the_fit_finds_the_coefficients_that_made_the_times_and_none_is_negative():
    rows = candidates(MINILM)
    design = features(MINILM, rows_of(spread(rows, 12)), 64)
    truth = np.array([0.1, 0.05, 0.02, 0.01, 0.03, 0.004])
    np.testing.assert_allclose(fit_latency(design, design @ truth), truth, rtol=1e-6)
    noise = np.random.default_rng(0).uniform(0.5, 2, len(design))
    assert (fit_latency(design, design @ truth * noise) >= 0).all()


def test_the_fit_weighs_relative_errors():
    design = np.ones((3, 1))
    times = np.array([1.0, 1.0, 100.0])
    inverse = 1 / times  # d/dw sum((w / t - 1)^2) = 0
    assert fit_latency(design, times) == pytest.approx([inverse.sum() / (inverse**2).sum()])


def test_the_front_holds_those_that_no_other_beats():
    random = np.random.default_rng(0)
    cost, kept = random.integers(1, 30, 80), random.integers(1, 30, 80) / 30
    beaten = [
        any((cost <= cost[i]) & (kept >= kept[i]) & ((cost < cost[i]) | (kept > kept[i])))
        for i in range(80)
    ]
    found = front(cost, kept)
    expected = {(cost[i], kept[i]) for i in range(80) if not beaten[i]}
    assert {(cost[i], kept[i]) for i in found} == expected and len(found) == len(expected)
    assert (np.diff(cost[found]) > 0).all()


@pytest.fixture
def table() -> Table:
    rows = candidates(tiny().config)
    kept = KeptScore.of(tiny(), random_scores(tiny()))(rows)
    return Table.of(tiny().config, rows, 16, kept, np.linspace(1, 2, len(rows)))


def test_the_ranking_holds_all_that_fit_by_score_kept_then_fewer_parameters(table):
    limit = int(np.median(table.parameters))
    found = table.ranking({"parameters": limit, "latency": 1.7})
    expected = [
        i
        for i in range(len(table.rows))
        if table.parameters[i] <= limit and table.latency[i] <= 1.7
    ]
    expected.sort(key=lambda i: (-table.kept[i], table.parameters[i]))
    assert list(found) == expected
    only = table.ranking({"shape": "a2_l2_f24_e8", "bytes": 10**9})
    assert [table.line(index)["shape"] for index in only] == ["a2_l2_f24_e8"]


def test_a_measured_latency_takes_the_place_of_the_prediction(table):
    table.put_measured({"a2_l2_f24_e8": 0.25})
    line = table.line(table.ranking({"shape": "a2_l2_f24_e8"})[0])
    assert (line["latency_ms"], line["latency"]) == (0.25, "measured")
    assert table.measured.sum() == 1


def test_if_nothing_fits_the_smallest_shape_is_named_with_its_numbers(table):
    least = parameter_count(tiny().config, Shape(1, 1, 3, 1))
    message = f"no shape fits --max_parameters 1,000: the smallest, a1_l1_f3_e1, has {least:,} par"
    with pytest.raises(RositaError, match=re.escape(message)):
        table.ranking({"parameters": 1000, "latency": 5})
    with pytest.raises(RositaError, match=r"--max_latency_ms 0\.5: .*1\.00 ms \(predicted\)"):
        table.ranking({"parameters": 10**9, "latency": 0.5})


@pytest.mark.parametrize("text, unit, expected", [
    ("15M", "", 15_000_000), ("14.5M", "", 14_500_000), ("500k", "", 500_000), ("12", "", 12),
    ("0.5G", "", 500_000_000), ("14MB", "B", 14_000_000), ("900 kB", "B", 900_000), ("7B", "B", 7),
    ("7m", "B", 7_000_000),
])  # fmt: skip
def test_sizes_are_read_with_decimal_prefixes(text, unit, expected):
    assert parse_size(text, "--max", unit) == expected


@pytest.mark.parametrize("text", ["", "M", "-5M", "15MM", "1e6", "15MB", "0", "fifteen", "1,5M"])
def test_what_is_no_size_is_refused_with_the_flag_and_an_example(text):
    with pytest.raises(RositaError, match=r"--max_parameters '.*' is no size.*like 500k or 14.5M"):
        parse_size(text, "--max_parameters")


# --- the script ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A tuned, scored model in PARENT/TASK; its data."""
    root = tmp_path_factory.mktemp("plan")
    data = write_cola(root / "data" / "CoLA")
    bert = make_bert(root / "models" / "bert_pt")
    tuned = root / "models" / "bert_ft" / "CoLA"
    common = ("--task_name", "CoLA", "--data_dir", data)
    run_script("Pruning/run_glue.py", *common, "--model_name_or_path", bert, "--do_train",
               "--num_train_epochs", 2, "--learning_rate", 1e-3, "--output_dir", tuned)  # fmt: skip
    run_script("Pruning/run_glue.py", *common, "--model_name_or_path", tuned,
               "--compute_taylor", "True")  # fmt: skip
    return tuned, data


def plan(scored, output, *more):
    tuned, data = scored
    script.main([str(flag) for flag in (
        "--model", tuned, "--data_dir", data, "--length", 8, "--output_dir", output, *more
    )])  # fmt: skip


def test_the_printed_commands_train_a_student_of_the_planned_shape(
    scored, tmp_path, capsys, monkeypatch
):
    tuned, _ = scored
    limit = 9000
    monkeypatch.chdir(tmp_path)
    plan(scored, tmp_path / "plan", "--max_parameters", "9k")
    found = json.loads((tmp_path / "plan" / "plan.json").read_text())
    first = found["shapes"][0]
    assert first["shape"] == found["chosen"] and first["latency"] == "measured"
    assert all(shape["parameters"] <= limit for shape in found["shapes"])
    model = load_model(tuned, GLUE["CoLA"])
    assert first["parameters"] == parameter_count(model.config, Shape.parse(first["shape"]))
    scores = load_scores(tuned / "taylor_score" / "taylor.pkl", model)
    rows = candidates(model.config)
    fit = parameters(model.config, rows) <= limit
    assert first["taylor_score_kept"] == KeptScore.of(model, scores)(rows)[fit].max()
    assert len(found["latency"]["held_out"]) == 4 and (tmp_path / "plan" / "plan.png").exists()

    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    lines = capsys.readouterr().out.split("Next:\n")[1].splitlines()
    assert len(lines) == 2
    for line in lines:
        ran = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True,
                             env=os.environ | {"PATH": path})  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
    student = tuned.parents[1] / "setting1" / "CoLA" / found["chosen"]
    run = json.loads((student / "run.json").read_text())
    assert run["finished"] and run["shape"] == found["chosen"]
    assert run["parameters"] == first["parameters"]
    saved = (student / "model.safetensors").stat().st_size
    assert saved == first["bytes"]


def test_a_second_plan_times_nothing_that_was_timed(scored, tmp_path, capsys):
    plan(scored, tmp_path, "--max_bytes", "40kB")
    first = capsys.readouterr()
    assert "timing 16 shapes" in first.err
    files = {path.name: path.read_bytes() for path in tmp_path.glob("latency-*.json")}
    plan(scored, tmp_path, "--max_bytes", "40kB")
    again = capsys.readouterr()
    assert "timing" not in again.err and again.out == first.out
    assert {path.name: path.read_bytes() for path in tmp_path.glob("latency-*.json")} == files
    plan(scored, tmp_path, "--shape", "a2_l2_f10_e5", "--write_config", tmp_path / "c.json")
    other = capsys.readouterr()
    assert "timing 1 shapes" in other.err and "1 of " in other.out
    section = json.loads((tmp_path / "c.json").read_text())["default"]
    assert [
        section[name] for name in ("keep_heads", "keep_layers", "ffn_hidden_dim", "emb_hidden_dim")
    ] == [2, 2, 10, 5]


def test_mistakes_are_named(scored, tmp_path):
    tuned, _ = scored
    for flags, message in (
        ((), "give a budget: --max_parameters 15M"),
        (("--max_parameters", "many"), "--max_parameters 'many' is no size"),
        (("--max_parameters", ""), "--max_parameters: an empty value"),
        (("--max_bytes", ""), "--max_bytes: an empty value"),
        (("--max_bytes", "9" * 400), "9' is no size"),
        (("--max_latency_ms", ""), "--max_latency_ms: an empty value"),
        (("--shape", ""), "--shape: an empty value"),
        (("--shape", "a9_l2_f10_e5"), "keep_heads 9 must lie in 1..4"),
        (("--shape", "small"), "'small' is not a shape"),
        (("--max_bytes", "1k", "--length", 65), "the model has 64 positions"),
    ):
        with pytest.raises(RositaError, match=message):
            plan(scored, tmp_path, *flags)
    assert not list(tmp_path.iterdir())
    bare = make_bert(tmp_path / "CoLA")
    done = run_script("Pruning/plan.py", "--model", bare, "--task_name", "cola",
                      "--max_parameters", "1M", ok=False)  # fmt: skip
    assert "it is not tuned on CoLA" in error_line(done)


def test_the_written_numbers_are_those_of_the_repositorys_setting_1(scored, tmp_path):
    plan(scored, tmp_path, "--shape", "a2_l2_f10_e5")
    written = json.loads((tmp_path / "config_a2_l2_f10_e5.json").read_text())
    folder = REPOSITORY / "KD" / "configurations" / "minilm"  # the model has under eight layers
    ours = json.loads((folder / "config_setting1.json").read_text())
    changed = {
        name for name in ours["default"] if ours["default"][name] != written["default"][name]
    }
    assert changed == {"teacher_model", "student_model", "output_dir", "data_dir", "keep_layers",
                       "ffn_hidden_dim", "emb_hidden_dim"}  # fmt: skip
    assert written["cola"] == ours["cola"]


def test_a_model_is_named_as_typed_or_as_where_its_link_leads_to(tmp_path):
    task = GLUE["CoLA"]
    (tmp_path / "run42").mkdir()
    typed, other = tmp_path / "m2" / "bert_ft" / "CoLA", tmp_path / "other"
    typed.parent.mkdir(parents=True)
    typed.symlink_to(tmp_path / "run42")
    assert script.parent_of(typed, task) == typed.parent
    assert script.parent_of(typed / ".." / "CoLA", task) == typed.parent
    (tmp_path / "kept" / "CoLA").mkdir(parents=True)
    other.symlink_to(tmp_path / "kept" / "CoLA")
    assert script.parent_of(other, task) == tmp_path / "kept"
    with pytest.raises(RositaError, match="run42 must be called CoLA"):
        script.parent_of(tmp_path / "run42", task)


def test_a_plan_trains_on_the_data_that_its_model_was_tuned_on(scored, tmp_path, capsys):
    tuned, data = scored
    linked = tmp_path / "models" / "bert_ft" / "CoLA"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(tuned)
    flags = ["--model", linked, "--length", 8, "--shape", "a2_l2_f10_e5", "--output_dir", tmp_path]
    script.main([str(flag) for flag in flags])
    section = json.loads((tmp_path / "config_a2_l2_f10_e5.json").read_text())["default"]
    at = REPOSITORY / "KD"
    assert (at / section["data_dir"]).resolve() == data
    assert (at / section["teacher_model"]).resolve() == linked.parent / "{task}"
    prune = capsys.readouterr().out.split("Next:\n")[1].splitlines()[0].split()
    assert Path(prune[prune.index("-model_path") + 1]).resolve() == linked.parent
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "run.json").write_text(json.dumps({"data": {"folder": str(tmp_path / "nowhere")}}))
    cola = GLUE["CoLA"]
    assert script.data_folder(gone, cola, None) == REPOSITORY / "data" / "CoLA"
    assert script.data_folder(tuned, cola, str(gone)) == gone
