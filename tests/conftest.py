"""Small things that many tests need: a tiny BERT folder, a tiny task, the scripts' own runner.

Functions import what is heavy: the process that hands the files to xdist's workers needs none of
it, and they start after it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import warm_python

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ["ROSITA_TRACEBACK"] = "1"  # a mistake of ours shows its traceback, and leaves no file
WARM = "ROSITA_TESTS_PYTHON"  # what `python` gives
WORDS = (
    "the a this that dog cat bird child teacher song book garden river she he they we it ran sings"
    " reads finds sees likes slowly quickly never always red old small bright happy sad good bad"
    " very not and but with near under house tree movie story end of is was are were"
).split()
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def vocabulary() -> list[str]:
    """[PAD] ..., the letters with and without ##, and `WORDS`: 100-odd pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *".,!?'\"-"]
    return special + pieces + [word for word in WORDS if len(word) > 1]


def make_bert(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """Write a random BERT without classifier, as transformers would, with vocab.txt."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    words = vocabulary()
    config = BertConfig(vocab_size=len(words), **(SMALL | sizes))
    folder.mkdir(parents=True)
    model = BertModel(config)
    for weight in model.parameters():  # large enough for gradients and scores to differ
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.15)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def sentences(count: int, seed: int = 0) -> list[str]:
    """Distinct random sentences over `WORDS`, of 3 to 9 words."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        length = int(torch.randint(3, 10, (), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator)
        found[" ".join(WORDS[pick] for pick in picks)] = None
    return list(found)


def write_cola(folder: Path, train: int = 40, dev: int = 20, test: int = 10) -> Path:
    """A tiny task in CoLA's layout: acceptable if the sentence has more letters than 25."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sentences(train + dev + test)
    for name, part in (("train", rows[:train]), ("dev", rows[train : train + dev])):
        lines = [f"src\t{int(len(text) > 25)}\t\t{text}\n" for text in part]
        (folder / f"{name}.tsv").write_text("".join(lines))
    lines = [f"{number}\t{text}\n" for number, text in enumerate(rows[train + dev :])]
    (folder / "test.tsv").write_text("index\tsentence\n" + "".join(lines))
    return folder


def run_script(
    script: str,
    *arguments: object,
    cwd: Path = REPOSITORY,
    ok: bool = True,
    file_size_limit: int | None = None,
) -> subprocess.CompletedProcess:
    """Run a stage script as a user does; with `ok` it must succeed.

    `file_size_limit`: the most bytes that a file may get, as a disk quota would have it.
    """
    command = [python(), str(REPOSITORY / script), *map(str, arguments)]
    if file_size_limit:
        command[0] = sys.executable
        command = ["bash", "-c", f'ulimit -f {file_size_limit // 1024}; exec "$@"', "_", *command]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ)
    if ok:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def load_script(script: str) -> ModuleType:
    """A stage script as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stage(script: str) -> Callable[..., None]:
    """The `main` of a stage script, to be called in this process."""
    module = load_script(script)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@functools.cache
def python() -> str:
    """An interpreter for scripts, with the heavy libraries loaded (see `warm_python`)."""
    if WARM not in os.environ:
        start_warm_python()
    warm_python.wait(Path(os.environ[WARM]))
    return os.environ[WARM]


def start_warm_python() -> None:
    """Start the server behind `python`; this process and xdist's workers share it."""
    folder = Path(tempfile.mkdtemp(prefix="rosita-tests-"))
    os.environ[WARM] = str(warm_python.start(folder))


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line of a user's error: exit code 2, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="the long fuzz and kill campaigns too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "campaign: runs only with --campaign")
    hypothesis.settings.register_profile("suite", max_examples=60, derandomize=True)
    hypothesis.settings.register_profile("campaign", max_examples=3000, print_blob=True)
    long = config.getoption("--campaign")
    hypothesis.settings.load_profile("campaign" if long else "suite")
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        # a core each: with threads for two cores in each of two processes a step of the tests' tiny
        # models takes many times as long
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        start_warm_python()


SLOW = (  # a minute or more each: begun first, the longest before the others
    "test_quickstart.py", "test_readme.py", "test_processes.py", "test_published_sequence.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(SLOW)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(SLOW)))
    if not config.getoption("--campaign"):
        skip = pytest.mark.skip(reason="a campaign: pytest --campaign")
        for item in items:
            if "campaign" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """accelerate keeps one precision per process; tests that call stages in-process differ."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def as_ordinary_user() -> Iterator[None]:
    """File modes hold for root too: this thread does without its capabilities to pass over them."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and again, for high numbers
    if libc.capget(header, sets):
        pytest.skip("no capabilities that root could do without")
    effective = sets[0]
    sets[0] &= ~0b1110  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
    libc.capset(header, sets)
    yield
    sets[0] = effective
    libc.capset(header, sets)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_bert(tmp_path / "models" / "bert_pt")


@pytest.fixture
def cola(tmp_path: Path) -> Path:
    return write_cola(tmp_path / "data" / "CoLA")
