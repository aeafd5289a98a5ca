"""The published README's commands, in its order and with its folders, on a tiny BERT-base alike.

Every stage opens what an earlier one wrote by the name that users know from there; which model that
was is checked by the hashes of weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_readme import FFN, make_sandbox, narrowed, run_block

from rosita.checkpoint import load_model
from rosita.files import read_json
from rosita.provenance import weights_hash
from rosita.pruning.shape import Shape
from rosita.tasks import GLUE

SMALL = "a2_l8_f512_e128"
KD = "python train.py --task_name CoLA --do_lower_case --config_dir configurations/config_"
CUT = "python pruning_one_step.py -task CoLA -model_path ../models"
AUGMENT = (
    "python data_augmentation.py --pretrained_bert_model models/bert_pt --task_name CoLA"
    " --glove_embs glove/glove.42B.300d.txt --glue_dir data --N 3"
)
BATCH = {"width": 4, "depth": 8, None: 16}  # of few rows, yet steps enough for all prunings

# (folder that the command is typed in, command)
COMMANDS = (
    (".", AUGMENT),
    ("Pruning", "python run_glue.py --model_type bert --model_name_or_path bert-base-uncased"
     " --task_name CoLA --do_train --do_eval --do_lower_case --data_dir ../data/CoLA"
     " --max_seq_length 64 --per_gpu_train_batch_size 32 --learning_rate 2e-5"
     " --num_train_epochs 5.0 --evaluate_during_training --logging_steps 100 --save_steps 0"
     " --output_dir ../models/bert_ft/CoLA"),
    ("KD", f"{KD}bert-student.json --aug_train"),
    ("KD", f"{KD}bert-8layer.json --aug_train"),
    ("Pruning", "python run_glue.py --model_type bert --task_name CoLA --do_lower_case"
     " --model_name_or_path ../models/bert_ft/CoLA --data_dir ../data/CoLA --max_seq_length 64"
     " --per_gpu_train_batch_size 32 --compute_taylor True"),
    ("Pruning", f"{CUT}/bert_ft -output_dir ../models/prun_bert"
     " -keep_heads 2 -num_layers 8 -ffn_hidden_dim 512 -emb_hidden_dim 128"),
    ("Pruning", "python run_glue.py --model_type bert --is_prun True --task_name CoLA --do_train"
     f" --do_eval --do_lower_case --model_name_or_path ../models/prun_bert/CoLA/{SMALL}"
     " --data_dir ../data/CoLA --max_seq_length 64 --per_gpu_train_batch_size 32"
     " --learning_rate 2e-5 --num_train_epochs 2 --evaluate_during_training --logging_steps 100"
     f" --save_steps 0 --output_dir ../models/one_step_prun/CoLA/{SMALL}"),
    ("KD", f"{KD}setting1.json --aug_train"),
    ("KD", "python train.py --task_name CoLA --do_lower_case --compute_taylor --pred_distill"
     " --teacher_model ../models/bert_ft/CoLA --student_model ../models/bert_student/CoLA"
     " --data_dir ../data/CoLA --output_dir ../models/bert_student/CoLA/taylor_score"),
    ("KD", f"{CUT}/bert_student -output_dir ../models/prun_bert_student"),
    ("KD", f"{KD}setting2.json --aug_train"),
    ("KD", f"{CUT}/bert_student -output_dir ../models/bert-8layer/one_step_prun"
     " -keep_heads 12 -num_layers 8 -ffn_hidden_dim 3072 -emb_hidden_dim -1"),
    ("KD", f"{KD}setting3.json --aug_train"),
    ("KD", f"{KD}setting4.json --aug_train"),
    ("KD", "python test.py --do_predict --do_eval --do_lower_case --task_name CoLA"
     " --student_model ../models/setting4/CoLA --max_seq_length 64"),
    (".", f"{AUGMENT} --subset_rows 20"),
    ("KD", "python train_with_subset.py --task_name CoLA --do_lower_case"
     " --config_dir configurations/config_setting1.json --output_dir ../models/subset/CoLA"),
)  # fmt: skip

SHAPES = {
    "bert_ft/CoLA": f"a12_l12_f{FFN}_e-1",
    "bert_student/CoLA": f"a12_l12_f{FFN}_e-1",
    "bert-8layer/iter_depth_prun/CoLA": f"a12_l8_f{FFN}_e-1",
    f"prun_bert/CoLA/{SMALL}": SMALL,
    f"one_step_prun/CoLA/{SMALL}": SMALL,
    f"setting1/CoLA/{SMALL}": SMALL,
    f"prun_bert_student/CoLA/{SMALL}": SMALL,
    f"setting2/CoLA/{SMALL}": SMALL,
    f"bert-8layer/one_step_prun/CoLA/a12_l8_f{FFN}_e-1": f"a12_l8_f{FFN}_e-1",
    f"setting3/CoLA/{SMALL}": SMALL,
    "setting4/CoLA": SMALL,
    "subset/CoLA": SMALL,
}

PARENTS = {  # folder -> role -> folder of the model that it was made from
    "bert_student/CoLA": {"teacher": "bert_ft/CoLA"},
    "bert-8layer/iter_depth_prun/CoLA": {
        "teacher": "bert_student/CoLA", "student": "bert_student/CoLA"},
    f"prun_bert/CoLA/{SMALL}": {"model": "bert_ft/CoLA"},
    f"one_step_prun/CoLA/{SMALL}": {"model": f"prun_bert/CoLA/{SMALL}"},
    f"setting1/CoLA/{SMALL}": {"teacher": "bert_ft/CoLA", "student": f"prun_bert/CoLA/{SMALL}"},
    "bert_student/CoLA/taylor_score": {
        "teacher": "bert_ft/CoLA", "student": "bert_student/CoLA"},
    f"prun_bert_student/CoLA/{SMALL}": {"model": "bert_student/CoLA"},
    f"setting2/CoLA/{SMALL}": {
        "teacher": "bert_student/CoLA", "student": f"prun_bert_student/CoLA/{SMALL}"},
    f"bert-8layer/one_step_prun/CoLA/a12_l8_f{FFN}_e-1": {"model": "bert_student/CoLA"},
    f"setting3/CoLA/{SMALL}": {
        "teacher": "bert_student/CoLA",
        "student": f"bert-8layer/one_step_prun/CoLA/a12_l8_f{FFN}_e-1"},
    "setting4/CoLA": {
        "teacher": "bert-8layer/iter_depth_prun/CoLA",
        "student": "bert-8layer/iter_depth_prun/CoLA"},
    "subset/CoLA": {"teacher": "bert_ft/CoLA", "student": f"prun_bert/CoLA/{SMALL}"},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of all models, and what each command printed."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("published") / "rosita")
    (sandbox / "models" / "bert_pt" / "run.json").unlink()  # as one puts it there by hand
    for path in (sandbox / "KD" / "configurations").glob("*.json"):
        sections = read_json(path)
        way = sections["default"].get("depth_or_width")
        sections["default"]["train_batch_size"] = BATCH[way]
        path.write_text(json.dumps(sections))
    blocks = [narrowed(f"cd {folder}\n{command}") for folder, command in COMMANDS]
    printed = [run_block(block, sandbox) for block in blocks]
    return sandbox / "models", printed


def test_every_stage_writes_the_published_folder_with_a_model_of_the_published_shape(made):
    models, _ = made
    for name, shape in SHAPES.items():
        assert str(Shape.of(load_model(models / name, GLUE["CoLA"]).config)) == shape, name
        assert read_json(models / name / "run.json")["finished"], name
    there = {path.parent.relative_to(models).as_posix() for path in models.rglob("config.json")}
    assert there == {"bert_pt", *SHAPES}


def test_every_stage_started_from_the_model_that_the_published_table_names(made):
    models, _ = made
    hashes = {
        name: weights_hash(load_model(models / name, GLUE["CoLA"]).state_dict()) for name in SHAPES
    }
    assert len(set(hashes.values())) == len(hashes)  # so a hash names one folder
    for name, parents in PARENTS.items():
        recorded = read_json(models / name / "run.json")["identity"]["parents"]
        for role, parent in parents.items():
            assert recorded[role] == hashes[parent], (name, role)


def test_the_published_name_takes_the_bert_put_there_by_hand_and_says_so_once(made):
    models, printed = made
    said = f"bert-base-uncased: taken from {models / 'bert_pt'}, put there by hand"
    assert printed[1].count(said) == 1


def test_scores_results_and_subsets_are_where_the_published_commands_look_for_them(made):
    models, _ = made
    for name in ("bert_ft", "bert_student"):
        assert (models / name / "CoLA" / "taylor_score" / "taylor.pkl").exists()
    for name in ("bert_ft/CoLA", f"one_step_prun/CoLA/{SMALL}"):
        assert (models / name / "eval_results_cola.txt").exists()
    tested = models / "setting4" / "CoLA"
    assert "matthews = " in (tested / "eval_results.txt").read_text()
    assert (tested / "test_results_cola.txt").read_text().startswith("index\tprediction\n")
    subsets = read_json(models / "subset" / "CoLA" / "run.json")["data"]["train"]
    assert len(subsets) > 1 and subsets[1] == "train_aug1.tsv"
