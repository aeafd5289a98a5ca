"""Cut a tuned model to a smaller shape in one step: heads, FFN units, layers, embedding.

    cd Pruning && python pruning_one_step.py -model_path ../models/bert_ft -task CoLA \\
        -output_dir ../models/prun_bert -keep_heads 2 -num_layers 8 -ffn_hidden_dim 512 \\
        -emb_hidden_dim 128

Reads   MODEL_PATH/TASK/                      the model and its taylor_score/taylor.pkl
        (scores are needed only if heads or FFN units are cut); MODEL_PATH itself if it is a model
        with -vocabulary train   data/TASK/train.tsv, and train_aug.tsv if it is there
Writes  OUTPUT_DIR/TASK/aH_lL_fF_eE/          the pruned model, run.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rosita.cli import ArgumentParser, run_script
from rosita.config import ACCEPT_CHANGED, LABEL_NAMES, REPOSITORY
from rosita.data.records import content_hash
from rosita.errors import RositaError
from rosita.files import check_readable, read_text
from rosita.provenance import file_hashes, require_finished, resolve_folder
from rosita.pruning.choice import Choice, Importance, LayersBy
from rosita.pruning.shape import Shape, check_target
from rosita.stages.identity import cut_already
from rosita.tasks import Task, find_task

if TYPE_CHECKING:
    from rosita.model import RositaConfig

TRAIN = "train"
# The published shape: what a flag left out stands for, whatever the model has.
PUBLISHED = {"keep_heads": 2, "num_layers": 8, "ffn_hidden_dim": 512, "emb_hidden_dim": 128}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    task = find_task(args.task)
    source = model_folder(Path(args.model_path), task)
    require_finished(source, task.name, "prune a model tuned on this task")
    by = Choice(args.importance, args.keep_layers_by, args.from_scratch, args.seed)
    target = target_shape(args)
    folder = Path(args.output_dir) / task.name / str(target)
    chosen = asdict(by) | {
        "label_names": args.label_names,
        "scores": file_hashes(source / "taylor_score"),
        "vocabulary": text_identity(args, task),
    }
    if not args.overwrite_output_dir and cut_already(folder, task, target, source, chosen):
        return
    # heavy imports: all of the above comes without them
    from rosita.checkpoint import TaskModel
    from rosita.pruning.importance import read_scores
    from rosita.pruning.vocabulary import used_pieces
    from rosita.stages.prune import choose, prune_stage

    altered = args.accept_changed
    tuned = TaskModel.open(source, task, label_names=args.label_names, accept_changed=altered)
    check_fits(target, args, tuned.model.config)
    start, scores, layers = choose(
        tuned, target, by, lambda: read_scores(source, tuned.model, altered)
    )
    pieces = used_pieces(start.tokenizer, texts(args, task)) if args.vocabulary else None
    pruned = prune_stage(
        start,
        target,
        scores,
        folder,
        args.overwrite_output_dir,
        layers,
        pieces,
        chosen,
        args.from_scratch,
    )
    if pieces:
        print(f"vocabulary: {start.model.config.vocab_size:,} -> {len(pieces):,} pieces")
    print(
        f"{start.shape} -> {target}: {start.parameters:,} -> {pruned.parameters:,} parameters"
        f" ({start.parameters / pruned.parameters:.1f}x fewer); the model is in {folder}"
    )


def model_folder(path: Path, task: Task) -> Path:
    """PATH/TASK, as published, or the path itself where that alone is a model."""
    inside = path / task.name
    alone = (path / "config.json").exists() and not inside.exists()
    return resolve_folder(str(path if alone else inside))


def text_files(args: argparse.Namespace, task: Task) -> list[Path]:
    """The files whose pieces -vocabulary keeps; none without it."""
    if args.data_dir and args.vocabulary != TRAIN:
        raise RositaError("-data_dir is for -vocabulary train: add that, or leave it out")
    if args.vocabulary is None:
        return []
    if args.vocabulary != TRAIN:
        check_readable(args.vocabulary)
        return [Path(args.vocabulary)]
    folder = Path(args.data_dir or REPOSITORY / "data" / task.name)
    train = folder / task.train_file
    if not train.exists():
        raise RositaError(f"{train} does not exist: -vocabulary train reads it; see -data_dir")
    return [train, *(path for path in [folder / "train_aug.tsv"] if path.exists())]


def text_identity(args: argparse.Namespace, task: Task) -> list[Any]:
    """What decides the texts: the files' content, and how they are read."""
    read = task.model_dump(mode="json", include={"text_columns", "header", "short_rows"})
    how = sorted(read.items()) if args.vocabulary == TRAIN else []
    return [*map(list, how), *(content_hash(path) for path in text_files(args, task))]


def texts(args: argparse.Namespace, task: Task) -> Iterator[str]:
    """What is in them."""
    files = text_files(args, task)
    if args.vocabulary != TRAIN:
        return iter(read_text(files[0]).split("\n"))  # no other end of a line is one to a tokenizer
    from rosita.stages.inputs import train_texts

    return train_texts(files, task)


def target_shape(args: argparse.Namespace) -> Shape:
    """The shape asked for, of which what is left out is as published."""
    asked = {name: getattr(args, name) for name in PUBLISHED if getattr(args, name) is not None}
    return Shape(*(PUBLISHED | asked).values())


def check_fits(target: Shape, args: argparse.Namespace, config: RositaConfig) -> None:
    """Raise `RositaError`, naming the flags left out, if the shape does not fit the model."""
    try:
        check_target(config, target)
    except RositaError as error:
        left_out = [
            f"-{name} {value}" for name, value in PUBLISHED.items() if getattr(args, name) is None
        ]
        if not left_out:
            raise
        raise RositaError(f"{error} (left out, so as published: {' '.join(left_out)})") from None


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-model_path", required=True, help="the model, or the folder of its TASK/")
    parser.add_argument("-output_dir", required=True, help="folder to write TASK/SHAPE/ into")
    parser.add_argument("-task", required=True, help="GLUE task, or a task.json of your own")
    for name, what in (
        ("keep_heads", "heads per layer to keep"),
        ("num_layers", "first layers to keep"),
        ("ffn_hidden_dim", "FFN units per layer to keep"),
        ("emb_hidden_dim", "rank of the embedding, -1: not factorized"),
    ):
        parser.add_argument(f"-{name}", type=int, help=f"{what} (default: {PUBLISHED[name]})")
    add = parser.add_argument
    add(
        "-importance",
        choices=get_args(Importance),
        default="taylor",
        help="what decides which heads and FFN units stay (taylor)",
    )
    add(
        "-keep_layers_by",
        choices=get_args(LayersBy),
        default="position",
        help="keep the first layers, or those whose weights score most (position)",
    )
    add("-from_scratch", action="store_true", help="random weights of that shape, as a baseline")
    add(
        "-vocabulary",
        help="keep the pieces of these texts alone, and every single character: train, the task's"
        " training files, or a text file, a text a line (default: all pieces)",
    )
    add("-data_dir", help="folder of the training files, for -vocabulary train (data/TASK)")
    add("-seed", type=int, default=42, help="of random importance and weights (42)")
    add("-label_names", "--label_names", help=LABEL_NAMES)
    add("--accept_changed", action="store_true", help=ACCEPT_CHANGED)
    parser.add_argument("--overwrite_output_dir", action="store_true", help="start afresh")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
