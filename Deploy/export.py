"""Write a trained model for others: for transformers without this package, ONNX, int8 ONNX.

    cd Deploy && python export.py --model ../models/setting1/CoLA/a2_l8_f512_e128 \\
        --output_dir ../models/export/CoLA --formats hf,onnx,int8

Reads   model/, data_dir/   config.json, weights, the tokenizer, run.json; dev.tsv
Writes  output_dir/         config.json, the tokenizer, README.md (model card), export.json: score
                            and agreement of each format on dev
                            hf: model.safetensors, modeling_rosita.py
                            onnx, int8: onnx/model.onnx, onnx/model_int8.onnx, and beside them
                            config.json and the tokenizer for clients that know BERT only
"""

from __future__ import annotations

import re
from pathlib import Path

from rosita import config
from rosita.cli import ArgumentParser, add_flags, run_script
from rosita.config import setting
from rosita.config_file import load_config
from rosita.data.rows import with_trained_length
from rosita.deploy.formats import EXPORTED, check_export_folder, parse_formats
from rosita.errors import RositaError
from rosita.fetch.sources import Access, check_heeded, check_publish, redact
from rosita.provenance import read_run, require_finished, resolve_folder
from rosita.tasks import Task, find_task


class ExportSettings(config.ExportSettings):
    """Settings of this script."""

    push_to_hub: str | None = setting(None, "OWNER/NAME of the model repository to upload to")
    hub_private_repo: bool = setting(False, "let that repository, if it is new, be private")
    publish: str | None = setting(None, "s3://bucket/prefix to upload the folder to")
    endpoint_url: str | None = setting(None, "address of another S3 than Amazon's")
    allow_http: bool = setting(False, "let endpoint_url be plain http")


def main(argv: list[str] | None = None) -> None:
    task, settings = parse_args(argv)
    source = resolve_folder(settings.model)
    require_finished(source, task.name, "give another --model")
    parse_formats(settings.formats, EXPORTED)
    output = Path(settings.output_dir)
    check_export_folder(output, settings.overwrite_output_dir)
    access = Access(settings.allow_http, settings.endpoint_url)
    check_uploads(settings, access)
    # heavy imports: the complaints above come without them
    from rosita.checkpoint import TaskModel
    from rosita.deploy.hub import publish, push_to_hub
    from rosita.stages.export import export_stage

    start = TaskModel.open(
        source, task, label_names=settings.label_names, accept_changed=settings.accept_changed
    )
    export_stage(start, settings)
    print(f"written to {output}")
    if settings.push_to_hub:
        address = push_to_hub(output, settings.push_to_hub, settings.hub_private_repo)
        print(f"it is at {address}")
    if settings.publish:
        print(f"{publish(output, settings.publish, access)} files are at {settings.publish}")


def check_uploads(settings: ExportSettings, access: Access) -> None:
    """Refuse the names of no bucket and no repository before the work, not after it."""
    check_heeded(access, settings.publish or "", "--publish")
    if settings.publish:
        check_publish(settings.publish, access)
    if settings.push_to_hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", settings.push_to_hub):
        raise RositaError(f"--push_to_hub {redact(settings.push_to_hub)} is not OWNER/NAME")


def parse_args(argv: list[str] | None) -> tuple[Task, ExportSettings]:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task_name", help="GLUE task or task.json (default: the model's own)")
    add_flags(parser, ExportSettings)
    flags = vars(parser.parse_args(argv))
    name = flags.pop("task_name") or own_task(flags.get("model"))
    task = find_task(name)
    return task, load_config(ExportSettings, task, with_trained_length(flags, "model"))


def own_task(model: str | None) -> str:
    """The task that the model's run.json names."""
    name = read_run(resolve_folder(model)).get("task") if model else None
    if not name:
        raise RositaError(f"{model or '--model'} does not say its task: give --task_name")
    return name


if __name__ == "__main__":
    run_script(main)
