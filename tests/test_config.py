import argparse
import json
from pathlib import Path

import pytest
from conftest import REPOSITORY, load_script

from rosita import config
from rosita.cli import add_flags
from rosita.config import READ_WITH, FineTuneSettings, KDSettings
from rosita.config_file import load_config
from rosita.errors import RositaError
from rosita.pruning.shape import Shape
from rosita.tasks import GLUE, PAPER_TASKS, Task, find_task

run_glue, train = load_script("Pruning/run_glue.py"), load_script("KD/train.py")
CONFIGS = sorted((REPOSITORY / "KD" / "configurations").rglob("*.json"))
MINIMAL = {"teacher_model": "t", "student_model": "s", "output_dir": "o", "pred_distill": True}


def write(tmp_path: Path, **sections) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(sections))
    return path


def test_thirteen_configs_are_shipped_and_every_one_serves_every_glue_task():
    assert len(CONFIGS) == 13
    checked = 0
    for path in CONFIGS:
        sections = json.loads(path.read_text())
        named = {name.lower() for name in PAPER_TASKS}
        if path.parent.name == "minilm":  # small tasks want more epochs than the default's
            named |= {"mrpc", "sts-b", "rte"}
        assert set(sections) == {"default", *named}
        for task in GLUE.values():
            settings = load_config(KDSettings, task, {}, path, path.parent)
            assert settings.data_dir.endswith(f"data/{task.name}")
            checked += 1
    assert checked == 117


PUBLISHED = {  # task: learning rate, epochs, evaluation, proportion, patience (reference)
    ("bert-student", "CoLA"): (2e-5, 5, 100, None, None),
    ("bert-student", "MNLI"): (5e-5, 3, 500, None, None),
    ("bert-8layer", "CoLA"): (1e-5, 10, 500, 0.2, None),
    ("bert-8layer", "SST-2"): (2e-5, 5, 500, 0.5, None),
    ("bert-8layer", "QNLI"): (3e-5, 3, 500, 0.2, None),
    ("setting1", "CoLA"): (5e-5, 50, 500, None, 10),
    ("setting2", "SST-2"): (5e-5, 10, 500, None, None),
    ("setting3", "CoLA"): (1e-5, 50, 500, 0.1, 10),
    ("setting3", "MNLI"): (5e-5, 5, 500, 0.1, None),
    ("setting4", "CoLA"): (1e-5, 50, 500, 0.01, 10),
    ("setting4", "QQP"): (3e-5, 5, 500, 0.1, None),
}


@pytest.mark.parametrize("config, task", PUBLISHED)
def test_the_papers_configs_hold_the_published_values(config, task):
    path = REPOSITORY / "KD" / "configurations" / f"config_{config}.json"
    settings = load_config(KDSettings, GLUE[task], {}, path)
    rate, epochs, every, proportion, patience = PUBLISHED[config, task]
    assert (settings.learning_rate, settings.num_train_epochs) == (rate, epochs)
    assert (settings.eval_step, settings.patience) == (every, patience)
    if proportion:
        assert settings.prun_period_proportion == proportion
    if config.startswith("setting"):
        assert settings.target == Shape(2, 8, 512, 128)
        assert settings.repr_distill and settings.pred_distill


FOLDERS = {  # config: teacher, student, output (reference); SHAPE: the final, CUT: 8 whole layers
    "bert-student": ("bert_ft/CoLA", "bert_pt", "bert_student/CoLA"),
    "bert-8layer": ("bert_student/CoLA", "bert_student/CoLA", "bert-8layer/iter_depth_prun/CoLA"),
    "setting1": ("bert_ft/CoLA", "prun_bert/CoLA/SHAPE", "setting1/CoLA/SHAPE"),
    "setting2": ("bert_student/CoLA", "prun_bert_student/CoLA/SHAPE", "setting2/CoLA/SHAPE"),
    "setting3": ("bert_student/CoLA", "bert-8layer/one_step_prun/CoLA/CUT", "setting3/CoLA/SHAPE"),
    "setting4": ("bert-8layer/iter_depth_prun/CoLA", "bert-8layer/iter_depth_prun/CoLA",
                 "setting4/CoLA"),
}  # fmt: skip


@pytest.mark.parametrize("base, shape, cut", [
    (".", "a2_l8_f512_e128", "a12_l8_f3072_e-1"), ("minilm", "a2_l4_f256_e64", "a12_l4_f1536_e-1"),
])  # fmt: skip
@pytest.mark.parametrize("config", FOLDERS)
def test_the_configs_name_the_published_folders(config, base, shape, cut):
    path = REPOSITORY / "KD" / "configurations" / base / f"config_{config}.json"
    settings = load_config(KDSettings, GLUE["CoLA"], {}, path, REPOSITORY / "KD")
    given = (settings.teacher_model, settings.student_model, settings.output_dir)
    found = [Path(folder).resolve().relative_to(REPOSITORY / "models") for folder in given]
    wanted = [name.replace("SHAPE", shape).replace("CUT", cut) for name in FOLDERS[config]]
    assert [path.as_posix() for path in found] == wanted


def test_later_wins_default_task_json_default_json_task_command_line(tmp_path):
    path = write(
        tmp_path,
        default=MINIMAL | {"learning_rate": 1e-5, "eval_step": 7, "temperature": 2},
        mnli={"eval_step": 8},
    )
    settings = load_config(KDSettings, GLUE["MNLI"], {"temperature": "3"}, path)
    assert settings.train_batch_size == 64  # the task's
    assert settings.learning_rate == 1e-5  # the JSON's default section
    assert settings.eval_step == 8  # the JSON's task section
    assert settings.temperature == 3.0  # the command line
    assert load_config(KDSettings, GLUE["CoLA"], {}, path).max_seq_length == 64


def test_the_task_in_braces_and_paths_relative_to_kd_are_resolved(tmp_path):
    path = write(tmp_path, default=MINIMAL | {"output_dir": "../models/x/{task}/y"})
    settings = load_config(KDSettings, GLUE["SST-2"], {}, path, tmp_path / "KD")
    assert Path(settings.output_dir).resolve() == tmp_path / "models/x/SST-2/y"


@pytest.mark.parametrize(
    "section, words",
    [
        ({"learning_rat": 1}, ["unknown setting 'learning_rat'", "did you mean 'learning_rate'"]),
        ({"learning_rate": "fast"}, ["learning_rate 'fast'", "number"]),
        ({"eval_step": 1.5}, ["eval_step 1.5"]),
        ({"eval_step": 0, "temperature": -1}, ["eval_step 0", "temperature -1"]),
        ({"keep_heads": 0}, ["keep_heads 0"]),
        ({"pred_distill": False}, ["pred_distill or repr_distill"]),
        (
            {"pred_distill": False, "repr_distill": True, "temperature": 2},
            ["temperature is for the logits: set pred_distill, or type --temperature 1.0"],
        ),
        (
            {"pred_distill": False, "repr_distill": True, "regression_target": "labels"},
            ["regression_target is for the logits", "or type --regression_target teacher"],
        ),
        ({"depth_or_width": "width"}, ["needs keep_heads"]),
        (
            {"keep_heads": 2, "emb_hidden_dim": 8},
            ["keep_heads, emb_hidden_dim name no shape without keep_layers, ffn_hidden_dim"],
        ),
        (
            {"repr_distill": True, "hsk": "1l", "hsk_length": "attention"},
            ["hsk_length is for a part of the tokens: set hsk, as 10t, or type --hsk_length"],
        ),
        (
            {"repr_distill": True, "hsk": "1l_10t", "hsk_masked": "left_out"},
            ["hsk_masked is for a part of the units: set hsk, as 0.1h, or type --hsk_masked"],
        ),
        (
            {"lr_schedule": "decay_after_pruning"},
            ["decay_after_pruning is for iterative pruning: set depth_or_width"],
        ),
        ({"lr_schedule": "cosine"}, ["lr_schedule 'cosine'", "warmup_linear"]),
        ({"cache_dir": ""}, ["[CoLA] cache_dir: an empty value: give it one, or leave it out"]),
        ({"max_steps": 0}, ["max_steps 0: 0 steps train nothing; -1 trains for num_train_epochs"]),
    ],
)
def test_every_fault_of_a_config_is_named_in_one_line(tmp_path, section, words):
    path = write(tmp_path, default=MINIMAL, cola=section)
    with pytest.raises(RositaError) as caught:
        load_config(KDSettings, GLUE["CoLA"], {}, path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


NOT_THE_DEFAULT = {
    "hsk": "1l", "hsk_length": "left_first", "hsk_width": "rand_mask", "hsk_masked": "left_out",
    "temperature": 2.0, "regression_target": "labels", "glove_embs": "g", "aug_candidates": 3,
    "aug_probability": 0.5, "aug_edits": 0.5, "aug_eligible": "letters", "aug_stop_words": "w",
    "save_ladder": True, "keep_optimizer": True, "recompute_svd": True,
}  # fmt: skip


def test_every_setting_of_fresh_rows_and_of_hsk_is_in_the_table_of_what_reads_it():
    named = {name for *_, names in READ_WITH.values() for name in names}
    of_these = {n for n in KDSettings.model_fields if n.startswith(("glove_", "aug_", "hsk"))}
    assert of_these - {"aug_train"} <= named


@pytest.mark.parametrize(
    "switch, name", [(s, n) for s, (*_, names) in READ_WITH.items() for n in names]
)
def test_a_setting_that_nothing_reads_is_refused_and_the_flag_named_there_takes_it_back(
    tmp_path, switch, name
):
    losses = {"pred_distill": switch != "pred_distill", "repr_distill": switch == "pred_distill"}
    path = write(tmp_path, default=MINIMAL | losses | {name: NOT_THE_DEFAULT[name]})
    with pytest.raises(RositaError, match=f"^{name} is for .*, or type --{name} ") as caught:
        load_config(KDSettings, GLUE["CoLA"], {}, path)
    flag, value = str(caught.value).rpartition(" or type --")[2].split(" ")
    taken_back = load_config(KDSettings, GLUE["CoLA"], {flag: value}, path)
    assert getattr(taken_back, name) == KDSettings.model_fields[name].default


@pytest.mark.parametrize("name", ["data_dir", "teacher_model", "label_names"])
def test_an_empty_flag_is_refused_where_it_would_be_the_current_folder(name):
    with pytest.raises(RositaError, match=f"^--{name}: an empty value: give it one"):
        load_config(KDSettings, GLUE["CoLA"], {**MINIMAL, name: " "})


def test_two_spellings_of_one_section_are_named(tmp_path):
    path = write(tmp_path, default=MINIMAL, cola={"eval_step": 1}, CoLA={"eval_step": 2})
    with pytest.raises(RositaError, match="has the sections 'cola' and 'CoLA', which are one task"):
        load_config(KDSettings, GLUE["SST-2"], {}, path)


def test_a_task_without_a_section_needs_a_default_section(tmp_path):
    path = write(tmp_path, cola=MINIMAL)
    with pytest.raises(RositaError, match=r"no task 'MNLI'; it has \['cola'\]"):
        load_config(KDSettings, GLUE["MNLI"], {}, path)
    own = Task(name="Mine", labels=("a", "b"), metric="accuracy", text_columns=(0,))
    path = write(tmp_path, default=MINIMAL)
    assert load_config(KDSettings, own, {}, path).data_dir.endswith("data/Mine")


def test_a_file_that_is_no_json_is_named_with_line_and_column(tmp_path):
    (tmp_path / "c.json").write_text('{"default": {\n  "a": }\n}')
    with pytest.raises(RositaError, match="line 2 column 8"):
        load_config(KDSettings, GLUE["CoLA"], {}, tmp_path / "c.json")


def test_switches_stand_alone_or_take_true_and_false():
    parser = argparse.ArgumentParser()
    add_flags(parser, FineTuneSettings)
    line = "--model_name_or_path m --output_dir o --do_train --is_prun False --compute_taylor True"
    settings = load_config(FineTuneSettings, GLUE["CoLA"], vars(parser.parse_args(line.split())))
    assert settings.do_train and settings.compute_taylor and not settings.is_prun


@pytest.mark.parametrize("text", ["True", "true", "1", "yes", "on"])
def test_a_switch_means_the_same_in_every_spelling_that_is_taken(text):
    command = ["--task_name", "CoLA", "--model_name_or_path", "m", "--output_dir", "o"]
    score = run_glue.parse_args([*command, "--compute_taylor", text])[1]
    assert (score.compute_taylor, score.num_train_epochs) == (True, 1)
    pruned = run_glue.parse_args([*command, "--do_train", "--is_prun", text, "--fp16", text])[1]
    assert (pruned.num_train_epochs, pruned.precision) == (20, "fp16")
    flags = {"teacher_model": "t", "student_model": "s", "output_dir": "o", "pred_distill": text}
    distilled = train.read_settings(GLUE["CoLA"], {**flags, "compute_taylor": text}, None)
    assert (distilled.compute_taylor, distilled.num_train_epochs) == (True, 1)


@pytest.mark.parametrize("flag", ["--fp16", "--is_prun", "--compute_taylor"])
def test_a_text_that_is_no_switch_is_refused(flag):
    command = ["--task_name", "CoLA", "--model_name_or_path", "m", "--output_dir", "o"]
    with pytest.raises(RositaError, match=f"{flag} banana: Input should be a valid boolean"):
        run_glue.parse_args([*command, "--do_train", flag, "banana"])


@pytest.mark.parametrize("key", ["train_file", "dev_files", "test_files", "submission_files"])
@pytest.mark.parametrize("name", ["../other.tsv", "/etc/passwd", "a/../../b.tsv", ""])
def test_a_tasks_files_stay_within_its_folder(tmp_path, key, name):
    values = {"name": "Mood", "labels": ["a", "b"], "metric": "accuracy", "text_columns": [0],
              key: name if key == "train_file" else [name]}  # fmt: skip
    (tmp_path / "task.json").write_text(json.dumps(values))
    with pytest.raises(RositaError, match="must be the name of a file within the task's folder"):
        find_task(str(tmp_path / "task.json"))


def test_a_setting_has_the_same_type_in_every_stage_that_has_it():
    """Else a word that one stage refuses means something in another."""
    kinds = [kind for kind in vars(config).values()
             if isinstance(kind, type) and issubclass(kind, config.BaseModel)]  # fmt: skip
    types: dict[str, set] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            types.setdefault(name, set()).add(field.annotation)
    assert {name for name, found in types.items() if len(found) > 1} == {"output_dir"}
    with pytest.raises(RositaError, match="classifier_activation.* 'auto', 'relu' or 'none'"):
        load_config(
            config.TestSettings,
            GLUE["CoLA"],
            {"student_model": "x", "classifier_activation": "gelu"},
        )
