"""Write a trained model for others: for transformers without this package, ONNX, int8 ONNX.

    cd KD && python export.py --model ../models/setting1/CoLA/a2_l8_f512_e128 \\
        --output_dir ../models/export/CoLA --formats hf,onnx,int8

Reads   model/, data_dir/   config.json, weights, vocab.txt, run.json; dev.tsv
Writes  output_dir/         hf: config.json, model.safetensors, the tokenizer, modeling_rosita.py,
                            README.md (model card); onnx/model.onnx; onnx/model_int8.onnx;
                            export.json: score and agreement of each format on dev
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rosita.checkpoint import load_model, read_tokenizer, resolve_folder
from rosita.config import KDSettings, add_flags, load_config, setting
from rosita.data import encode_file
from rosita.errors import ArgumentParser, RositaError, run_script
from rosita.export import (
    FILES,
    INT8_FILE,
    ONNX_FILE,
    OnnxModel,
    compare,
    export_onnx,
    quantize_onnx,
)
from rosita.files import write_json
from rosita.hub import HubModel, publish, write_card, write_hub_folder
from rosita.provenance import read_run, require_finished
from rosita.pruning import Shape, parameter_count
from rosita.sources import Access
from rosita.tasks import Task, find_task


class ExportSettings(BaseModel):
    """Settings of this script."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = setting(..., "model folder to export")
    output_dir: str = setting(..., "folder to write")
    formats: str = setting("hf,onnx,int8", "some of hf, onnx, int8")
    max_drop: float = setting(0.01, "fail if a format's dev score is lower by more", ge=0)
    publish: str | None = setting(None, "s3://bucket/prefix to upload the folder to")
    endpoint_url: str | None = setting(None, "address of another S3 than Amazon's")
    allow_http: bool = setting(False, "let endpoint_url be plain http")
    overwrite_output_dir: bool = setting(False, "replace what output_dir holds")
    data_dir: str | None = KDSettings.model_fields["data_dir"]
    cache_dir: str | None = KDSettings.model_fields["cache_dir"]
    max_seq_length: int = KDSettings.model_fields["max_seq_length"]


def main(argv: list[str] | None = None) -> None:
    task, settings = parse_args(argv)
    formats = parse_formats(settings.formats)
    source, output = resolve_folder(settings.model), Path(settings.output_dir)
    require_finished(source, task.name, "give another --model")
    check_output(output, settings.overwrite_output_dir)
    model = load_model(source, task).eval()
    tokenizer = read_tokenizer(source)
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    dev = encode_file(Path(settings.data_dir) / task.dev_files[0], task, tokenizer.build(),
                      settings.max_seq_length, cache_dir=cache)  # fmt: skip

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as temporary:
        made = Path(temporary) / "made"
        opened = {}
        if "hf" in formats:
            write_hub_folder(made, model, tokenizer, task)
            opened["hf"] = HubModel(made)
        if "onnx" in formats or "int8" in formats:
            export_onnx(model, made / ONNX_FILE)
        if "int8" in formats:
            quantize_onnx(made / ONNX_FILE, made / INT8_FILE)
            opened["int8"] = OnnxModel(made / INT8_FILE)
        if "onnx" in formats:
            opened["onnx"] = OnnxModel(made / ONNX_FILE)
        elif "int8" in formats:
            (made / ONNX_FILE).unlink()
        report = {
            "model": settings.model,
            "task": task.name,
            "shape": str(Shape.of(model.config)),
            "parameters": parameter_count(model.config),
            "dev_rows": len(dev),
            **compare(task, model, {name: opened[name] for name in formats}, dev, made),
        }
        print_report(report)
        check_drop(report, settings.max_drop)
        if "hf" in formats:
            write_card(made, report, read_run(source), task)
        write_json(made / "export.json", report)
        if output.exists():
            shutil.rmtree(output)
        made.rename(output)
    print(f"written to {output}")
    if settings.publish:
        access = Access(settings.allow_http, settings.endpoint_url)
        print(f"{publish(output, settings.publish, access)} files are at {settings.publish}")


def print_report(report: dict) -> None:
    """Score, agreement and size of each format."""
    print(f"{report['task']}, {report['dev_rows']} dev rows; {report['metric']} of the model"
          f" {report['score']:.4f}")  # fmt: skip
    for name, found in report["formats"].items():
        print(f"  {name:<5} {report['metric']} {found['score']:.4f}, predictions equal"
              f" {100 * found['agreement']:.2f} %, {found['bytes'] / 1e6:.1f} MB")  # fmt: skip


def check_drop(report: dict, max_drop: float) -> None:
    """Raise `RositaError` if a format loses too much; nothing is written then."""
    for name, found in report["formats"].items():
        if found["drop"] > max_drop:
            raise RositaError(
                f"{name} loses {found['drop']:.4f} {report['metric']} on dev, more than --max_drop"
                f" {max_drop}; nothing was written (leave it out of --formats, or raise --max_drop)"
            )


def check_output(output: Path, overwrite: bool) -> None:
    """An earlier export is replaced only when asked, anything else never."""
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / "export.json").exists():
        raise RositaError(f"{output} is no export; give another --output_dir")
    if not overwrite:
        raise RositaError(f"{output} holds an export; --overwrite_output_dir replaces it")


def parse_formats(text: str) -> list[str]:
    formats = text.replace(" ", "").split(",")
    unknown = [name for name in formats if name not in FILES]
    if unknown:
        raise RositaError(f"--formats {unknown[0]!r} is not one of {', '.join(FILES)}")
    return [name for name in FILES if name in formats]


def parse_args(argv: list[str] | None) -> tuple[Task, ExportSettings]:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task_name", help="GLUE task or task.json (default: the model's own)")
    add_flags(parser, ExportSettings)
    flags = vars(parser.parse_args(argv))
    name = flags.pop("task_name") or own_task(flags.get("model"))
    task = find_task(name)
    return task, load_config(ExportSettings, task, flags)


def own_task(model: str | None) -> str:
    """The task that the model's run.json names."""
    name = read_run(resolve_folder(model)).get("task") if model else None
    if not name:
        raise RositaError(f"{model or '--model'} does not say its task: give --task_name")
    return name


if __name__ == "__main__":
    run_script(main)
