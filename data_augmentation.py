"""Augment the training set of one task: words replaced by what fits in their place.

    python data_augmentation.py --pretrained_bert_model models/bert_pt \\
        --glove_embs glove/glove.42B.300d.txt --glue_dir data --task_name CoLA

A word of one piece takes one of the M words that the masked language model puts in its place, a
word of several pieces one of its M nearest GloVe neighbours; each with probability p, N times per
sentence (TinyBERT's augmentation; ROSITA distils on its output). A sentence that a draw leaves
unchanged is a row too where its text differs: lower case, blanks around punctuation.

Words of the letters a-z are replaced, English stop words are not. For another language:
--eligible a-zäöüß (or \\u4e00-\\u9fff, or letters), --stop_words FILE, and vectors in it.

Reads   GLUE_DIR/TASK/train.tsv, a BERT folder (without masked-LM head: vectors for every word),
        the word vectors of GloVe, word2vec or fastText
Writes  GLUE_DIR/TASK/train_aug.tsv (same columns and header), train_aug.json (how it was made);
        with --subset_rows R also train_aug0.tsv, train_aug1.tsv, ... of R rows each;
        cache/ (answers of the masked language model, for a second run)

Cut off, the same command goes on where it was; finished, it does nothing. Under torchrun each
process makes a part; the file is the same.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosita.augmentation.file import AugmentedFile, write_subsets
from rosita.augmentation.sentences import Splitter, tokenizer_hash
from rosita.augmentation.sources import (
    check_tokenizer,
    glove_files,
    glove_hash,
    has_masked_lm_head,
    weights_hash,
    without_head,
)
from rosita.augmentation.words import LETTERS, Eligible
from rosita.cli import (
    ArgumentParser,
    character_class,
    is_first_process,
    process_count,
    process_number,
    run_script,
)
from rosita.config import ACCEPT_CHANGED
from rosita.data.records import RecordFile, content_hash, open_table
from rosita.data.tsv import Row, TsvFile
from rosita.errors import RositaError
from rosita.files import hold, read_object
from rosita.provenance import check_unchanged, file_hashes
from rosita.tasks import Task, find_task
from rosita.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from accelerate import PartialState

    from rosita.augmentation.candidates import CandidateFinder

NO_HEAD = "none (no masked-LM head)"
# Which rows the same settings give. Raise it when that changes: a file begun by other rules is then
# neither gone on with nor taken for finished. 2: the published stop words, and sentences unchanged.
RULES = 2


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    task = find_task(args.task_name)
    train = open_table(
        Path(args.glue_dir) / task.name / task.train_file, task, labelled=task.train_labelled
    )
    rows_in = sum(1 for _ in train.rows())  # every fault of the file shows before hours of work
    output = train.path.with_name("train_aug.tsv")
    check_tokenizer(args.pretrained_bert_model)
    files = file_hashes(args.pretrained_bert_model)
    if not args.accept_changed:
        check_unchanged(Path(args.pretrained_bert_model), files)
    glove_files(args.glove_embs)
    eligible = Eligible.given(args.eligible, args.stop_words)
    known = None if args.overwrite else known_model(output, files)
    model = known or read_model(args.pretrained_bert_model, files)
    settings = resolve_settings(args, task, train.path, eligible, model)

    cache = output.with_name("cache")
    augmented = AugmentedFile(
        output,
        settings,
        process_number(),
        process_count(),
        lambda: processes().wait_for_everyone(),
        {"files": files},
    )
    lock = hold(cache / "augmentation.lock", f"{cache.parent} is being augmented by")
    with lock if is_first_process() else nullcontext():
        if not args.overwrite and augmented.is_finished():
            augmented.clear_leftovers()
            print(f"{output} is finished, nothing to do")
        else:
            if not args.overwrite:
                augmented.refuse_to_overwrite()
            processes()  # those of torchrun find each other before hours of work
            finder = load_finder(args, settings, eligible, cache)
            write(augmented, train, rows_in, finder, args)
        if args.subset_rows and is_first_process():
            number = write_subsets(output, args.subset_rows, train.header is not None)
            print(f"{number} subsets of {args.subset_rows} rows: train_aug0.tsv ... beside it")


def write(
    augmented: AugmentedFile,
    train: TsvFile | RecordFile,
    rows_in: int,
    finder: CandidateFinder,
    args: argparse.Namespace,
) -> None:
    """Write the augmented file, and say how many rows it has; warn if its words cannot change."""
    from rosita.augmentation.candidates import Sampling, augment_rows

    sampling = Sampling(augmented.settings["N"], args.p, args.seed)

    def grow(first: int, rows: list[Row]) -> list[list[str]]:
        if not first and (warning := finder.missing(rows)):  # its answers serve the rows too
            print(f"warning: {warning}")
        return augment_rows(first, rows, train.text_columns, finder, sampling)

    record = augmented.write(train, rows_in, grow, args.chunk_rows)
    skipped = f" ({train.skipped} short rows skipped)" if train.skipped else ""
    print(
        f"{augmented.path}: {rows_in} rows{skipped} -> {record['rows_out']} rows"
        f" in {record['seconds']} s"
    )


def processes() -> PartialState:
    """Those of torchrun, or this one alone."""
    # heavy imports: complaints and "is finished" come without them
    from accelerate import PartialState

    from rosita.runtime import only_cpu

    return PartialState(cpu=only_cpu(), timeout=timedelta(days=1))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pretrained_bert_model", default="models/bert_pt", help="folder of a pretrained BERT")
    add(
        "--glove_embs",
        default="glove/glove.42B.300d.txt",
        help="word vectors: a text file (GloVe, word2vec, fastText), or npy + parquet",
    )
    add("--glue_dir", default="data", help="folder that holds TASK/train.tsv")
    add("--task_name", required=True, help="a GLUE task, or the path of your own task.json")
    add(
        "--eligible",
        default=LETTERS,
        help="characters of the words that may be replaced: a"
        " regular expression's class, or letters for those of all scripts (a-z)",
    )
    add("--stop_words", help="text file of words that are not replaced (TinyBERT's English ones)")
    add("--N", type=int, help="copies per sentence (default: the task's; CoLA 30, SST-2 20, ...)")
    add("--M", type=int, default=15, help="candidates per word (15)")
    add("--p", type=float, default=0.4, help="probability that a word is replaced (0.4)")
    add("--seed", type=int, default=42)
    add("--accept_changed", action="store_true", help=ACCEPT_CHANGED)
    add("--require_mlm", action="store_true", help="stop if the model has no masked-LM head")
    add("--subset_rows", type=int, help="also split the result into subsets of so many rows")
    add("--overwrite", action="store_true", help="start afresh over another run's result")
    add(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16: faster where the hardware has it; a few candidates differ",
    )
    add("--batch_tokens", type=int, default=2048, help="padded tokens per forward pass (2048)")
    add("--chunk_rows", type=int, default=256, help="rows between two saved states (256)")
    args = parser.parse_args(argv)
    for name in ("N", "M", "subset_rows", "batch_tokens", "chunk_rows"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise RositaError(f"--{name} {getattr(args, name)} must be at least 1")
    if not 0 <= args.p <= 1:
        raise RositaError(f"--p {args.p} must lie between 0 and 1")
    if args.seed < 0:
        raise RositaError(f"--seed {args.seed} must not be negative")
    try:
        character_class(args.eligible)
    except ValueError as error:
        raise RositaError(f"--eligible {args.eligible!r} {error}") from None
    return args


def known_model(output: Path, files: dict[str, str]) -> dict[str, str] | None:
    """What the record of an augmented file says of its model, if that is of the same files."""
    path = output.with_suffix(".json")
    record = read_object(path) if path.exists() else {}
    if record.get("files") != files:
        return None
    record.setdefault("config", files.get("config.json"))  # earlier records have none
    return {name: record[name] for name in ("model", "config", "tokenizer")}


def read_model(folder: str, files: dict[str, str]) -> dict[str, str]:
    """What decides a model's answers: weights and configuration, if it has a masked-LM head, and
    tokenizer. `files`: hashes of the folder's files, by name."""
    has_head = has_masked_lm_head(folder)
    if has_head and "config.json" not in files:
        raise RositaError(f"{folder} has no config.json; fetch it with `python download_bert.py`")
    return {
        "model": weights_hash(folder, files) if has_head else NO_HEAD,
        "config": files["config.json"] if has_head else NO_HEAD,
        "tokenizer": tokenizer_hash(read_tokenizer(folder)),
    }


def resolve_settings(
    args: argparse.Namespace,
    task: Task,
    train: Path,
    eligible: Eligible,
    model: dict[str, str],
) -> dict[str, Any]:
    """All that decides the result; it is saved beside it. `model`: as `read_model` gives it."""
    folder = args.pretrained_bert_model
    if model["model"] == NO_HEAD:
        if args.require_mlm:
            raise RositaError(
                f"{without_head(folder)}; give a pretrained BERT that has one, as"
                " `python download_bert.py` fetches, or leave out --require_mlm"
            )
        print(f"{without_head(folder)}; every word takes its GloVe neighbours")
    return {
        "task": task.name,
        "rules": RULES,
        "seed": args.seed,
        "N": args.N or task.augmentation_copies,
        "M": args.M,
        "p": args.p,
        "train_sha256": content_hash(train),
        **model,
        "precision": args.precision,
        "glove": glove_hash(args.glove_embs),
        **eligible.identity(),
    }


def load_finder(
    args: argparse.Namespace, settings: dict[str, Any], eligible: Eligible, cache: Path
) -> CandidateFinder:
    """The source of candidates, with its models in memory."""
    from rosita.augmentation.candidates import CandidateFinder
    from rosita.augmentation.glove import load_glove
    from rosita.augmentation.masked_lm import AnswerCache, load_masked_lm

    tokenizer = read_tokenizer(args.pretrained_bert_model)
    splitter, glove = Splitter(tokenizer, eligible), load_glove(args.glove_embs)
    if settings["model"] == NO_HEAD:
        return CandidateFinder(splitter, glove, args.M)
    masked_lm = load_masked_lm(
        args.pretrained_bert_model, tokenizer, args.batch_tokens, args.precision
    )
    answers = AnswerCache(cache / "augmentation.sqlite3")
    key = " ".join(settings[name] for name in ("model", "config", "tokenizer"))
    key += " bf16" * (args.precision == "bf16")
    return CandidateFinder(splitter, glove, args.M, masked_lm, answers, key)


if __name__ == "__main__":
    run_script(main, of_many=True)
