"""Download GLUE's tasks, check the archives and lay them out as data/TASK/*.tsv.

    python download_glue_data.py --data_dir data --tasks CoLA,SST-2

Reads   the official host, or --mirror: a folder, https:// or s3://bucket/prefix with its file names
Writes  data_dir/TASK/   train.tsv, dev.tsv, test.tsv (MNLI: matched and mismatched);
        data_dir/diagnostic/diagnostic.tsv   for a submission (task AX or diagnostic)

A task already there is left alone. A cut download is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from rosita.cli import ArgumentParser, run_script
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError, nearest
from rosita.fetch.archive import Damaged, check_sha256, unpack
from rosita.fetch.download import (
    fetch,
    holding,
    new_folder,
    remove_staging,
    staging_folder,
    writing,
)
from rosita.fetch.sources import Access, check_heeded, check_source, join, redact
from rosita.files import behind_link
from rosita.tasks import DIAGNOSTIC, GLUE, glue_task_name

ROOT = Path(__file__).resolve().parent
MAX_BYTES = 2**30  # the largest, MNLI.zip, has a third of it
HOST = "https://dl.fbaipublicfiles.com/glue/data"
MRPC_HOST = "https://dl.fbaipublicfiles.com/senteval/senteval_data"

# The files a task is made from, and their SHA-256 at the official host as Hugging Face's
# `datasets` library records them (datasets/glue/dataset_infos.json).
SOURCES = {
    "CoLA": {"CoLA.zip": "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"},
    "SST-2": {"SST-2.zip": "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"},
    "MNLI": {"MNLI.zip": "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"},
    "QNLI": {"QNLIv2.zip": "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"},
    "QQP": {"QQP-clean.zip": "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"},
    "MRPC": {
        "msr_paraphrase_train.txt": (
            "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"
        ),
        "msr_paraphrase_test.txt": (
            "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"
        ),
        "mrpc_dev_ids.tsv": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
    },
    "STS-B": {"STS-B.zip": "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"},
    "RTE": {"RTE.zip": "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"},
    "WNLI": {"WNLI.zip": "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"},
    "diagnostic": {"AX.tsv": "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd"},
}


RETIRED = {  # flags of the published script -> what to do instead
    "--path_to_mrpc": f"MRPC is fetched too; for files at hand type --mirror DIR, a folder with"
    f" {', '.join(SOURCES['MRPC'])}",
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    access = Access(args.allow_http, args.endpoint_url, args.retries)
    names = task_names(args.tasks)
    check_heeded(access, args.mirror or HOST, "--mirror")
    if args.mirror:
        check_source(args.mirror, access)
    for name in names:
        install(name, args.data_dir, args.mirror, access)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, retired=RETIRED
    )
    parser.add_argument("-d", "--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument(
        "-t", "--tasks", default="all", help="all, or names with commas: CoLA,SST-2"
    )
    parser.add_argument("--mirror", help="folder, https:// or s3:// with the same file names")
    parser.add_argument("--endpoint_url", help="address of a private s3 service")
    parser.add_argument("--allow_http", action="store_true", help="accept addresses without TLS")
    parser.add_argument("--retries", type=int, default=5, help="tries in a row without a new byte")
    return parser.parse_args(argv)


def task_names(text: str) -> list[str]:
    """Folder names of the tasks in a comma list, in any case, each once; `all` is all of them."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if not asked:
        raise RositaError("--tasks is empty; name tasks such as CoLA,SST-2, or all")
    names: list[str] = []
    for name in asked:
        if name.lower() == "all":
            names += SOURCES
            continue
        known = "diagnostic" if name.lower() in ("ax", "diagnostic") else glue_task_name(name)
        if known is None:
            choices = [*SOURCES, "all"]
            hint = nearest(name, choices)
            raise RositaError(f"--tasks {name!r} is not one of {', '.join(choices)}{hint}")
        names.append(known)
    return list(dict.fromkeys(names))


def install(name: str, data_dir: Path, mirror: str | None, access: Access) -> None:
    """Fetch, check and unpack one task; the folder appears whole or not at all."""
    target = behind_link(data_dir / name)
    if already_there(target, name):
        return
    with holding(target):
        if already_there(target, name):  # another process has just brought it
            return
        staging = staging_folder(data_dir, mirror or HOST)
        try:
            counts = bring(name, target, staging, mirror, access)
        finally:
            remove_staging(staging)
    print(f"{target}: {counts}", flush=True)


def bring(name: str, target: Path, staging: Path, mirror: str | None, access: Access) -> str:
    """Download into `staging`, check, and make `target`; returns what arrived, in words."""
    arrived = [fetch_file(file, staging, name, mirror, access) for file in SOURCES[name]]
    try:
        with new_folder(target) as new:
            assemble(name, arrived, new)
            counts = count_rows(name, new)
    except Damaged as error:
        remove(arrived)
        raise RositaError(
            f"{redact(mirror or HOST)}: {error}; the download is removed, try again or use"
            " another --mirror"
        ) from None
    remove(arrived)
    return counts


def remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def already_there(target: Path, name: str) -> bool:
    """Whether the task's folder is there, saying so; an error if it lacks train or dev."""
    if not target.is_dir() or not any(target.iterdir()):
        return False
    missing = [file for file in task_files(name) if not (target / file).exists()]
    if any(not file.startswith("test") for file in missing):
        raise RositaError(f"{target} is there without {', '.join(missing)}; move it away and rerun")
    note = f" (without {', '.join(missing)})" if missing else ""
    print(f"{target} is already there{note}, left alone", flush=True)
    return True


def task_files(name: str) -> list[str]:
    if name not in GLUE:
        return list(DIAGNOSTIC.test_files)
    task = GLUE[name]
    return [task.train_file, *task.dev_files, *task.test_files]


def fetch_file(file: str, staging: Path, name: str, mirror: str | None, access: Access) -> Path:
    """Bring one file to the staging folder; at the official host its SHA-256 is known."""
    host = MRPC_HOST if file.startswith("msr_") else HOST
    path = fetch(join(mirror or host, file), staging / file, access, MAX_BYTES)
    if not mirror:
        try:
            check_sha256(path, SOURCES[name][file])
        except Damaged as error:
            path.unlink()
            raise RositaError(f"{error}; try again, or take it as it is: --mirror {host}") from None
    return path


def assemble(name: str, arrived: list[Path], folder: Path) -> None:
    """Make the task's files in `folder` from what arrived."""
    if name == "MRPC":
        train, test, dev_ids = arrived
        split_mrpc(train, test, dev_ids, folder)
    elif name == "diagnostic":
        with writing(folder):
            shutil.copyfile(arrived[0], folder / DIAGNOSTIC.test_files[0])
    else:
        unpack(arrived[0], folder, task_files(name))


def split_mrpc(train: Path, test: Path, dev_ids: Path, folder: Path) -> None:
    """GLUE's MRPC from Microsoft's files: dev is the pairs whose two ids stand in `dev_ids`.

    Quotes are characters, a byte-order mark is dropped, and the labels of test are left out.
    """
    dev_pairs = {tuple(fields) for _, fields in rows_of(dev_ids, columns=2)}
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    lines: dict[str, list[str]] = {"train.tsv": [header], "dev.tsv": [header]}
    seen = set()
    for _, fields in rows_of(train, columns=5, header=True):
        pair = (fields[1], fields[2])
        seen.add(pair)
        lines["dev.tsv" if pair in dev_pairs else "train.tsv"].append("\t".join(fields))
    if lost := dev_pairs - seen:
        raise Damaged(f"{dev_ids.name} names {len(lost)} pairs that {train.name} has not")
    lines["test.tsv"] = ["index" + header.removeprefix("Quality")]
    for index, (_, fields) in enumerate(rows_of(test, columns=5, header=True)):
        lines["test.tsv"].append("\t".join([str(index), *fields[1:]]))
    for file, rows in lines.items():
        with writing(folder):
            (folder / file).write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def rows_of(path: Path, columns: int, header: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row; `Damaged` for another number of columns."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Damaged(f"{path.name} is not UTF-8 (byte {error.start})") from None
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), 1):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != columns:
            raise Damaged(f"{path.name} line {number}: {len(fields)} columns, not {columns}")
        if number > 1 or not header:
            yield number, fields


def count_rows(name: str, folder: Path) -> str:
    """`train.tsv 8,551 rows, dev.tsv 1,043 rows, ...`, read as every later stage reads them."""
    task = GLUE.get(name, DIAGNOSTIC)
    counts = []
    for file in task_files(name):
        table = TsvFile(folder / file, task, labelled=file not in task.test_files)
        try:
            rows = sum(1 for _ in table.rows())
        except RositaError as error:
            raise Damaged(str(error).replace(f"{folder}/", "")) from None
        skipped = f" ({table.skipped:,} short ones skipped)" if table.skipped else ""
        counts.append(f"{file} {rows:,} rows{skipped}")
    return ", ".join(counts)


if __name__ == "__main__":
    run_script(main)
