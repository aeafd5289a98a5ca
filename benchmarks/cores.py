"""How to split the cores between processes and threads: the distillation step, every way.

    python benchmarks/cores.py             # three rounds of every way, ten minutes on two cores
    python benchmarks/cores.py --quick     # one

Prints sentences per second as a table, writes cores.json. Each way is run in turn, in processes of
its own. "runs beside each other" are as many distillations of their own as there are cores, as of
several seeds or tasks; their sentences are counted together.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BATCH = 32  # rows of a step, of all processes together
# name -> steps, whether the teacher's states come from the cache
LINES = {
    "kd_bert_base": (24, False),
    "kd_minilm": (100, False),
    "kd_cached_states": (150, True),
}
CORES = os.cpu_count() or 1
WAYS = {  # name -> runs, processes of a run, threads of a process
    "one thread": (1, 1, 1),
    f"{CORES} threads": (1, 1, CORES),
    f"{CORES} processes": (1, CORES, 1),
    f"{CORES} runs beside each other": (CORES, 1, 1),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--only", default=",".join(LINES), help="some of " + ", ".join(LINES))
    parser.add_argument("--steps", type=int, help="of each way (default: those of the line)")
    parser.add_argument("--output", type=Path, default=HERE / "cores.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # seed, folder
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(worker(args.only, args.steps, *args.worker)))
        return
    with tempfile.TemporaryDirectory(prefix="rosita-bench-") as folder:
        found = {
            name: speeds(name, args.steps or LINES[name][0], 1 if args.quick else 3, folder)
            for name in args.only.split(",")
        }
    print(table(found))
    from run import machine

    record = {"machine": machine(), "sentences_per_second": found}
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def speeds(name: str, steps: int, rounds: int, folder: str) -> dict[str, float]:
    """Sentences per second of every way, over all rounds."""
    sums = {way: [0, 0.0] for way in WAYS}
    for seed in range(rounds):
        for way, split in WAYS.items():
            new = measured(name, steps, split, seed, folder)
            sums[way] = [a + b for a, b in zip(sums[way], new, strict=True)]
    return {way: rows / seconds for way, (rows, seconds) in sums.items()}


def measured(
    name: str, steps: int, split: tuple[int, int, int], seed: int, folder: str
) -> tuple[int, float]:
    """Rows and seconds of a line's steps, split so."""
    runs, processes, threads = split
    started = []
    for _ in range(runs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(processes):
            world = {"OMP_NUM_THREADS": threads}
            if processes > 1:
                world |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes,
                          "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
            command = [sys.executable, __file__, "--only", name, "--steps", steps,
                       "--worker", seed, folder]  # fmt: skip
            started.append(
                subprocess.Popen(
                    [str(part) for part in command],
                    env=os.environ | {key: str(value) for key, value in world.items()},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
    ends = [process.communicate() for process in started]
    if any(process.returncode for process in started):
        sys.exit("\n".join(error for _, error in ends))
    rows, seconds = zip(*(json.loads(out.splitlines()[-1]) for out, _ in ends), strict=True)
    return sum(rows), sum(seconds) / len(seconds)


def worker(name: str, steps: int, seed: str, folder: str) -> tuple[int, float]:
    """One process of `measured`: its rows and seconds."""
    import distilling
    from common import BASE_STUDENT, BERT_BASE, MINILM, MINILM_STUDENT, random_model

    from rosita.distillation.knowledge import layer_map

    of_base = name == "kd_bert_base"
    config, shape = (BERT_BASE, BASE_STUDENT) if of_base else (MINILM, MINILM_STUDENT)
    student = random_model(config, shape)
    followed = None
    if LINES[name][1]:
        layers = config.num_hidden_layers, student.config.num_hidden_layers
        followed = list(layer_map(*layers).values())
    with tempfile.TemporaryDirectory(dir=folder) as own:  # its data too: runs are strangers
        rank = os.environ.get("RANK")
        shared = Path(folder) / f"seed-{seed}" if rank else Path(own)
        shared.mkdir(exist_ok=True)
        return distilling.ours(
            random_model(config), student, distilling.encoded(shared), steps, Path(own), True,
            int(seed), followed, batch=BATCH,
        )  # fmt: skip


def table(found: dict[str, dict[str, float]]) -> str:
    """Sentences per second as a Markdown table."""
    lines = ["| sentences/s | " + " | ".join(WAYS) + " |", "|---|" + "---:|" * len(WAYS)]
    lines += [
        f"| {name} | " + " | ".join(f"{speed:.0f}" for speed in by_way.values()) + " |"
        for name, by_way in found.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
