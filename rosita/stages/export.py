"""Export as a stage: each format written, opened and compared."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosita.checkpoint import TaskModel, save_description
from rosita.config import ExportSettings
from rosita.data.batches import Encoded
from rosita.data.encode import encode_file
from rosita.data.rows import Rows
from rosita.deploy.formats import EXPORTED, check_export_folder, parse_formats, weights_file
from rosita.deploy.hub import (
    HubModel,
    base_model_of,
    write_card,
    write_hub_folder,
    write_onnx_description,
)
from rosita.deploy.latency import machine
from rosita.deploy.onnx import Exported, compare, export_onnx, quantize_onnx
from rosita.deploy.session import OnnxModel
from rosita.description import check_length
from rosita.errors import RositaError
from rosita.files import behind_link, sha256_file, write_json
from rosita.provenance import file_hashes, read_run


def export_stage(start: TaskModel, settings: ExportSettings) -> dict[str, Any]:
    """Write, open and compare each format; the folder appears whole, or not at all."""
    formats = parse_formats(settings.formats, EXPORTED)
    output = behind_link(Path(settings.output_dir))
    check_export_folder(output, settings.overwrite_output_dir)
    dev = _dev(start, settings)
    start = replace(start, model=start.model.eval(), tokenizer=start.tokenizer.unpadded())
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as temporary:
        made = Path(temporary) / "made"
        opened = _write_formats(made, formats, start)
        report = {
            "model": start.path,
            "task": start.task.name,
            "labels": start.labels,
            "shape": str(start.shape),
            "parameters": start.parameters,
            **Rows.of_task(start.task, settings.max_seq_length).model_dump(),
            "dev_rows": len(dev),
            "machine": machine(),
            **compare(start.task, start.model, opened, dev, made),
        }
        _print_report(report)
        check_drop(report, settings.max_drop)
        write_card(
            made,
            report,
            read_run(Path(start.path)),
            start.task,
            license=settings.license,
            base_model=settings.base_model or base_model_of(Path(start.path)),
            max_seq_length=settings.max_seq_length,
        )
        weights = (weights_file(made, form) for form in ("onnx", "int8"))
        held = [path for path in weights if path.exists()]
        report["files"] = file_hashes(made) | {
            path.relative_to(made).as_posix(): sha256_file(path) for path in held
        }
        write_json(made / "export.json", report)
        check_export_folder(output, settings.overwrite_output_dir)  # all this took its time
        if output.exists():
            output.rename(Path(temporary) / "earlier")
        made.rename(output)
    return report


def _write_formats(made: Path, formats: list[str], start: TaskModel) -> dict[str, Exported]:
    """Write the formats, and what stands beside them; each of them, opened."""
    model, tokenizer = start.model, start.tokenizer
    onnx, int8 = (weights_file(made, form) for form in ("onnx", "int8"))
    opened: dict[str, Exported] = {}
    if "hf" in formats:
        write_hub_folder(made, model, tokenizer, start.task)
        opened["hf"] = HubModel(made)
    else:
        save_description(made, model.config, tokenizer, start.task)
    if "onnx" in formats or "int8" in formats:
        write_onnx_description(onnx.parent, model, tokenizer, start.task)
        export_onnx(model, onnx)
    if "int8" in formats:
        quantize_onnx(onnx, int8)
        opened["int8"] = OnnxModel(int8)
    if "onnx" in formats:
        opened["onnx"] = OnnxModel(onnx)
    elif "int8" in formats:
        onnx.unlink()
    return {name: opened[name] for name in formats}


def _print_report(report: dict) -> None:
    print(
        f"{report['task']}, {report['dev_rows']} dev rows; {report['metric']} of the model"
        f" {report['score']:.4f}; on {report['machine']['instructions']}"
    )
    for name, found in report["formats"].items():
        print(
            f"  {name:<5} {report['metric']} {found['score']:.4f}, predictions equal"
            f" {100 * found['agreement']:.2f} %, {found['bytes'] / 1e6:.1f} MB"
        )


def check_drop(report: dict, max_drop: float) -> None:
    """Raise `RositaError` if a format loses too much; nothing is written then."""
    for name, found in report["formats"].items():
        if found["drop"] > max_drop:
            raise RositaError(
                f"{name} loses {found['drop']:.4f} {report['metric']} on dev, more than --max_drop"
                f" {max_drop}; nothing was written (leave it out of --formats, or raise --max_drop)"
            )


def _dev(start: TaskModel, settings: ExportSettings) -> Encoded:
    """Token ids of the (first) dev file."""
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    path = Path(settings.data_dir) / start.task.dev_files[0]
    check_length(settings.max_seq_length, start.model.config)
    return encode_file(path, start.task, start.tokenizer, settings.max_seq_length, cache_dir=cache)
