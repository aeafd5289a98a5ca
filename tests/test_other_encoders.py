"""Settings 1 and 4 on pairs, from a RoBERTa and from a cased BERT with added tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, WORDS, sentences, stage, vocabulary
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
)

from rosita.checkpoint import load_model
from rosita.tasks import find_task

SHAPE = "a2_l2_f20_e8"
WIDTH = "--keep_heads 2 --keep_layers 2 --ffn_hidden_dim 20 --emb_hidden_dim 8".split()
DEPTH = "--keep_heads 4 --keep_layers 2 --ffn_hidden_dim 48 --emb_hidden_dim -1".split()
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's, the first with its ids


def make_roberta(folder: Path) -> None:
    """Byte-level BPE, ids of RoBERTa's special tokens, positions up to 64 + 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([f" {text}" for text in sentences(200)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("cls", "pad", "sep", "unk", "mask"), SPECIAL, strict=True))
    config = {f"{kind}_token": text for kind, text in names.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", **config})
    )
    sizes = SMALL | {"max_position_embeddings": 66, "vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(0)
    RobertaForMaskedLM(
        RobertaConfig(**sizes, type_vocab_size=1, initializer_range=0.2)
    ).save_pretrained(folder)


def make_cased_bert(folder: Path) -> None:
    """A cased WordPiece vocabulary and two added tokens, whose embeddings were added too."""
    folder.mkdir(parents=True)
    capitals = [word.capitalize() for word in WORDS]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*vocabulary(), *capitals])) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=False)
    tokenizer.add_tokens(["[E1]", "[E2]"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(**SMALL, vocab_size=len(tokenizer) - 2, initializer_range=0.2)
    model = BertForMaskedLM(config)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)


def write_pairs(folder: Path) -> None:
    """A task of pairs: an added token and capitals in the first text, blanks in none."""
    folder.mkdir(parents=True)
    for name, count in (("train", 24), ("dev", 12), ("test", 8)):
        firsts, seconds = sentences(count, seed=1), sentences(count, seed=2)
        rows = ["index\tone\ttwo" + ("" if name == "test" else "\tfits")]
        for number, (one, two) in enumerate(zip(firsts, seconds, strict=True)):
            row = f"{number}\t{one.capitalize()} [E1] dog\t{two}"
            rows.append(row + ("" if name == "test" else f"\t{('no', 'yes')[len(one) > len(two)]}"))
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")


class World:
    """The folders of one encoder, and the stages on its task."""

    def __init__(self, root: Path) -> None:
        self.models, self.data, self.task = root / "models", root / "data" / "Fits", root / "f.json"
        self.task.write_text(json.dumps({
            "name": "Fits", "text_columns": ["one", "two"], "label_column": "fits",
            "labels": ["no", "yes"], "metric": "accuracy", "max_seq_length": 40,
            "augmentation_copies": 2,
        }))  # fmt: skip
        write_pairs(self.data)
        vectors = [f"{word} {i % 5} {i % 3 + 1} {i}" for i, word in enumerate(WORDS)]
        (root / "glove.txt").write_text("\n".join(vectors) + "\n")

    def run(self, script: str, *flags: object) -> None:
        named = "-task" if script.endswith("one_step.py") else "--task_name"
        stage(script)(named, self.task, *flags)

    def train(self, script: str, *flags: object) -> None:
        self.run(script, "--data_dir", self.data, "--num_train_epochs", 1, "--no_cuda", *flags)

    def distil(self, teacher: Path, student: Path, output: Path, *flags: object) -> Path:
        self.train("KD/train.py", "--teacher_model", teacher, "--student_model", student,
                   "--pred_distill", "--repr_distill", "--aug_train", "--train_batch_size", 8,
                   "--prun_period_proportion", 0.7, "--output_dir", output, *flags)  # fmt: skip
        return output

    def setting1(self, base: Path) -> Path:
        """The folders of scripts/setting1.sh, from fine-tuning on; the student."""
        tuned = self.models / "bert_ft" / "Fits"
        self.train("Pruning/run_glue.py", "--model_name_or_path", base, "--do_train",
                   "--output_dir", tuned)  # fmt: skip
        self.run("data_augmentation.py", "--pretrained_bert_model", base, "--require_mlm",
                 "--glove_embs", self.models.parent / "glove.txt", "--glue_dir",
                 self.data.parent)  # fmt: skip
        self.train("Pruning/run_glue.py", "--model_name_or_path", tuned, "--compute_taylor")
        self.run("Pruning/pruning_one_step.py", "-model_path", tuned.parent, "-output_dir",
                 self.models / "prun_bert", "-keep_heads", 2, "-num_layers", 2,
                 "-ffn_hidden_dim", 20, "-emb_hidden_dim", 8)  # fmt: skip
        pruned = self.models / "prun_bert" / "Fits" / SHAPE
        return self.distil(tuned, pruned, self.models / "setting1" / "Fits" / SHAPE)

    def setting4(self, base: Path) -> Path:
        """The folders of scripts/setting4.sh after those of `setting1`; the student."""
        student = self.models / "bert_student" / "Fits"
        self.distil(self.models / "bert_ft" / "Fits", base, student)
        shallow = self.models / "bert-8layer" / "Fits"
        self.distil(student, student, shallow, *DEPTH, "--depth_or_width", "depth")
        return self.distil(shallow, shallow, self.models / "setting4" / "Fits", *WIDTH,
                           "--depth_or_width", "width")  # fmt: skip

    def told(self, model: Path) -> list[str]:
        """The labels of test.tsv, as KD/test.py predicts them."""
        self.run("KD/test.py", "--student_model", model, "--data_dir", self.data, "--do_predict",
                 "--no_cuda")  # fmt: skip
        lines = (model / "test_results_fits.txt").read_text().splitlines()[1:]
        return [line.split("\t")[1] for line in lines]


@pytest.mark.parametrize("make", [make_roberta, make_cased_bert])
def test_settings_1_and_4_go_from_another_encoder_to_a_student_that_predicts(
    tmp_path, make, capsys
):
    world, base = World(tmp_path), tmp_path / "models" / "bert_pt"
    make(base)
    rows = [line.split("\t") for line in (world.data / "test.tsv").read_text().splitlines()[1:]]
    tokenizer, task = AutoTokenizer.from_pretrained(base), find_task(str(world.task))
    ids = [tokenizer(one, two, return_tensors="pt") for _, one, two in rows]

    for student in (world.setting1(base), world.setting4(base)):
        model = load_model(student, task).eval()
        assert str(json.loads((student / "run.json").read_text())["shape"]) == SHAPE
        assert model.config.position_offset == (2 if make is make_roberta else 0)
        best = [int(model(**row).logits.argmax()) for row in ids]
        assert world.told(student) == [task.labels[index] for index in best]
        theirs = AutoTokenizer.from_pretrained(student)
        assert [theirs(one, two)["input_ids"] for _, one, two in rows] == [
            row["input_ids"][0].tolist() for row in ids
        ]

    export = tmp_path / "models" / "export"
    world.run("Deploy/export.py", "--model", student, "--output_dir", export, "--formats", "onnx",
              "--data_dir", world.data, "--max_drop", 1)  # fmt: skip
    assert json.loads((export / "export.json").read_text())["formats"]["onnx"]["agreement"] == 1
    capsys.readouterr()
    stage("Deploy/predict.py")("--model", export, "--input", world.data / "test.tsv",
                               "--text_columns", "one,two")  # fmt: skip
    labelled = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in labelled] == [task.labels[index] for index in best]
    augmented = (world.data / "train_aug.tsv").read_text().splitlines()[1:]
    whole = "[E1]" if make is make_cased_bert else "E1"  # an added token stays in one piece
    assert len(augmented) > 40 and all(whole in line for line in augmented)
