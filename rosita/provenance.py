"""`run.json`: how a folder was made; what a stage may start from; what running again means."""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import shutil
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import BaseFileLock

from rosita.errors import RositaError
from rosita.files import (
    lock_file,
    read_json,
    release,
    remove,
    sha256_file,
    values_hash,
    write_json,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rosita.model import RositaConfig

# What a run writes into its folder, and so what starting afresh removes.
OUTPUTS = (
    "model.safetensors config.json vocab.txt tokenizer.json tokenizer_config.json run.json last"
    " logging eval_results* test_results* checkpoint-* ladder taylor_score taylor.pkl"
).split()

# What an export has besides: its ONNX models would answer as the model that was there before.
EXPORTED = ["export.json", "onnx", "modeling_rosita.py", "README.md"]

# The files of them, and of other model folders, whose bytes decide what is computed from it.
DECIDING = (
    "*.safetensors *.bin *.index.json config.json vocab.txt tokenizer.json tokenizer_config.json"
    " special_tokens_map.json added_tokens.json vocab.json merges.txt taylor.pkl"
).split()

# The one name by which the published commands call a model that is no folder. A bert_pt without
# run.json is taken for it alone: a mistyped name or path must not find it.
PRETRAINED = "bert-base-uncased"

# Of an identity, what its models were read as; earlier records hold the first of these alone.
OF_MODELS = ("parents", "configs", "tokenizers")
# What identities did not hold from the beginning: a run without it may still be gone on with.
_ADDED = ("configs", "tokenizers", "rows")

_HELD: dict[Path, BaseFileLock] = {}  # locks of this process, until it ends


@dataclass
class Run:
    """The record of one run, written to `folder`/run.json.

    `identity` decides the outcome: stage, task, settings, hashes of parents and data. The same
    identity again is the same run: it is finished, or goes on.
    """

    folder: Path
    identity: dict[str, Any]
    # paths of parents and data, shapes; "names": what the model written calls its labels
    details: dict[str, Any] = field(default_factory=dict)
    writes: bool = True  # False in all but one of many processes
    defaults: dict[str, Any] = field(default_factory=dict)  # of settings that records may lack

    def is_finished(self, overwrite: bool) -> bool:
        """Whether this very run is finished already, and is to stay so; says it.

        Raises `RositaError` if the folder holds another run.
        """
        earlier = {} if overwrite else read_run(self.folder)
        if earlier and (changed := self._difference(earlier)):
            raise RositaError(
                f"{self.folder} holds another run ({changed}); give another --output_dir,"
                " or --overwrite_output_dir to start afresh"
            )
        if earlier.get("finished"):
            self._check_files(earlier)
            print(f"finished already: {self.folder} (--overwrite_output_dir runs it again)")
        return bool(earlier.get("finished"))

    @property
    def outcome_hash(self) -> str:
        """Of what decides the outcome; a setting at its default does not count, so that the state
        of a run outlives the settings that later versions add."""
        decided = outcome(self.identity)
        settings = {
            name: value
            for name, value in decided["settings"].items()
            if name not in self.defaults or value != self.defaults[name]
        }
        return values_hash(decided | {"settings": settings})

    def _difference(self, earlier: dict[str, Any]) -> str:
        """In what a record is of another run; what it is older than does not count."""
        there, mine = earlier.get("identity", {}), self.identity.get("settings", {})
        known = {  # some settings were part of the identity once
            name: value
            for name, value in there.get("settings", {}).items()
            if name in mine or name not in self.defaults
        }
        added = {
            name: value
            for name, value in mine.items()
            if name not in known and name in self.defaults and value == self.defaults[name]
        }
        there, now = there | {"settings": known | added}, self.identity
        # no part of the identity: a state of before they were recorded is still this run's
        if "names" in earlier and "names" in self.details:
            there["names"], now = earlier["names"], now | {"names": self.details["names"]}
        return _difference(there, now)

    def claim(self, overwrite: bool) -> None:
        """Take the folder for this run, which is not finished.

        Raises `RositaError` if another process holds the folder, if it holds another run or a model
        of unknown origin, or if starting afresh would remove what the run starts from.
        """
        if not self.writes:
            return
        self._hold()
        if overwrite:
            self._clear()
        earlier = read_run(self.folder)
        if self.is_finished(overwrite):
            raise RositaError(f"{self.folder} was finished by another process just now")
        if not earlier and (self.folder / "config.json").exists():
            raise RositaError(
                f"{self.folder} holds a model that no run.json explains; give another --output_dir,"
                " or --overwrite_output_dir to replace it"
            )
        self.write(finished=False)

    def write(self, finished: bool, **results: Any) -> None:
        """Write run.json: who made this, from what, and with which result."""
        if not self.writes:
            return
        record = {
            "stage": self.identity["stage"],
            "task": self.identity["task"],
            "finished": finished,
            **self.details,
            **results,
            **({"files": file_hashes(self.folder)} if finished else {}),
            "identity": self.identity,
            "versions": _versions(),
        }
        write_json(self.folder / "run.json", record)

    def _check_files(self, earlier: dict[str, Any]) -> None:
        """Raise `RositaError` if what a finished run wrote is gone, or is another file now."""
        now = file_hashes(self.folder)
        for name, digest in earlier.get("files", {}).items():
            if now.get(name) != digest:
                what = "has changed since" if name in now else "is gone"
                raise RositaError(
                    f"{self.folder} was finished, but its {name} {what};"
                    " --overwrite_output_dir runs it again"
                )

    def remove_state(self) -> None:
        """Remove the state that the run would have resumed from."""
        if self.writes:
            shutil.rmtree(self.folder / "last", ignore_errors=True)

    def _hold(self) -> None:
        """Keep other processes out of the folder until this one ends, or `let_go`."""
        lock = self.folder.resolve() / ".lock"
        if lock not in _HELD:
            _HELD[lock] = lock_file(lock, f"{self.folder} is being written by")

    def _clear(self) -> None:
        exported = EXPORTED if (self.folder / "export.json").exists() else []
        outputs = [path for name in [*OUTPUTS, *exported] for path in self.folder.glob(name)]
        for role, parent in self.details.get("parents", {}).items():
            if not parent["files"]:  # it was made in memory
                continue
            read = (resolve_folder(parent["path"]) / "config.json").resolve()
            if any(read.is_relative_to(path.resolve()) for path in outputs):
                raise RositaError(
                    f"--overwrite_output_dir would remove {parent['path']}, the {role} that this"
                    " run starts from; give another --output_dir"
                )
        for path in outputs:
            remove(path)


@atexit.register
def let_go(folder: Path | None = None) -> None:
    """Release all folders that this process writes, or `folder` and those in it."""
    for lock in list(_HELD):
        if folder is None or lock.is_relative_to(folder.resolve()):
            release(_HELD.pop(lock))


def read_run(folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The folder's run.json, or the record of that name; {} if it has none."""
    path = folder / name
    run = read_json(path) if path.exists() else {}
    objects = ("identity", "parents", "files")
    if not isinstance(run, dict) or not all(
        isinstance(run.get(name, {}), dict) for name in objects
    ):
        raise RositaError(f"{path} is no record of a run; make {folder} again, or remove the file")
    return run


def read_maker(folder: Path) -> dict[str, Any]:
    """The record of the run that made a model: the folder's own, or, of an intermediate checkpoint
    of --save_steps, which has none, that of the folder around it."""
    run = read_run(folder)
    return run or (read_run(folder.parent) if folder.name.startswith("checkpoint-") else {})


def file_hashes(folder: str | Path) -> dict[str, str]:
    """SHA-256 of the files of a folder that decide what its model or its scores are, by name.

    Empty for a model in memory.
    """
    found = {path for pattern in DECIDING for path in Path(folder).glob(pattern)}
    return {path.name: sha256_file(path) for path in sorted(found) if path.is_file()}


def check_unchanged(folder: Path, hashes: dict[str, str] | None = None) -> dict[str, Any]:
    """Raise `RositaError` if a file is another than the folder's record names; its run.json.

    A file of run.json may not be gone either; of an export, some formats may be all that is kept.
    `hashes`: those of `file_hashes`, where they are known already.
    """
    run, export, known = read_run(folder), read_run(folder, "export.json"), hashes or {}
    for name, digest in (export.get("files", {}) | run.get("files", {})).items():
        path = folder / name
        if path.is_file():
            same = (known.get(name) or sha256_file(path)) == digest
        else:
            same = name not in run.get("files", {})
        if not same:
            raise changed(path)
    return run


def changed(path: Path) -> RositaError:
    """What to say of a file that is another than the record of its folder names."""
    what = "has changed" if path.exists() else "is gone"
    return RositaError(
        f"{path} {what} since {path.parent} was made: make that again, or, if the change is meant,"
        " type --accept_changed"
    )


def require_finished(folder: Path, task: str, advice: str) -> dict[str, Any]:
    """The run.json of a folder that the next stage starts from; {} for a model from elsewhere.

    Raises `RositaError` for a run that was cut off or belongs to another task.
    """
    run = check_finished(folder)
    check_task(folder, task, advice)
    return run


def check_finished(folder: Path) -> dict[str, Any]:
    """The run.json of a folder; `RositaError` if its run was cut off."""
    run = read_run(folder)
    if run and not run.get("finished", False):
        raise RositaError(f"{folder} is from a run that was cut off; run its command again first")
    return run


OTHER_TASK = "name the model of this task, or, if another's is meant, type --accept_changed"


def check_task(folder: Path, task: str, advice: str) -> None:
    """Raise `RositaError` if the record of a model, or of an export, names another task."""
    for record in (read_maker(folder), read_run(folder, "export.json")):
        if record.get("task") not in (None, task):
            raise RositaError(f"{folder} was made for {record['task']}, not for {task}; {advice}")


def resolve_folder(name_or_path: str) -> Path:
    """The folder of a model: a path, or the name of the pretrained BERT in models/bert_pt.

    Raises `RositaError` that tells what makes the folder.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    held = []
    for folder in (Path("models") / "bert_pt", Path("..") / "models" / "bert_pt"):
        if (folder / "run.json").exists():
            model = read_run(folder).get("model")
            if model == name_or_path:
                return folder
            held.append(
                f"{folder} holds {model or 'another model'}"
                " (download_bert.py --overwrite_output_dir replaces it); "
            )
        elif name_or_path == PRETRAINED and (folder / "config.json").exists():
            say_once(f"{name_or_path}: taken from {folder.resolve()}, put there by hand")
            return folder
    kind = "is a file, not a folder" if path.exists() else "does not exist"
    elsewhere = "" if "/" in name_or_path else "".join(held)
    raise RositaError(f"the model folder {name_or_path} {kind}; {elsewhere}{_maker(path)}")


say_once = functools.cache(print)  # a stage asks for its folder several times


# The folders of the README -> the script and flags that make each; the more special come first.
_MAKERS = {
    "prun_bert": "Pruning/pruning_one_step.py -model_path ../models/bert_ft",
    "prun_bert_student": "KD/pruning_one_step.py -model_path ../models/bert_student",
    "bert-8layer/one_step_prun": "KD/pruning_one_step.py -model_path ../models/bert_student",
    "one_step_prun": "Pruning/run_glue.py --is_prun True --do_train, from models/prun_bert",
    "bert_ft": "Pruning/run_glue.py --do_train",
    "bert_student": "KD/train.py --config_dir configurations/config_bert-student.json",
    "bert-8layer": "KD/train.py --config_dir configurations/config_bert-8layer.json",
    **{f"setting{number}": f"KD/train.py --config_dir configurations/config_setting{number}.json"
       for number in (1, 2, 3, 4)},
}  # fmt: skip


def _maker(path: Path) -> str:
    """The command that makes a missing model folder, by the folder names of the README."""
    for folder, command in _MAKERS.items():
        if f"/{folder}/" in f"/{path.as_posix()}/":
            return f"make it with {command}"
    return (
        "a pretrained model comes from download_bert.py, a tuned one from Pruning/run_glue.py"
        " --do_train or KD/train.py"
    )


def outcome(identity: dict[str, Any]) -> dict[str, Any]:
    """What two runs must share to be one: of how a step's rows are dealt out, their number alone.

    Eight processes that were cut off may go on as four with twice the rows each.
    """
    found = dict(identity)
    settings = found["settings"] = dict(found.get("settings", {}))
    accumulated = settings.pop("gradient_accumulation_steps", 1)
    rows = settings.pop("train_batch_size", None)  # of a step and process
    if rows is None:
        rows = settings.pop("per_gpu_train_batch_size", 0) * accumulated
    processes = found.pop("processes", 1)
    return found | {"batch": rows * processes} if rows else found


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """The first few settings in which two identities differ, for people."""
    earlier, now = outcome(earlier), outcome(now)
    now = {key: value for key, value in now.items() if key in earlier or key not in _ADDED}
    flat_earlier, flat_now = _flatten(earlier), _flatten(now)
    parts = []
    for name in sorted(flat_earlier.keys() | flat_now.keys()):
        old, new = flat_earlier.get(name, "absent"), flat_now.get(name, "absent")
        if old != new:
            parts.append(f"{name}: {str(old)[:40]} there, {str(new)[:40]} now")
    return "; ".join(parts[:3])


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= _flatten(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = item
    return flat


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "accelerate", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def config_hash(config: RositaConfig) -> str:
    """SHA-256 of all that decides a model's arithmetic, so far as it differs from the defaults."""
    known = inspect.signature(type(config).__init__).parameters
    values = {name: getattr(config, name) for name in known if name not in ("self", "kwargs")}
    return values_hash(
        {name: value for name, value in values.items() if value != known[name].default}
    )


def weights_hash(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors: the identity of a model."""
    import torch  # heavy: the records themselves need no tensors

    digest = hashlib.sha256()
    for name in sorted(state):
        weight = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
