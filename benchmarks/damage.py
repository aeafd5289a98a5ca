"""Damage to one file between a stage's start and its end: is it told, or without effect?

    python benchmarks/damage.py --cases 5000 --output benchmarks/damage.json

Each case lays out what a cut-off run left (data, caches, models, state) anew, damages one file of
it by chance, gives the same command again in this process, and compares what comes out with what
the undamaged one gives: weights bit by bit, configuration, tokenizer, scores, rows, labels. It ends

    same       as it should: the damage did not matter, or what was damaged was made again
    told       with one line of error
    silent     with another result
    traceback  with an exception that is no line
    hang       not within `--limit` seconds

Models have two layers of width 16, so that a case takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "Pruning"), str(REPOSITORY / "KD")]

from rosita.augmentation import file as augmented  # noqa: E402
from rosita.errors import RositaError  # noqa: E402
from rosita.files import read_json, write_json  # noqa: E402
from rosita.provenance import file_hashes  # noqa: E402

WORDS = (
    "the a dog cat bird child song book garden she he they ran sings reads sees happy sad".split()
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = ("same", "told", "silent", "traceback", "hang")
Root = Path


class Hang(BaseException):
    """A case took too long."""


@dataclass(frozen=True)
class Stage:
    """What is tried: `lay_out` leaves a cut-off run in a folder, `go_on` gives its command again.

    Another seed lays out another run of the same kind, whose files may take the place of these.
    `reads`: the folders and files, of those laid out, that the command reads. `outcome` is what
    must be as if nothing had been damaged.
    """

    name: str
    lay_out: Callable[[Root, int], None]
    go_on: Callable[[Root], Any]
    outcome: Callable[[Root], Any]
    reads: tuple[str, ...]


# ---------------------------------------------------------------------- a tiny world


def write_world(root: Root, seed: int = 0) -> None:
    """Data of a CoLA and of a task of the user's own, word vectors, and a BERT with its masked-LM
    head; another `seed` makes another world, of the same sizes."""
    import torch  # heavy imports: --help comes without them
    from transformers import BertConfig, BertForMaskedLM

    rng = random.Random(seed)
    data = root / "data" / "CoLA"
    data.mkdir(parents=True)
    for name, rows in (("train", 24), ("dev", 12)):
        lines = []
        for number in range(rows):
            text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 7)))
            lines.append(f"src\t{number % 2}\t\t{text}\n")
        (data / f"{name}.tsv").write_text("".join(lines))
    vectors = (f"{word} " + " ".join(f"{rng.gauss(0, 1):.4f}" for _ in range(4)) for word in WORDS)
    (root / "glove.txt").write_text("\n".join(vectors) + "\n")
    mood = root / "data" / "Mood"
    mood.mkdir()
    for name, rows in (("train", 24), ("dev", 12)):
        texts = (" ".join(rng.choices(WORDS, k=rng.randint(3, 7))) for _ in range(rows))
        lines = [json.dumps({"text": text, "mood": "glum merry".split()[number % 2]})
                 for number, text in enumerate(texts)]  # fmt: skip
        (mood / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    write_json(root / "mood.json", {
        "name": "Mood", "labels": ["glum", "merry"], "metric": "accuracy",
        "text_columns": ["text"], "label_column": "mood", "train_file": "train.jsonl",
        "dev_files": ["dev.jsonl"], "max_seq_length": 16,
    })  # fmt: skip
    torch.manual_seed(seed)
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS),
              *(word for word in WORDS if len(word) > 1)]  # fmt: skip
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(root / "bert")
    (root / "bert" / "vocab.txt").write_text("\n".join(pieces) + "\n")


def call(script: str, *words: object, **named: bool) -> None:
    """A script's main in this process, as a fresh process would run it."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    import_module(script).main(list(map(str, words)), **named)


def common(root: Root) -> list[object]:
    return ["--task_name", "CoLA", "--data_dir", root / "data" / "CoLA", "--max_seq_length", 16,
            "--precision", "fp32"]  # fmt: skip


def fine_tune(root: Root) -> None:
    call("run_glue", *common(root), "--model_name_or_path", root / "bert", "--do_train",
         "--num_train_epochs", 2, "--per_gpu_train_batch_size", 8, "--save_state_steps", 2,
         "--evaluate_during_training", "--logging_steps", 1, "--output_dir", root / "ft" / "CoLA",
         "--learning_rate", "1e-3")  # fmt: skip


def own_task(root: Root) -> None:
    call("run_glue", "--task_name", root / "mood.json", "--data_dir", root / "data" / "Mood",
         "--precision", "fp32", "--model_name_or_path", root / "bert", "--do_train",
         "--num_train_epochs", 2, "--per_gpu_train_batch_size", 8, "--save_state_steps", 2,
         "--evaluate_during_training", "--logging_steps", 1, "--output_dir", root / "mood",
         "--learning_rate", "1e-3")  # fmt: skip


def score(root: Root) -> None:
    call("run_glue", *common(root), "--model_name_or_path", root / "ft" / "CoLA",
         "--compute_taylor", "--per_gpu_train_batch_size", 8, "--save_state_steps", 1)  # fmt: skip


def prune(root: Root) -> None:
    call("pruning_one_step", "-model_path", root / "ft", "-task", "CoLA", "-output_dir",
         root / "cut", "-keep_heads", 1, "-num_layers", 2, "-ffn_hidden_dim", 8,
         "-emb_hidden_dim", 4)  # fmt: skip


def distilling(root: Root, *more: object) -> list[object]:
    return [*common(root), "--teacher_model", root / "ft" / "CoLA", "--student_model",
            root / "cut" / "CoLA" / "a1_l2_f8_e4", "--pred_distill", "--num_train_epochs", 3,
            "--train_batch_size", 8, "--save_state_steps", 2, "--eval_step", 2, "--learning_rate",
            "1e-3", "--max_steps", 8, *more]  # fmt: skip


def distil(root: Root) -> None:
    call("train", *distilling(root, "--aug_train", "--output_dir", root / "kd"))


def distil_subsets(root: Root) -> None:
    call("train", *distilling(root, "--output_dir", root / "kd"), subsets=True)


def distil_fresh(root: Root) -> None:
    call("train", *distilling(root, "--fresh_augmentation", "alternate", "--glove_embs",
         root / "glove.txt", "--output_dir", root / "kd"))  # fmt: skip


def test(root: Root) -> None:
    call("test", "--task_name", "CoLA", "--data_dir", root / "data" / "CoLA", "--max_seq_length",
         16, "--student_model", root / "kd", "--do_eval", "--output_dir",
         root / "tested")  # fmt: skip


def shrink(root: Root) -> None:
    call("train", *common(root), "--config_dir", root / "shrink.json",
         "--output_dir", root / "thin")  # fmt: skip


def augment(root: Root, *more: object) -> None:
    call("data_augmentation", "--pretrained_bert_model", root / "bert", "--glove_embs",
         root / "glove.txt", "--glue_dir", root / "data", "--task_name", "CoLA", "--N", 2, "--M", 3,
         "--chunk_rows", 8, *more)  # fmt: skip


def augment_subsets(root: Root) -> None:
    augment(root, "--subset_rows", 20)


def label(root: Root) -> list[Any]:
    from rosita import api

    return api.label(root / "kd", ["the dog ran", "a happy child reads the book"])


def export(root: Root) -> None:
    """The student in ONNX; at its size an int8 copy would not be the same model."""
    from rosita import api

    api.export(api.load(root / "kd", "CoLA"), root / "out", root / "data" / "CoLA",
               formats="hf,onnx", max_seq_length=16)  # fmt: skip


def label_onnx(root: Root) -> list[Any]:
    from rosita import api

    return api.label(root / "out", ["the dog ran", "a happy child reads the book"], "onnx")


def write_shrink(root: Root) -> None:
    """The settings of an iterative pruning, in a file; without the folder to write, of which a
    changed byte names another one."""
    tuned = str(root / "ft" / "CoLA")
    write_json(root / "shrink.json", {"default": {
        "teacher_model": tuned, "student_model": tuned,
        "pred_distill": True, "repr_distill": True, "num_train_epochs": 3, "train_batch_size": 8,
        "save_state_steps": 2, "eval_step": 2, "learning_rate": 1e-3, "teacher_cache_gb": 1,
        "depth_or_width": "width", "prun_period_proportion": 0.5, "keep_heads": 1, "keep_layers": 2,
        "ffn_hidden_dim": 8, "emb_hidden_dim": 4,
    }})  # fmt: skip


@contextlib.contextmanager
def cut_off(owner: object, name: str, at: int) -> Iterator[None]:
    """Have what is run end at the `at`-th call of a function, as a signal to it would."""
    original, count = getattr(owner, name), 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            if name == "agree_to_stop":
                return True
            raise KeyboardInterrupt
        return original(*given, **named)

    setattr(owner, name, counted)
    with contextlib.suppress(KeyboardInterrupt):
        yield
    setattr(owner, name, original)


def cut_training(run: Callable[[Root], None], before: Sequence[Callable[[Root], Any]], step: int):
    """Lay out: the stages `before`, then `run` up to a step."""

    def lay_out(root: Root, seed: int) -> None:
        from rosita.training import loop

        write_world(root, seed)
        for stage in before:
            stage(root)
        with cut_off(loop, "agree_to_stop", step):
            run(root)

    return lay_out


def cut_augmenting(root: Root, seed: int) -> None:
    write_world(root, seed)
    with cut_off(augmented.Bar, "update", 2):
        augment(root)


def whole(*stages: Callable[[Root], None]) -> Callable[[Root, int], None]:
    """Lay out: these stages, and nothing of the one that is tried."""

    def lay_out(root: Root, seed: int) -> None:
        write_world(root, seed)
        for stage in stages:
            stage(root)

    return lay_out


def model(*folder: str) -> Callable[[Root], Any]:
    """Outcome: a model folder, and what its run.json says of its history."""

    def outcome(root: Root) -> Any:
        at = root.joinpath(*folder)
        run = read_json(at / "run.json")
        names = ("finished", "best", "dev_score", "shape", "weights", "history")
        return file_hashes(at), {name: run.get(name) for name in names}

    return outcome


def scores(root: Root) -> Any:
    import torch

    found = torch.load(root / "ft" / "CoLA" / "taylor_score" / "taylor.pkl", weights_only=True)
    return {name: value.tolist() for name, value in found.items()}


def rows(root: Root) -> Any:
    return (root / "data" / "CoLA" / "train_aug.tsv").read_bytes()


def tested(root: Root) -> Any:
    return read_json(root / "tested" / "eval_results.json")


TO_CUT = [fine_tune, score, prune]
STAGES = [
    Stage("fine_tune", cut_training(fine_tune, [], 4), fine_tune, model("ft", "CoLA"),
          ("data/CoLA", "bert", "ft")),
    Stage("own_task", cut_training(own_task, [], 4), own_task, model("mood"),
          ("data/Mood", "bert", "mood", "mood.json")),
    Stage("taylor", cut_training(score, [fine_tune], 2), score, scores, ("data/CoLA", "ft")),
    Stage("prune", whole(fine_tune, score), prune, model("cut", "CoLA", "a1_l2_f8_e4"), ("ft",)),
    Stage("augment", cut_augmenting, augment, rows,
          ("data/CoLA", "bert", "glove.txt")),
    Stage("distil", cut_training(distil, [*TO_CUT, augment], 4), distil, model("kd"),
          ("data/CoLA", "ft", "cut", "kd")),
    Stage("subsets", cut_training(distil_subsets, [*TO_CUT, augment_subsets], 4), distil_subsets,
          model("kd"), ("data/CoLA", "ft", "cut", "kd")),
    Stage("fresh", cut_training(distil_fresh, TO_CUT, 4), distil_fresh, model("kd"),
          ("data/CoLA", "ft", "cut", "kd", "glove.txt")),
    Stage("shrink", cut_training(shrink, [fine_tune, write_shrink], 6), shrink, model("thin"),
          ("data/CoLA", "ft", "thin", "shrink.json")),
    Stage("test", whole(*TO_CUT, augment, distil, test), test, tested, ("kd", "data/CoLA/cache")),
    Stage("label", whole(*TO_CUT, augment, distil), label, lambda root: [], ("kd",)),
    Stage("label_onnx", whole(*TO_CUT, augment, distil, export), label_onnx, lambda root: [],
          ("out",)),
]  # fmt: skip


# ---------------------------------------------------------------------- damage


def damage(content: bytes, others: list[bytes], rng: random.Random) -> tuple[str, bytes | None]:
    """A kind of damage, and what it leaves of the content; None: no file."""
    size = len(content)
    place = rng.randrange(size) if size else 0
    length = min(rng.choice((1, 2, 8, 64, 512)), size - place)
    kind = rng.choice(("flip", "byte", "cut", "drop", "swap", "zeros", "append", "replace",
                       "empty", "remove"))  # fmt: skip
    head, block, tail = content[:place], content[place : place + length], content[place + length :]
    match kind:
        case "flip" if size:
            return kind, head + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[
                place + 1 :
            ]
        case "byte" if size:
            return kind, head + rng.randbytes(1) + content[place + 1 :]
        case "cut":
            return kind, head
        case "drop":
            return kind, head + tail
        case "swap":
            return kind, head + tail[:length] + block + tail[length:]
        case "zeros":
            return kind, head + bytes(length) + tail
        case "append":
            return kind, content + rng.choice((b"\n", b"\0", content[-64:], rng.randbytes(16)))
        case "replace" if others:
            return kind, rng.choice(others)
        case "empty":
            return kind, b""
    return "remove", None


def files_of(root: Root, reads: tuple[str, ...]) -> list[Path]:
    """The files that may be damaged, in a fixed order; TensorBoard's are read by no stage."""
    found = [root / name for name in reads if (root / name).is_file()]
    for name in reads:
        found += [path for path in (root / name).rglob("*") if path.is_file()]
    return sorted(path for path in found if path.name != ".lock" and "logging" not in path.parts)


@dataclass
class Case:
    """What was damaged, and how it ended."""

    stage: str
    file: str
    damage: str
    ended: str
    said: str = ""


class Trial:
    """A stage laid out once, and tried again and again at the same place."""

    def __init__(self, stage: Stage, folder: Path, limit: float) -> None:
        self.stage, self.limit = stage, limit
        self.kept, self.root = folder / f"{stage.name}-kept", folder / stage.name
        self.twin = folder / f"{stage.name}-twin"
        with quiet():
            stage.lay_out(self.root, 1)
            self.root.rename(self.twin)
            stage.lay_out(self.root, 0)
        shutil.copytree(self.root, self.kept)
        ended, self.expected = self._go_on()
        if ended != "done":
            raise SystemExit(f"{stage.name} does not run undamaged: {ended} {self.expected}")

    def _go_on(self) -> tuple[str, Any]:
        """How the command ended, and its outcome or what it said."""
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            with quiet():
                answer = self.stage.go_on(self.root)
            return "done", (answer, self.stage.outcome(self.root))
        except RositaError as error:
            return "told", str(error)
        except Hang:
            return "hang", ""
        except BaseException as error:
            return "traceback", f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def case(self, rng: random.Random) -> Case:
        """Damage one file, go on, and compare."""
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root)
        files = files_of(self.root, self.stage.reads)
        path = rng.choice(files)
        others = [other.read_bytes() for other in files
                  if other.suffix == path.suffix and other != path]  # fmt: skip
        twin = self.twin / path.relative_to(self.root)
        kind, content = damage(path.read_bytes(), others, rng)
        if kind == "replace" and twin.exists() and rng.random() < 0.5:
            kind, content = "twin", twin.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        ended, found = self._go_on()
        if ended == "done":
            ended, found = ("same", "") if found == self.expected else ("silent", "")
        return Case(self.stage.name, str(path.relative_to(self.root)), kind, ended, found)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=700, help="of all stages together (700)")
    parser.add_argument("--only", help="stages, with commas between (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60, help="seconds until it hangs (60)")
    parser.add_argument("--output", type=Path, help="JSON of the counts and of what failed")
    args = parser.parse_args(argv)
    names = [stage.name for stage in STAGES]
    only = args.only.split(",") if args.only is not None else names
    if unknown := [name for name in only if name not in names]:
        parser.error(f"--only {unknown[0]}: known are {', '.join(names)}")
    import torch  # heavy

    signal.signal(signal.SIGALRM, _hang)
    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # no power is cut here, and waiting for the disk is half the time
    chosen = [stage for stage in STAGES if stage.name in only]
    counts: dict[str, Counter[str]] = {}
    failed: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in chosen:
            started = time.perf_counter()
            trial = Trial(stage, Path(folder), args.limit)
            rng = random.Random(f"{args.seed} {stage.name}")
            cases = [trial.case(rng) for _ in range(args.cases // len(chosen))]
            counts[stage.name] = Counter(case.ended for case in cases)
            failed += [case for case in cases if case.ended not in ("same", "told")]
            took = time.perf_counter() - started
            numbers = ", ".join(f"{kind} {counts[stage.name][kind]}" for kind in KINDS)
            print(f"{stage.name}: {len(cases)} cases, {numbers} ({took:.0f} s)", flush=True)
    for case in failed:
        print(f"{case.ended}: {case.stage} {case.file} {case.damage} {case.said}")
    if args.output:
        report = {"cases": {name: dict(found) for name, found in counts.items()},
                  "failed": [vars(case) for case in failed]}  # fmt: skip
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def _hang(*_: object) -> None:
    raise Hang


if __name__ == "__main__":
    main()
