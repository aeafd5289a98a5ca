"""A Chinese and a German task of one's own go through all stages, from a BERT of their language."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, stage
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

SHAPE = "a2_l3_f20_e16"
ONE_STEP = "-keep_heads 2 -num_layers 3 -ffn_hidden_dim 20 -emb_hidden_dim 16".split()
ITERATIVE = (
    "--keep_heads 2 --keep_layers 3 --ffn_hidden_dim 20 --emb_hidden_dim 16 --depth_or_width width"
    " --prun_period_proportion 0.7 --fresh_augmentation always"
).split()


@dataclass(frozen=True)
class Language:
    """A task with names of its own, and what texts and a vocabulary consist of."""

    task: str
    columns: tuple[str, str]  # text, label
    labels: tuple[str, str]
    letters: str  # --eligible
    stop_words: str
    words: str  # pieces of the vocabulary
    long_words: str  # words of several pieces, which only the vectors know
    blank: str = " "  # between the words of a text

    def text(self, rng: np.random.Generator) -> str:
        """Five to eight words of it and a stop."""
        known = [*self.words.split(), *self.long_words.split(), *self.stop_words.split()]
        return self.blank.join(rng.choice(known, size=rng.integers(5, 9)).tolist()) + "."


GERMAN = Language(
    "Stimmung",
    ("satz", "stimmung"),
    ("trüb", "froh"),
    "a-zäöüßA-ZÄÖÜ",
    "der die ist Ein",
    "Hund Katze Vögel Straße Mädchen schön müde größer läuft hört sieht rot blau Äpfel über",
    "Bücher Grüße Fußball süßer",
)
CHINESE = Language(
    "QingXu", ("文本", "情绪"), ("坏", "好"), r"\u4e00-\u9fff", "的 了",
    "今 天 气 很 好 坏 狗 猫 看 书 我 他 你 喜 欢 红 小 大", "", "",
)  # fmt: skip


class World:
    """The folders of one language: task, data, vectors and a cased BERT with its masked-LM head."""

    def __init__(self, root: Path, language: Language) -> None:
        self.root, self.language = root, language
        self.data, self.models = root / "data" / language.task, root / "models"
        self.task = root / "own.json"
        text, label = language.columns
        self.task.write_text(json.dumps({
            "name": language.task, "text_columns": [text], "label_column": label,
            "labels": language.labels, "metric": "accuracy", "max_seq_length": 32,
            "augmentation_copies": 4,
        }, ensure_ascii=False), encoding="utf-8")  # fmt: skip
        self._write_rows()
        self._write_bert()
        (root / "stop.txt").write_text("\n".join(language.stop_words.split()), encoding="utf-8")

    def _write_rows(self) -> None:
        """The labels tell whether the first word stands in the first half of the vocabulary."""
        rng, language = np.random.default_rng(0), self.language
        glad = language.words.split()[: len(language.words.split()) // 2]
        self.data.mkdir(parents=True)
        for name, count in (("train", 24), ("dev", 12), ("test", 6)):
            texts = [language.text(rng) for _ in range(count)]
            labels = [language.labels[text.startswith(tuple(glad))] for text in texts]
            head = "index\t" + language.columns[0]
            rows = [f"{number}\t{text}" for number, text in enumerate(texts)]
            if name != "test":
                head += "\t" + language.columns[1]
                rows = [f"{row}\t{label}" for row, label in zip(rows, labels, strict=True)]
            lines = "".join(f"{row}\n" for row in (head, *rows))
            (self.data / f"{name}.tsv").write_text(lines, encoding="utf-8")

    def _write_bert(self) -> None:
        language, folder = self.language, self.models / "bert_pt"
        words = [*language.words.split(), *language.stop_words.split()]
        letters = sorted({letter for word in language.long_words.split() for letter in word})
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *dict.fromkeys(words),
                  *letters, *(f"##{letter}" for letter in letters)]  # fmt: skip
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(pieces), **SMALL, initializer_range=0.3)
        BertForMaskedLM(config).save_pretrained(folder)
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
        known = [*language.long_words.split(), *words]  # as fastText writes them
        lines = "".join(f"{word} {i % 5} {i % 3 + 1} {i} \n" for i, word in enumerate(known))
        (self.root / "cc.vec").write_text(f"{len(known)} 3\n{lines}", encoding="utf-8")

    def run(self, script: str, *flags: object) -> None:
        """A stage, as its script does it, on this task."""
        named = "-task" if script.endswith("one_step.py") else "--task_name"
        stage(script)(named, self.task, *flags)

    def train(self, script: str, *flags: object) -> None:
        self.run(script, "--data_dir", self.data, "--num_train_epochs", 1, "--no_cuda", *flags)

    def rows(self, name: str) -> list[list[str]]:
        lines = (self.data / name).read_text(encoding="utf-8").splitlines()[1:]
        return [line.split("\t") for line in lines]


@pytest.mark.parametrize("language", [GERMAN, CHINESE], ids=lambda language: language.task)
def test_a_task_in_another_language_goes_through_all_stages(tmp_path, language, capsys):
    world = World(tmp_path, language)
    bert, tuned = world.models / "bert_pt", world.models / "bert_ft" / language.task
    eligible = ("--eligible", language.letters, "--stop_words", tmp_path / "stop.txt")
    world.train("Pruning/run_glue.py", "--model_name_or_path", bert, "--do_train", "--do_eval",
                "--output_dir", tuned)  # fmt: skip
    world.run("data_augmentation.py", "--pretrained_bert_model", bert, "--glove_embs",
              tmp_path / "cc.vec", "--glue_dir", tmp_path / "data", *eligible)  # fmt: skip
    check_augmented(world)

    world.train("Pruning/run_glue.py", "--model_name_or_path", tuned, "--compute_taylor")
    world.run("Pruning/pruning_one_step.py", "-model_path", tuned.parent, "-output_dir",
              world.models / "prun_bert", *ONE_STEP)  # fmt: skip
    pruned = world.models / "prun_bert" / language.task / SHAPE
    kd = ("--teacher_model", tuned, "--pred_distill", "--repr_distill", "--train_batch_size", 4)
    setting1 = world.models / "setting1" / language.task / SHAPE
    world.train("KD/train.py", *kd, "--student_model", pruned, "--output_dir", setting1,
                "--aug_train")  # fmt: skip
    setting4 = world.models / "setting4" / language.task
    world.train("KD/train.py", *kd, "--student_model", tuned, "--output_dir", setting4, *ITERATIVE,
                "--glove_embs", tmp_path / "cc.vec", "--aug_eligible", language.letters,
                "--aug_stop_words", tmp_path / "stop.txt")  # fmt: skip
    drawn = json.loads((setting4 / "run.json").read_text(encoding="utf-8"))["identity"]["data"]
    assert drawn["eligible"] == language.letters and len(drawn["stop_words"]) == 64

    world.run("KD/test.py", "--student_model", setting1, "--data_dir", world.data, "--do_eval",
              "--do_predict", "--no_cuda")  # fmt: skip
    results = setting1 / f"test_results_{language.task.lower()}.txt"
    told = [line.split("\t")[1] for line in results.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(told) == 6 and set(told) <= set(language.labels)

    export = world.models / "export"
    world.run("Deploy/export.py", "--model", setting1, "--output_dir", export, "--formats", "hf",
              "--data_dir", world.data)  # fmt: skip
    opened = AutoModelForSequenceClassification.from_pretrained(export)
    assert opened.config.id2label == dict(enumerate(language.labels))
    capsys.readouterr()
    stage("Deploy/predict.py")("--model", export, "--input", world.data / "test.tsv",
                               "--text_columns", language.columns[0])  # fmt: skip
    labelled = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in labelled] == told


def check_augmented(world: World) -> None:
    """Every new row has the words of its original, but for those that may change and do."""
    language, rows = world.language, world.rows("train_aug.tsv")
    originals = {number: (text, label) for number, text, label in world.rows("train.tsv")}
    stop_words = language.stop_words.lower().split()
    letters, changed = re.compile(f"[{language.letters}]+"), set()
    for number, text, label in rows:
        original, its_label = originals[number]
        assert label == its_label
        if text == original:
            continue
        words = re.findall(r"\w+|\." if language.blank else r"\S", original)
        for old, new in zip(words, text.split(" "), strict=True):
            if old != new:
                assert letters.fullmatch(old) and old.lower() not in stop_words
                changed.add(old)
    assert len(rows) > 3 * len(originals)
    # words of one piece by the masked LM, those of several by the vectors; capitals too
    expected = {*language.words.split(), *language.long_words.split()}
    assert len(changed) > 0.8 * len(expected) and changed <= expected
