"""The formats of a model: names, files, who takes which. Light, so that parsers can ask."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rosita.errors import RositaError, nearest
from rosita.provenance import read_run


@dataclass(frozen=True)
class Format:
    """One form in which a model's weights stand in its folder."""

    file: str  # holds the weights
    is_exported: bool  # Deploy/export.py writes it
    is_run: bool  # Deploy/benchmark.py, Deploy/predict.py and Pruning/plan.py run it


FORMATS = {
    "pytorch": Format("model.safetensors", is_exported=False, is_run=True),
    # the same weights, with the code that opens them where this package is not installed
    "hf": Format("model.safetensors", is_exported=True, is_run=False),
    "onnx": Format("onnx/model.onnx", is_exported=True, is_run=True),
    "int8": Format("onnx/model_int8.onnx", is_exported=True, is_run=True),
}
EXPORTED = tuple(name for name, form in FORMATS.items() if form.is_exported)
RUNNABLE = tuple(name for name, form in FORMATS.items() if form.is_run)


def weights_file(folder: Path, form: str) -> Path:
    """Where a folder holds, or will hold, the weights of a format."""
    return folder / FORMATS[form].file


def check_exported(folder: Path, form: str) -> None:
    """Raise `RositaError` if a format's file is not of the export whose record the folder has: of
    two exports that were put into one place, say."""
    export, file = read_run(folder, "export.json"), FORMATS[form].file
    if export and file not in export.get("files", {}):
        raise RositaError(
            f"{folder / file} is not of the export that export.json records: remove it, or export"
            " again"
        )


def parse_formats(text: str, known: tuple[str, ...]) -> list[str]:
    """The formats of a comma list, each once, in the order of `known`."""
    names = text.replace(" ", "").split(",")
    for name in names:
        if name not in known:
            hint = nearest(name, list(known))
            raise RositaError(f"--formats {name!r} is not one of {', '.join(known)}{hint}")
    return [name for name in known if name in names]


def choose_format(folder: Path, form: str = "auto") -> str:
    """The format to run of what the folder holds; `auto`: the first of `RUNNABLE` that is there,
    PyTorch's only where torch is installed or nothing else is there."""
    if not folder.is_dir():
        raise RositaError(f"the model folder {folder} does not exist")
    there = [name for name in RUNNABLE if _holds(folder, name)]
    if form == "auto" and there:
        return there[0 if len(there) == 1 or find_spec("torch") else 1]
    if form not in there:
        lacking = FORMATS[form].file if form in RUNNABLE else "model"
        known = f"it holds {', '.join(there)}" if there else "it holds no model"
        raise RositaError(f"{folder} has no {lacking}; {known} (Deploy/export.py makes others)")
    return form


def _holds(folder: Path, form: str) -> bool:
    file = weights_file(folder, form)
    return file.exists() or file.with_name(f"{file.name}.index.json").exists()  # in shards


def check_export_folder(output: Path, overwrite: bool) -> None:
    """An earlier export is replaced only when asked, anything else never."""
    if not output.exists():
        return
    if not output.is_dir():
        raise RositaError(f"{output} is a file, not a folder; give another --output_dir")
    if not any(output.iterdir()):
        return
    if not (output / "export.json").exists():
        raise RositaError(f"{output} is no export; give another --output_dir")
    if not overwrite:
        raise RositaError(f"{output} holds an export; --overwrite_output_dir replaces it")
