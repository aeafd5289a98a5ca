import copy
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, make_bert, run_script, stage, write_cola

from rosita import api
from rosita.checkpoint import load_model
from rosita.data.encode import encode_file
from rosita.errors import RositaError
from rosita.provenance import weights_hash
from rosita.pruning import cut as pruning
from rosita.pruning.importance import load_scores, read_scores
from rosita.tasks import GLUE

SHAPE = "a2_l2_f20_e8"
prune, distil = stage("Pruning/pruning_one_step.py"), stage("KD/train.py")
KD = {"pred_distill": True, "repr_distill": True, "num_train_epochs": 2}


def identity(model: api.TaskModel) -> str:
    return weights_hash(model.model.state_dict())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Data, a BERT, and what the scripts make of them: tuned, scored, pruned, distilled."""
    root = tmp_path_factory.mktemp("api")
    data = write_cola(root / "data" / "CoLA")
    common = ["--task_name", "CoLA", "--data_dir", data]
    run_script("Pruning/run_glue.py", "--model_name_or_path", make_bert(root / "bert"),
               "--do_train", "--output_dir", root / "ft" / "CoLA", "--learning_rate", 1e-3,
               *common)  # fmt: skip
    run_script("Pruning/run_glue.py", "--model_name_or_path", root / "ft" / "CoLA",
               "--compute_taylor", "True", *common)  # fmt: skip
    run_script("Pruning/pruning_one_step.py", "-model_path", root / "ft", "-task", "CoLA",
               "-output_dir", root / "cut", "-keep_heads", 2, "-num_layers", 2,
               "-ffn_hidden_dim", 20, "-emb_hidden_dim", 8)  # fmt: skip
    run_script("KD/train.py", "--teacher_model", root / "ft" / "CoLA", "--student_model",
               root / "cut" / "CoLA" / SHAPE, "--pred_distill", "--repr_distill",
               "--num_train_epochs", 2, "--output_dir", root / "kd", *common)  # fmt: skip
    return root


@pytest.fixture
def teacher(root) -> api.TaskModel:
    return api.load(root / "ft" / "CoLA", "cola")


def test_score_prune_and_distil_in_memory_give_the_bits_that_the_scripts_write(root, teacher):
    data = root / "data" / "CoLA"
    scores = api.score(teacher, data)
    expected = load_scores(root / "ft" / "CoLA" / "taylor_score" / "taylor.pkl", teacher.model)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)

    small = api.prune(teacher, SHAPE, scores)
    assert identity(small) == identity(api.load(root / "cut" / "CoLA" / SHAPE, "CoLA"))

    student = api.distil(teacher, small, data, **KD)
    assert identity(student) == identity(api.load(root / "kd", "CoLA"))
    assert str(student.shape) == SHAPE and student.path == api.IN_MEMORY
    written = json.loads((root / "kd" / "run.json").read_text())["dev_score"]
    # the loop scores in the run's precision, `evaluate` in fp32: none of 20 rows may turn far
    assert api.evaluate(student, data).main == pytest.approx(written, abs=0.25)


def test_tuning_a_pretrained_model_gives_the_bits_that_the_script_writes(root):
    bert = api.load(root / "bert", "CoLA", new_classifier=True)
    torch.rand(7)  # what was drawn before has no part in it
    ours = api.fine_tune(bert, root / "data" / "CoLA", learning_rate=1e-3)
    assert identity(ours) == identity(api.load(root / "ft" / "CoLA", "CoLA"))


@pytest.mark.parametrize(
    "how",
    [
        {"importance": "magnitude"},
        {"importance": "random", "seed": 3},
        {"keep_layers_by": "score"},
        {"from_scratch": True, "seed": 3},
        {"from_scratch": True, "keep_layers_by": "score", "importance": "magnitude"},
    ],
    ids=str,
)
def test_a_cut_chosen_otherwise_is_the_one_that_the_script_writes(root, teacher, tmp_path, how):
    flags = [part for name, value in how.items() for part in (f"-{name}", value)]
    prune("-model_path", root / "ft", "-task", "CoLA", "-output_dir", tmp_path, "-keep_heads", 2,
          "-num_layers", 2, "-ffn_hidden_dim", 20, "-emb_hidden_dim", 8,
          *(flag for flag in flags if flag is not True))  # fmt: skip
    by_taylor = how.keys() == {"keep_layers_by"}
    scores = read_scores(root / "ft" / "CoLA", teacher.model) if by_taylor else None
    torch.manual_seed(0)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    ours = api.prune(teacher, SHAPE, scores, **how)
    assert torch.rand(3).equal(drawn)  # its random numbers are its own
    assert identity(ours) == identity(api.load(tmp_path / "CoLA" / SHAPE, "CoLA"))
    again = api.prune(teacher, SHAPE, scores, tmp_path / "ours", **how)
    assert identity(again) == identity(ours)


def test_a_config_of_the_scripts_gives_the_bits_that_they_write(root, teacher, tmp_path):
    config = tmp_path / "config.json"
    sections = {
        "default": {"teacher_model": "{task}", "output_dir": "{task}", "pred_distill": True,
                    "learning_rate": 1e-4, "num_train_epochs": 1, "data_dir": "nowhere"},
        "CoLA": {"temperature": 2.0, "data_dir": str(root / "data" / "{task}")},
    }  # fmt: skip
    config.write_text(json.dumps(sections))
    distil("--config_dir", config, "--task_name", "CoLA", "--learning_rate", "1e-3",
           "--teacher_model", root / "ft" / "CoLA", "--student_model", root / "bert",
           "--output_dir", tmp_path / "script")  # fmt: skip
    bert = api.load(root / "bert", "CoLA", new_classifier=True)
    ours = api.distil(teacher, bert, config=config, learning_rate=1e-3)
    assert identity(ours) == identity(api.load(tmp_path / "script", "CoLA"))
    for name, value, advice in (
        ("classifier_activation", "relu", "take it out, and give it to api.load"),
        ("compute_taylor", True, "take it out, and call api.score"),
    ):
        config.write_text(json.dumps({"default": {"pred_distill": True, name: value}}))
        with pytest.raises(RositaError, match=f"config.json .CoLA. {name}: .*{advice}"):
            api.distil(teacher, bert, root / "data" / "CoLA", config=config)


def test_a_vocabulary_cut_in_memory_is_the_one_that_is_written(teacher, tmp_path):
    texts = ["the dog ran", "a happy child"]
    how = {"importance": "magnitude", "vocabulary": texts}
    in_memory = api.prune(teacher, SHAPE, **how)
    written = api.prune(teacher, SHAPE, None, tmp_path / "cut", **how)
    for cut in (written, api.load(tmp_path / "cut", "CoLA")):
        assert identity(cut) == identity(in_memory)
        assert cut.tokenizer.pieces == in_memory.tokenizer.pieces
    assert api.label(in_memory, texts) == api.label(written, texts)
    with pytest.raises(TypeError, match="vocabulary is 'the dog ran'"):
        api.prune(teacher, SHAPE, importance="magnitude", vocabulary="the dog ran")


def test_fine_tuning_a_pruned_model_gives_the_bits_that_the_script_writes(root, tmp_path):
    cut, data = root / "cut" / "CoLA" / SHAPE, root / "data" / "CoLA"
    run_script("Pruning/run_glue.py", "--model_name_or_path", cut, "--is_prun", "True",
               "--do_train", "--num_train_epochs", 2, "--task_name", "CoLA", "--data_dir", data,
               "--output_dir", tmp_path / "script")  # fmt: skip
    ours = api.fine_tune(api.load(cut, "CoLA"), data, num_train_epochs=2)
    assert identity(ours) == identity(api.load(tmp_path / "script", "CoLA"))


def test_training_in_a_thread_of_a_server_gives_the_same_bits(root):
    def train() -> str:
        cut = api.load(root / "cut" / "CoLA" / SHAPE, "CoLA")
        return identity(api.fine_tune(cut, root / "data" / "CoLA", max_steps=2))

    with ThreadPoolExecutor(1) as server:
        assert server.submit(train).result() == train()


def test_no_function_changes_the_models_that_it_is_given(root, teacher):
    data = root / "data" / "CoLA"
    small = api.prune(teacher, "a4_l2_f48_e8")  # layers and embedding need no scores
    before = {one: copy.deepcopy(one.model.state_dict()) for one in (teacher, small)}
    api.fine_tune(teacher, data, max_steps=1)
    api.score(small, data, teacher=teacher, pred_distill=True)
    api.distil(teacher, small, data, pred_distill=True, max_steps=1, precision="bf16")
    api.label(small, ["the dog ran"])
    for one, state in before.items():
        torch.testing.assert_close(dict(one.model.state_dict()), dict(state), rtol=0, atol=0)
        assert not one.model.training
        assert all(weight.requires_grad for weight in one.model.parameters())


def test_pruning_by_name_and_by_shape_is_the_pure_function(teacher):
    target = pruning.Shape(4, 1, 48, 8)
    expected = weights_hash(pruning.prune(teacher.model, target).state_dict())
    assert identity(api.prune(teacher, target)) == expected
    assert identity(api.prune(teacher, str(target))) == expected


def test_a_finished_folder_is_read_and_not_trained_again(root, teacher, tmp_path, capsys):
    data, folder = root / "data" / "CoLA", tmp_path / "student"
    small = api.prune(teacher, "a4_l2_f48_e8", output_dir=tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["stage"] == "one_step_prune"
    first = api.distil(teacher, small, data, folder, pred_distill=True, max_steps=3)
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    again = api.distil(teacher, small, data, folder, pred_distill=True, max_steps=3)
    assert "finished already" in capsys.readouterr().out
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed
    assert (
        identity(first)
        == identity(again)
        == weights_hash(load_model(folder, GLUE["CoLA"]).state_dict())
    )
    with pytest.raises(RositaError, match="holds another run .settings.max_steps: 3 there"):
        api.distil(teacher, small, data, folder, pred_distill=True, max_steps=4)


def test_a_run_of_a_model_in_memory_is_not_that_of_what_its_folder_holds_by_then(root, tmp_path):
    data, folder = root / "data" / "CoLA", tmp_path / "ft"
    bert = api.load(root / "bert", "CoLA", new_classifier=True)
    old = api.fine_tune(bert, data, folder, max_steps=1)
    new = {"max_steps": 1, "learning_rate": 1e-2, "overwrite_output_dir": True}
    api.fine_tune(bert, data, folder, **new)
    api.prune(old, "a4_l2_f48_e8", output_dir=tmp_path / "cut")
    small = api.load(tmp_path / "cut", "CoLA")
    api.distil(old, small, data, tmp_path / "kd", pred_distill=True, max_steps=1)
    with pytest.raises(RositaError, match="kd holds another run .parents.teacher"):
        distil("--task_name", "CoLA", "--data_dir", data, "--teacher_model", folder,
               "--student_model", tmp_path / "cut", "--pred_distill", "--max_steps", 1,
               "--output_dir", tmp_path / "kd")  # fmt: skip


def test_a_folder_whose_model_calls_its_labels_otherwise_is_not_this_run(root, teacher, tmp_path):
    data, tuned, cut = root / "data" / "CoLA", tmp_path / "tuned", tmp_path / "cut"
    named = api.load(teacher.save(tmp_path / "saved").path, "CoLA", label_names="wrong,right")
    api.prune(teacher, "a4_l2_f48_e8", output_dir=cut)
    api.fine_tune(teacher, data, tuned, max_steps=1)
    other = "holds another run .names: .'0', '1'. there, .'wrong', 'right'. now"
    with pytest.raises(RositaError, match=other):
        api.prune(named, "a4_l2_f48_e8", output_dir=cut)
    with pytest.raises(RositaError, match=other):
        api.fine_tune(named, data, tuned, max_steps=1)
    again = api.fine_tune(named, data, tuned, max_steps=1, overwrite_output_dir=True)
    assert {answer.label for answer in api.label(again, ["the dog ran"])} <= {"wrong", "right"}
    scores = api.score(teacher, data, tmp_path / "scored", max_steps=1)
    for name, same in api.score(named, data, tmp_path / "scored", max_steps=1).items():
        torch.testing.assert_close(same, scores[name], rtol=0, atol=0)  # they have no names


def test_a_record_that_does_not_say_how_labels_are_called_is_still_of_its_run(teacher, tmp_path):
    cut = tmp_path / "cut"
    api.prune(teacher, "a4_l2_f48_e8", output_dir=cut)
    record = json.loads((cut / "run.json").read_text())
    assert record.pop("names") == ["0", "1"]
    (cut / "run.json").write_text(json.dumps(record))
    assert str(api.prune(teacher, "a4_l2_f48_e8", output_dir=cut).shape) == "a4_l2_f48_e8"


def test_iterative_pruning_ends_at_the_shape_that_the_settings_name(root, teacher):
    named = {"keep_heads": 2, "keep_layers": 3, "ffn_hidden_dim": 24, "emb_hidden_dim": 8}
    student = api.distil(teacher, teacher, root / "data" / "CoLA", depth_or_width="width",
                         prun_period_proportion=1, num_train_epochs=4, pred_distill=True,
                         **named)  # fmt: skip
    assert str(student.shape) == "a2_l3_f24_e8"


def test_an_export_of_a_model_in_memory_answers_as_the_model_does(root, teacher, tmp_path):
    data, texts = root / "data" / "CoLA", ["the dog ran", "she never sings old happy songs"]
    report = api.export(teacher, tmp_path / "out", data, max_drop=2)
    assert list(report["formats"]) == ["hf", "onnx", "int8"]
    assert report["formats"]["hf"]["agreement"] == 1
    ours = api.label(teacher, texts)
    for form in ("pytorch", "onnx"):
        for mine, theirs in zip(ours, api.label(tmp_path / "out", texts, form), strict=True):
            assert mine.label == theirs.label
            assert mine.probability == pytest.approx(theirs.probability, abs=1e-4)
    with pytest.raises(RositaError, match="holds an export"):
        api.export(teacher, tmp_path / "out", data)


def test_labels_are_the_argmax_of_the_logits_and_their_softmax(root, teacher):
    dev = encode_file(root / "data" / "CoLA" / "dev.tsv", GLUE["CoLA"], teacher.tokenizer, 32)
    lines = (root / "data" / "CoLA" / "dev.tsv").read_text().splitlines()
    answers = api.label(teacher, [line.split("\t")[3] for line in lines])
    for row, answer in enumerate(answers):
        with torch.no_grad():
            chance = teacher.model(**dev.batch(np.array([row])).inputs).logits.softmax(-1)[0]
        assert answer.label == GLUE["CoLA"].labels[chance.argmax()]
        assert answer.probability == pytest.approx(chance.max().item(), abs=1e-5)


def test_one_text_many_texts_and_pairs_are_told_apart_by_their_types(teacher):
    one, two = api.label(teacher, ["the dog ran", "a cat sings"])
    assert api.label(teacher, "the dog ran") == [one]
    assert api.label(teacher, iter(["the dog ran", "a cat sings"])) == [one, two]
    pairs = replace(teacher, task=GLUE["RTE"])  # of two labels too
    [pair] = api.label(pairs, ("the dog ran", "a cat sings"))
    assert api.label(pairs, [("the dog ran", "a cat sings")]) == [pair]
    with pytest.raises(RositaError, match="text 1 is a pair, but the model's task has one text"):
        api.label(teacher, ("the dog ran", "a cat sings"))
    with pytest.raises(RositaError, match="text 1 is one text, but the model's task has pairs"):
        api.label(pairs, ["the dog ran", "a cat sings"])


@pytest.mark.parametrize("texts", [None, 3, b"a", {"a": 1}, {"a"}, ["a", None], [1.5], [["a"] * 3],
                                   ("a", "b", "c"), ("a", None)])  # fmt: skip
def test_what_is_no_text_is_a_type_error_that_names_it(teacher, texts):
    with pytest.raises(TypeError, match="label: texts"):
        api.label(teacher, texts)


def test_every_function_refuses_arguments_of_another_type_in_words(root, teacher):
    data = root / "data" / "CoLA"
    for call, words in (
        (lambda: api.load(None, "CoLA"), "load: folder is None, not str | Path"),
        (lambda: api.load(root / "bert", 3), "load: task is 3, not str | Task"),
        (lambda: api.fine_tune(str(root / "bert"), data), "fine_tune: start is '"),
        (lambda: api.score(teacher, 5), "score: data_dir is 5, not str | Path | None"),
        (lambda: api.prune(teacher, None), "prune: shape is None, not Shape | str"),
        (lambda: api.prune(teacher, SHAPE, [1]), "prune: scores is [1], not dict[str, Tensor]"),
        (
            lambda: api.prune(teacher, SHAPE, importance="size"),
            "prune: importance is 'size', not taylor or magnitude or random",
        ),
        (lambda: api.distil(teacher, None, data), "distil: student is None, not TaskModel"),
        (lambda: api.distil(teacher, teacher, config=3), "distil: config is 3, not str | Path"),
        (lambda: api.evaluate(teacher, data, 1.5), "evaluate: max_seq_length is 1.5, not int"),
        (lambda: api.export(teacher, None, data), "export: output_dir is None, not str | Path"),
        (lambda: api.label(7, "a"), "label: start is 7, not TaskModel | str | Path"),
    ):
        with pytest.raises(TypeError, match=re.escape(words)):
            call()


def test_an_empty_path_is_not_the_current_folder(root, monkeypatch):
    monkeypatch.chdir(root / "bert")
    for call, name in (
        (lambda: api.load("", "CoLA", new_classifier=True), "load: folder"),
        (lambda: api.fine_tune(api.load(".", "CoLA", new_classifier=True), " "), "fine_tune: data"),
    ):
        with pytest.raises(RositaError, match=f"^{name}.*: an empty value: give it one"):
            call()


def test_the_random_classifier_depends_on_its_seed_alone(root):
    bert = root / "bert"
    heads = [api.load(bert, "CoLA", new_classifier=True, seed=seed) for seed in (1, 1, 2)]
    assert identity(heads[0]) == identity(heads[1]) != identity(heads[2])
    with pytest.raises(RositaError, match="has no classifier"):
        api.load(bert, "CoLA")


def test_mistakes_are_told_in_one_line(root, teacher):
    data = root / "data" / "CoLA"
    with pytest.raises(RositaError, match="unknown setting 'learning_rat'; did you mean 'learnin"):
        api.fine_tune(teacher, data, learning_rat=1e-3)
    with pytest.raises(RositaError, match="learning_rate -1"):
        api.fine_tune(teacher, data, learning_rate=-1)
    with pytest.raises(RositaError, match="set pred_distill or repr_distill"):
        api.distil(teacher, teacher, data)
    with pytest.raises(RositaError, match="is not a shape; write it like a2_l8_f512_e128"):
        api.prune(teacher, "small")
    for how in ({}, {"keep_layers_by": "score"}):
        with pytest.raises(RositaError, match="needs Taylor scores: give those of api.score"):
            api.prune(teacher, SHAPE if not how else "a4_l1_f48_e-1", **how)
    with pytest.raises(RositaError, match="scores are for importance taylor, .* leave them out"):
        api.prune(teacher, SHAPE, {}, importance="random")
    with pytest.raises(RositaError, match="save_steps keeps models in output_dir: give one"):
        api.fine_tune(teacher, data, save_steps=2)
    ladder = {
        "depth_or_width": "depth", "save_ladder": True, "pred_distill": True, "keep_heads": 4,
        "keep_layers": 2, "ffn_hidden_dim": 48, "emb_hidden_dim": 8,
    }  # fmt: skip
    with pytest.raises(RositaError, match="save_ladder keeps models in output_dir: give one"):
        api.distil(teacher, teacher, data, **ladder)
    other = api.load(root / "bert", "RTE", new_classifier=True)
    with pytest.raises(RositaError, match="is of RTE, the student .* of CoLA; both must be of one"):
        api.distil(other, teacher, data, pred_distill=True)
    with pytest.raises(RositaError, match="formats 'tflite' is not one of"):
        api.export(teacher, root / "none", data, formats="tflite")
    with pytest.raises(RositaError, match="dev.tsv does not exist"):
        api.evaluate(teacher, root)


def test_without_data_the_folder_that_was_looked_for_is_named(teacher, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for function, name in ((api.evaluate, "dev.tsv"), (api.fine_tune, "train.tsv")):
        with pytest.raises(RositaError, match="name another folder by data_dir") as caught:
            function(teacher)
        path = Path(str(caught.value).split(" does not exist")[0])
        assert path.resolve() == REPOSITORY / "data" / "CoLA" / name


def test_a_dry_run_prints_the_plan_and_gives_the_model_back(root, teacher, capsys, tmp_path):
    folder = tmp_path / "never"
    same = api.fine_tune(teacher, root / "data" / "CoLA", folder, dry_run=True)
    assert same is teacher and not folder.exists()
    assert "plan (--dry_run" in capsys.readouterr().out


def test_texts_are_cut_as_in_the_models_training_wherever_the_model_is(
    root, teacher, tmp_path, monkeypatch
):
    data, longest = root / "data" / "CoLA", []
    predict = api.predict

    def measured(model, dev, rows):
        longest.append(int(dev.lengths().max()))
        return predict(model, dev, rows)

    monkeypatch.setattr(api, "predict", measured)
    monkeypatch.chdir(tmp_path)
    given = {"max_seq_length": 5, "learning_rate": 1e-3, "num_train_epochs": 1}
    short = api.fine_tune(teacher, data, **given)
    api.fine_tune(teacher, data, "short", **given)
    read = api.load("short", "CoLA")
    api.prune(short, "a4_l2_f20_e8", importance="magnitude", output_dir="cut")
    cut = json.loads(Path("cut/run.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(root)  # "short" is no folder here
    student = api.distil(teacher, short, data, pred_distill=True, max_seq_length=6)
    for model in (teacher, short, read, student):
        api.evaluate(model, data)
    api.evaluate(short, data, max_seq_length=7)
    assert longest[0] > 7 and longest[1:] == [5, 5, 6, 7]
    assert cut["max_seq_length"] == 5
    text = " ".join(10 * ["the cat sat"])
    whole, as_trained, asked = (
        api.label(short, text, max_seq_length=length)[0].probability for length in (20, None, 5)
    )
    assert as_trained == asked != whole
    assert api.label(read, text)[0].probability == asked
    assert api.export(short, tmp_path / "hf", data, formats="hf")["max_seq_length"] == 5


def test_importing_the_package_does_not_import_the_api():
    code = "import sys, rosita; print([m for m in sys.modules if m.startswith('rosita.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the example -----------------------------------------------------------------------------

NOTEBOOK = REPOSITORY / "examples" / "compress.ipynb"


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_examples_cells_run_on_a_tiny_model(tmp_path, monkeypatch, capsys):
    data = write_cola(tmp_path / "data" / "CoLA")
    (tmp_path / "rosita").mkdir()  # the notebook looks for the repository's root by it
    monkeypatch.chdir(tmp_path)
    tiny = {
        "TASK": "CoLA", "DATA": str(data), "BERT": str(make_bert(tmp_path / "bert")),
        "OUTPUT": tmp_path / "out", "SHAPE": SHAPE, "TUNING": {"num_train_epochs": 1},
        "DISTILLING": {"num_train_epochs": 1}, "MAX_DROP": 2,
    }  # fmt: skip
    names: dict = {}
    sources = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    for number, source in enumerate(sources):
        exec(source, names)  # noqa: S102
        if number == 0:
            assert tiny.keys() <= names.keys()
            names |= tiny
    assert names["student"].shape == pruning.Shape.parse(SHAPE)
    assert json.loads((tmp_path / "out" / "export" / "export.json").read_text())["task"] == "CoLA"


def test_the_example_is_executed_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= len(code) - 2
    assert not any(out["output_type"] == "error" for cell in code for out in cell["outputs"])
    assert len(text) < 200_000 and "image/png" not in text
    assert not re.search(r"/(home|root|tmp|work|usr|opt)/|Traceback|Warning", text)


def test_the_example_and_its_plain_script_hold_the_same_cells():
    parts = re.split(r"^# %%", (NOTEBOOK.with_suffix(".py")).read_text(), flags=re.MULTILINE)[1:]
    plain = [part.removeprefix(" [markdown]").strip() for part in parts]
    for cell, part in zip(cells(), plain, strict=True):
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            part = re.sub(r"^# ?", "", part, flags=re.MULTILINE).strip()
        assert source == part
