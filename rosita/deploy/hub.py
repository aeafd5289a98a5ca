"""A model folder that transformers opens without this package; its model card; its upload."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rosita import model as model_module
from rosita.checkpoint import save_description, save_model
from rosita.config import REPOSITORY
from rosita.errors import RositaError
from rosita.fetch.sources import Access, check_publish, redact, s3_client
from rosita.files import atomic_write, read_json, write_json
from rosita.model import RositaForSequenceClassification
from rosita.provenance import read_run
from rosita.tasks import Task
from rosita.templating import one_line, render
from rosita.tokenizer import TokenizerFiles

CODE = "modeling_rosita.py"

# What a stranger does: no rosita on the path, the model and its code from the folder.
_STRANGER = """
import sys
sys.path = [path for path in sys.path if path not in ("", sys.argv[4])]
sys.modules["rosita"] = None  # an import of it would fail
import numpy, torch
from transformers import AutoModelForSequenceClassification
folder, batches, answers = sys.argv[1:4]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
given = numpy.load(batches)
found = {}
with torch.inference_mode():
    for number in range(len(given.files) // 3):
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: torch.from_numpy(given[f"{name}{number}"]) for name in names}
        found[str(number)] = model(**inputs).logits.float().numpy()
numpy.savez(answers, **found)
"""


def write_hub_folder(
    folder: Path, model: RositaForSequenceClassification, tokenizer: TokenizerFiles, task: Task
) -> None:
    """Config with `auto_map`, weights, tokenizer, and the modelling code itself."""
    save_model(folder, model, tokenizer, task)
    config = read_json(folder / "config.json")
    names = {
        "AutoConfig": "RositaConfig",
        "AutoModel": "RositaModel",
        "AutoModelForSequenceClassification": "RositaForSequenceClassification",
    }
    # up to 4.48, pipelines looked here whether there is a tokenizer at all
    config["tokenizer_class"] = read_json(folder / "tokenizer_config.json")["tokenizer_class"]
    config["auto_map"] = {auto: f"{Path(CODE).stem}.{name}" for auto, name in names.items()}
    write_json(folder / "config.json", config)
    with atomic_write(folder / CODE) as file:
        file.write(Path(model_module.__file__).read_text(encoding="utf-8"))


def write_onnx_description(
    folder: Path, model: RositaForSequenceClassification, tokenizer: TokenizerFiles, task: Task
) -> None:
    """Tokenizer and config.json beside the ONNX files, for clients that know model types by name.

    Optimum and transformers.js choose their class, which runs whatever graph is there, by
    `model_type`: to them it is a BERT, whose first token has position 0.
    """
    save_description(folder, model.config, tokenizer, task)
    config = read_json(folder / "config.json")
    own = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "max_position_embeddings": model.config.max_tokens,
    }
    write_json(folder / "config.json", config | own)


class HubModel:
    """An exported folder, opened as others do: in a process where this package cannot be imported.

    Each call starts a process, so it takes many batches.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, batches: list[dict[str, Tensor]]) -> list[np.ndarray]:
        """Logits (rows, num_labels) of each batch; `RositaError` if the folder does not open."""
        with tempfile.TemporaryDirectory() as at:
            given, answers = Path(at, "given.npz"), Path(at, "answers.npz")
            arrays: dict[str, Any] = {
                f"{name}{number}": value.numpy()
                for number, batch in enumerate(batches)
                for name, value in batch.items()
            }
            np.savez(given, **arrays)
            package = str(Path(model_module.__file__).parent.parent)
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    _STRANGER,
                    str(self.folder),
                    str(given),
                    str(answers),
                    package,
                ],
                capture_output=True,
                text=True,
                env={**os.environ, "HF_MODULES_CACHE": at, "HF_HUB_OFFLINE": "1"},
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise RositaError(f"transformers cannot open the export: {reason}")
            with np.load(answers) as found:
                return [found[str(number)] for number in range(len(batches))]


# our metrics under the names that the hub knows
HUB_METRICS = {"matthews": "matthews_correlation", "accuracy": "accuracy"}


def write_card(
    folder: Path,
    report: dict[str, Any],
    run: dict[str, Any],
    task: Task,
    *,
    license: str | None = None,
    base_model: str | None = None,
    max_seq_length: int | None = None,
) -> None:
    """README.md: what the model is, how good, how large, how it was made.

    `license` and `base_model` are left out where nobody knows them.
    """
    scores = [["as trained", f"{report['score']:.4f}", "", ""]]
    for name, found in report["formats"].items():
        scores.append(
            [
                name,
                f"{found['score']:.4f}",
                f"{100 * found['agreement']:.2f} %",
                f"{found['bytes'] / 1e6:.1f}",
            ]
        )
    # Samples and held-out rows bear the names of GLUE's tasks too, and no record tells them apart:
    # the card names the file, not GLUE's validation set.
    scored_on = f"{task.dev_files[0]} of {task.name}'s data, {report['dev_rows']:,} rows"
    header = _card_header(report, task, scored_on, license, base_model)
    body = render(
        "card.md.jinja",
        report=report,
        task=task,
        scored_on=scored_on,
        scores=scores,
        facts=_facts(run),
        max_seq_length=max_seq_length,
    )
    with atomic_write(folder / "README.md") as file:
        file.write(f"---\n{header}\n---\n\n{body}")


def _card_header(
    report: dict[str, Any],
    task: Task,
    scored_on: str,
    license: str | None,
    base_model: str | None,
) -> str:
    """What the hub shows and searches by, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    name, metric = one_line(task.name), one_line(report["metric"])
    result = EvalResult(
        task_type="text-classification",
        dataset_type=name,
        dataset_name=name if task.is_own else one_line(scored_on),
        metric_type=HUB_METRICS.get(metric, metric),
        metric_name=f"dev {metric}",
        metric_value=round(report["score"], 4),
    )
    data = ModelCardData(
        model_name=f"ROSITA {one_line(report['shape'])}",
        library_name="transformers",
        pipeline_tag="text-classification",
        license=license and one_line(license),
        base_model=base_model and one_line(base_model),
        tags=["rosita", name],
        eval_results=[result],
    )
    return data.to_yaml()


def base_model_of(folder: Path, steps: int = 20) -> str | None:
    """The BERT that a model began as, by the run.json files of its ancestors; None if one is gone,
    or is another model by now.

    A path there may be relative to the folder in which the stage was run: KD/ or Pruning/.
    """
    weights: dict[str, str] = {}  # files of the folder, as its child read them, and their hashes
    for _ in range(steps):
        run = read_run(folder)
        if not weights.items() <= run.get("files", weights).items():
            return None
        if run.get("stage") == "download_bert":
            return run.get("model")
        parents = run.get("parents", {})
        parent = parents.get("student", parents.get("model", {}))
        path, files = parent.get("path"), parent.get("files", {})
        weights = {name: files[name] for name in files if name.endswith((".safetensors", ".bin"))}
        if not path:
            return None
        found = (REPOSITORY / start / path for start in ("", "KD", "Pruning"))
        folder = next((there for there in (Path(path), *found) if there.is_dir()), Path(path))
    return None


def _facts(run: dict[str, Any]) -> list[tuple[str, Any]]:
    """From what a model was made, with which settings, on which rows."""
    facts = [
        (role, f"{Path(parent['path']).name}, weights {parent['weights'][:16]}")
        for role, parent in run.get("parents", {}).items()
    ]
    settings = run.get("identity", {}).get("settings", {})
    for name in ("learning_rate", "num_train_epochs", "train_batch_size", "depth_or_width", "seed"):
        if settings.get(name) is not None:
            facts.append((name, settings[name]))
    data = run.get("data", {})
    if data.get("train_rows"):
        facts.append(("trained on", f"{data['train_rows']:,} rows ({', '.join(data['train'])})"))
    return facts


def push_to_hub(folder: Path, name: str, private: bool) -> str:
    """Upload a folder to a model repository of the hub (HF_ENDPOINT, HF_TOKEN); its address.

    Raises `RositaError` with the hub's answer if it refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message=f"ROSITA: {folder.name}")
    except Exception as error:  # a type for every cause, of three libraries
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:200] or type(error).__name__
        raise RositaError(f"cannot upload to {name} at the hub: {redact(reason)}") from None
    return str(address)


def publish(folder: Path, target: str, access: Access) -> int:
    """Upload a folder to s3://bucket/prefix, export.json last; the number of files."""
    check_publish(target, access)
    bucket, _, prefix = target.removeprefix("s3://").partition("/")
    client = s3_client(access)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name == "export.json")
    for path in files:
        key = "/".join(
            part for part in (prefix.strip("/"), path.relative_to(folder).as_posix()) if part
        )
        try:
            client.upload_file(str(path), bucket, key)
        except Exception as error:  # boto3 has a type for every cause, and wraps some in others
            reason = str(error).split(": ", 1)[-1][:120]
            raise RositaError(f"cannot upload {path.name} to {target}: {reason}") from None
    return len(files)
