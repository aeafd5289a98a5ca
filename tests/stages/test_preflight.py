import pytest
import torch
from conftest import error_line, make_bert, run_script, write_cola
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from rosita.data.encode import encode_file
from rosita.errors import RositaError
from rosita.model import RositaConfig
from rosita.stages import preflight
from rosita.stages.preflight import check_disk, check_label_order, disk_needed
from rosita.tasks import Task
from rosita.tokenizer import read_tokenizer

THREE = Task(
    name="Three",
    labels=("no", "maybe", "yes"),
    metric="accuracy",
    text_columns=(0,),
    label_column=1,
    header=False,
)


class Knows(nn.Module):
    """A teacher that knows the label from the first word, and names it by `order`."""

    def __init__(self, words: list[int], order: list[int], sure: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.words, self.order, self.sure = words, order, sure
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, input_ids, **unused):
        label = torch.tensor([self.words.index(i) for i in input_ids[:, 1].tolist()])
        said = torch.tensor(self.order)[label]
        random = torch.randint(len(self.order), said.shape, generator=self.generator)
        know = torch.rand(said.shape, generator=self.generator) < self.sure
        return SequenceClassifierOutput(
            logits=nn.functional.one_hot(torch.where(know, said, random), len(self.order)).float()
        )


@pytest.fixture
def three(tmp_path):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    words = ["dog", "cat", "bird"]
    lines = [f"{words[i % 3]} ran\t{THREE.labels[i % 3]}\n" for i in range(120)]
    (tmp_path / "dev.tsv").write_text("".join(lines))
    dev = encode_file(tmp_path / "dev.tsv", THREE, tokenizer, 16)
    return dev, [tokenizer.pieces[word] for word in words]


def test_a_teacher_with_permuted_labels_is_refused_and_told_the_permutation(three):
    dev, words = three
    with pytest.raises(RositaError) as error:
        check_label_order(THREE, Knows(words, [1, 2, 0], 0.9), dev, "models/bert_ft/Three")
    text = str(error.value)
    assert "models/bert_ft/Three" in text
    for said, meant in (("maybe", "no"), ("yes", "maybe"), ("no", "yes")):
        assert f"its {said!r} is {meant!r}" in text


@pytest.mark.parametrize("sure", [1.0, 0.5, 0.0])  # 0: guesses
def test_a_teacher_with_its_labels_in_order_or_none_learnt_is_not_refused(three, sure):
    dev, words = three
    check_label_order(THREE, Knows(words, [0, 1, 2], sure), dev, "t")


def test_a_disk_without_room_for_the_run_is_refused_with_both_sizes(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 3_000_000})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(RositaError, match="has 3 MB free, a run of this model needs 4,379 MB"):
        check_disk(tmp_path / "not" / "yet", RositaConfig())
    assert disk_needed(RositaConfig()) == 40 * 109_483_778


def test_dry_run_prints_shapes_steps_prunings_and_time_and_writes_nothing(tmp_path):
    data = write_cola(tmp_path / "data" / "CoLA")
    bert = make_bert(tmp_path / "bert")
    tune = [
        "Pruning/run_glue.py", "--model_name_or_path", bert, "--task_name", "CoLA", "--do_train",
        "--num_train_epochs", 1, "--data_dir", data, "--output_dir", tmp_path / "tuned",
    ]  # fmt: skip
    told = run_script(*tune, "--dry_run").stdout
    assert "a4_l3_f48_e-1" in told
    assert not (tmp_path / "tuned").exists()
    run_script(*tune)
    told = run_script(
        "KD/train.py", "--task_name", "CoLA", "--data_dir", data, "--teacher_model",
        tmp_path / "tuned", "--student_model", tmp_path / "tuned", "--output_dir",
        tmp_path / "student", "--pred_distill", "--num_train_epochs", 20, "--train_batch_size", 8,
        "--depth_or_width", "width", "--prun_period_proportion", 0.5, "--keep_heads", 2,
        "--keep_layers", 3, "--ffn_hidden_dim", 20, "--emb_hidden_dim", 8, "--dry_run",
    ).stdout  # fmt: skip
    assert "a4_l3_f48_e-1 -> a2_l3_f20_e8" in told
    assert "100 of 8 rows" in told
    assert "step      25  a3_l3_f34_e20" in told
    assert "step      50  a2_l3_f20_e8" in told
    assert "ms a step" in told
    assert not (tmp_path / "student").exists()


def test_a_mistyped_flag_is_one_line_that_offers_the_nearest(tmp_path):
    done = run_script("KD/train.py", "--task_name", "CoLA", "--learnin_rat", "1", ok=False)
    assert "did you mean '--learning_rate'" in error_line(done)
    done = run_script("data_augmentation.py", "--task_name", "CoLA", "--N", "many", ok=False)
    assert "--N: invalid int value: 'many'" in error_line(done)
