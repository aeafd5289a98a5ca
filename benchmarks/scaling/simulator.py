"""What distillation takes on more rows, larger teachers and more GPUs: a model, not a measurement.

Times are sums of work over rates: FLOPs counted from the shapes, operations, bytes of gradients and
moments; the rates (utilization, launches, links) are stated assumptions of a `Machine`, or are
calibrated on one. What the code does is modelled as it is: every process fills its share of the
cache of logits, but scores dev as a whole, and keeps the order of all rows in memory; one process
tokenizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rosita.model import RositaConfig
from rosita.pruning.shape import Shape, parameter_count, shaped_config

# Operations that one step launches: counted in the dispatcher, views left out (tests/test_scaling).
LAUNCHES_TEACHER_LAYER = 36  # forward
LAUNCHES_STUDENT_LAYER = 111  # forward and backward, of which
LAUNCHES_BACKWARD_LAYER = 60
LAUNCHES_REST = 100  # embeddings, classifier, losses, clipping, fused AdamW
# Bytes per parameter and step that gradients, clipping and AdamW read and write, and per parameter
# that training keeps: weight, gradient, two moments, all in fp32.
UPDATE_BYTES, TRAINED_BYTES = 44, 16
STATE_BYTES = 12  # of the state that a run saves: weight and two moments
ROW_BYTES = 16  # on disk beside the token ids: length, first segment, label
SAMPLER_BYTES = 30  # of memory a row, in every process: offsets, lengths, the order of an epoch
CONTEXT_BYTES = 1e9  # CUDA context and workspaces


@dataclass(frozen=True)
class Machine:
    """Rates of one device and of the links between many; all are assumptions unless measured."""

    name: str
    peak: float  # FLOP/s of a matrix product
    utilization: float  # share of it that large batches reach
    launch_seconds: float  # CPU time of one operation
    memory_rate: float  # bytes/s of the update
    asynchronous: bool = True  # launches run ahead of the device: the slower of both counts
    node_devices: int = 8
    inside_rate: float = 300e9  # bytes/s between devices of a node
    between_rate: float = 25e9  # bytes/s between nodes
    latency: float = 5e-6  # seconds of one hop of the ring
    overlap: float = 0.5  # share of the backward pass that can hide the exchange
    disk_rate: float = 2e9  # bytes/s, of a node
    page_reads: float = 5e5  # random reads of a page per second, of a node
    host_bytes: float = 1e12  # memory of a node
    tokenize_rate: float = 64e3  # rows/s of the one process that reads the TSV

    @property
    def rate(self) -> float:
        """FLOP/s that are reached."""
        return self.peak * self.utilization


@dataclass(frozen=True)
class Job:
    """One distillation: what is learnt by what from how many rows, on how many devices."""

    teacher: RositaConfig
    student: RositaConfig
    rows: int
    devices: int = 1
    batch: int = 32  # rows per device and step
    tokens: int = 24  # of a row, with its padding
    representation: bool = True  # learn the hidden states: on a GPU the teacher runs in every step
    cached: bool = False  # the teacher's logits are read from disk; prediction only
    eval_step: int = 500  # steps between two evaluations
    dev_rows: int = 10_000  # MNLI's
    save_state_steps: int = 500

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return math.ceil(self.rows / (self.batch * self.devices))


@dataclass(frozen=True)
class Step:
    """Seconds of one step by cause; `total` is what they come to, some hiding behind others."""

    teacher: float
    student: float
    update: float
    launch: float
    exchange: float  # all of it, hidden or not
    evaluation: float  # share of one step in the next evaluation
    saving: float  # and in the next saved state
    total: float

    @property
    def bound_by(self) -> str:
        """What to look at first: the largest of what a step waits for."""
        compute = self.teacher + self.student + self.update
        parts = {
            "launching": self.launch,
            "arithmetic": compute,
            "exchange": self.total - max(compute, self.launch) - self.evaluation - self.saving,
            "evaluation": self.evaluation,
        }
        return max(parts, key=parts.__getitem__)


def bert(name: str) -> RositaConfig:
    """BERT-base or BERT-large: `name` is base or large."""
    if name == "base":
        return RositaConfig()
    return RositaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )


def student_of(teacher: RositaConfig, shape: str) -> RositaConfig:
    """The student called e.g. a2_l8_f512_e128, cut out of `teacher`."""
    return shaped_config(teacher, Shape.parse(shape))


def forward_flops(config: RositaConfig, tokens: int) -> int:
    """Floating-point operations of the matrix products of one row of `tokens`, forward."""
    d, a, f = config.hidden_size, config.prun_hidden_size, config.prun_intermediate_size
    linear = 2 * tokens * (4 * d * a + 2 * d * f)
    attention = 2 * 2 * tokens * tokens * a  # query x key, and weights x value
    rank = max(0, config.emb_hidden_dim)
    head = 2 * d * d + 2 * d * config.num_labels
    return config.num_hidden_layers * (linear + attention) + 2 * tokens * rank * d + head


def training_flops(config: RositaConfig, tokens: int) -> int:
    """Forward and backward of one row: the backward pass is two products for each forward one."""
    return 3 * forward_flops(config, tokens)


def activation_bytes(config: RositaConfig, tokens: int) -> int:
    """Memory of one row between forward and backward under bf16 autocast, attention written out."""
    d, a, f = config.hidden_size, config.prun_hidden_size, config.prun_intermediate_size
    per_token = 20 * d + 8 * a + 4 * f + 6 * tokens * config.num_attention_heads
    return config.num_hidden_layers * tokens * per_token


def exchange_seconds(size: float, devices: int, machine: Machine) -> float:
    """Ring all-reduce of `size` bytes: each of 2(n-1) hops moves size/n over the slowest link."""
    if devices == 1:
        return 0.0
    hops = 2 * (devices - 1)
    inside = devices <= machine.node_devices
    rate = machine.inside_rate if inside else machine.between_rate
    return hops * (size / devices / rate + machine.latency)


def step_seconds(job: Job, machine: Machine) -> Step:
    """The time of one step and its parts."""
    with_teacher = job.representation or not job.cached
    parameters = parameter_count(job.student)
    rate = job.batch / machine.rate
    teacher = rate * forward_flops(job.teacher, job.tokens) if with_teacher else 0.0
    student = rate * training_flops(job.student, job.tokens)
    update = parameters * UPDATE_BYTES / machine.memory_rate
    layers = job.student.num_hidden_layers
    backward = LAUNCHES_BACKWARD_LAYER * layers + LAUNCHES_REST / 2
    forward = (LAUNCHES_STUDENT_LAYER - LAUNCHES_BACKWARD_LAYER) * layers + LAUNCHES_REST / 2
    forward += LAUNCHES_TEACHER_LAYER * job.teacher.num_hidden_layers if with_teacher else 0
    launch = (forward + backward) * machine.launch_seconds
    compute = teacher + student + update
    busy = max(compute, launch) if machine.asynchronous else compute + launch
    exchange = exchange_seconds(4 * parameters, job.devices, machine)
    hides = machine.overlap * max(student * 2 / 3, backward * machine.launch_seconds)
    waited = max(0.0, exchange - hides)
    evaluation = evaluation_seconds(job, machine) / job.eval_step
    saving = parameters * STATE_BYTES / machine.disk_rate / job.save_state_steps
    total = busy + waited + evaluation + saving
    return Step(teacher, student, update, launch, exchange, evaluation, saving, total)


def evaluation_seconds(job: Job, machine: Machine) -> float:
    """One evaluation on dev, which every process does as a whole; batches of 4,096 tokens."""
    batches = math.ceil(job.dev_rows * job.tokens / 4096)
    arithmetic = job.dev_rows * forward_flops(job.student, job.tokens) / machine.rate
    launches = batches * LAUNCHES_TEACHER_LAYER * job.student.num_hidden_layers
    launch = launches * machine.launch_seconds
    return max(arithmetic, launch) if machine.asynchronous else arithmetic + launch


def epoch_seconds(job: Job, machine: Machine) -> float:
    """One pass over the rows, without what is done once (`tokenize_seconds`, `fill_seconds`)."""
    return job.steps * step_seconds(job, machine).total


def tokenize_seconds(job: Job, machine: Machine) -> float:
    """TSV to token ids, once, by one process."""
    return job.rows / machine.tokenize_rate


def fill_seconds(job: Job, machine: Machine) -> float:
    """The once-only pass of the teacher over all rows that fills the cache of logits."""
    arithmetic = job.rows * forward_flops(job.teacher, job.tokens) / machine.rate
    batches = math.ceil(job.rows * job.tokens / 4096)
    launches = batches * LAUNCHES_TEACHER_LAYER * job.teacher.num_hidden_layers
    launch = launches * machine.launch_seconds
    total = max(arithmetic, launch) if machine.asynchronous else arithmetic + launch
    return total / job.devices


def cache_pays_after(job: Job, machine: Machine) -> float:
    """Epochs from which caching the teacher's logits takes less time than asking it each time.

    Infinite where reading costs as much as the teacher: each row costs one random page read more
    once ids and logits do not fit into the node's memory (see `cache_leaves_memory`).
    """
    asked = replace(job, representation=False, cached=False)
    read = replace(job, representation=False, cached=True)
    saved = epoch_seconds(asked, machine) - epoch_seconds(read, machine)
    if job.rows > cache_leaves_memory(job, machine):
        local = min(job.devices, machine.node_devices)
        saved -= job.rows / job.devices * local / machine.page_reads
    return fill_seconds(job, machine) / saved if saved > 0 else math.inf


def cache_leaves_memory(job: Job, machine: Machine) -> float:
    """Rows whose token ids, logits and order no longer fit into a node's memory."""
    local = min(job.devices, machine.node_devices)
    return machine.host_bytes / (row_bytes(job, logits=True) + SAMPLER_BYTES * local)


def row_bytes(job: Job, logits: bool) -> int:
    """Disk of one row: token ids (2 bytes each), lengths and label, and the fp32 logits."""
    return 2 * job.tokens + ROW_BYTES + (4 * job.teacher.num_labels if logits else 0)


def disk_bytes(job: Job, logits: bool) -> float:
    """Disk of a run: the rows, and model and state, each once more while it is replaced."""
    return job.rows * row_bytes(job, logits) + 2 * (4 + STATE_BYTES) * parameter_count(job.student)


def device_bytes(job: Job) -> float:
    """Memory of one device: student in training, teacher in bf16, activations, hidden states."""
    student = TRAINED_BYTES * parameter_count(job.student)
    table = job.teacher.vocab_size * job.teacher.hidden_size  # embeddings stay in fp32
    teacher = 2 * (parameter_count(job.teacher) + table)
    hidden = 0
    if job.representation:
        states = job.teacher.num_hidden_layers + 2 * job.student.num_hidden_layers + 3
        hidden = 4 * states * job.tokens * job.teacher.hidden_size
    if job.cached and not job.representation:
        teacher = 0
    return (
        student
        + teacher
        + job.batch * (activation_bytes(job.student, job.tokens) + hidden)
        + (CONTEXT_BYTES)
    )


def host_bytes(job: Job, machine: Machine) -> float:
    """Memory of a node that the order of the rows takes: each of its processes has its own."""
    return job.rows * SAMPLER_BYTES * min(job.devices, machine.node_devices)


def states_bytes(job: Job) -> int:
    """Disk of one row's teacher hidden states in half precision, those that the student follows."""
    return 2 * job.tokens * job.teacher.hidden_size * (job.student.num_hidden_layers + 1)


def states_gain(job: Job, machine: Machine) -> float:
    """Teacher forward over reading its hidden states of a row: below 1, a cache would not pay."""
    local = min(job.devices, machine.node_devices)
    reading = states_bytes(job) * local / machine.disk_rate
    return forward_flops(job.teacher, job.tokens) / machine.rate / reading
