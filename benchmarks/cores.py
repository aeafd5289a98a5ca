"""How to split the cores between processes and threads: the distillation step, every way."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import distilling
from common import (
    BASE_STUDENT,
    BERT_BASE,
    MINILM,
    MINILM_STUDENT,
    Result,
    random_model,
    rates,
)

from rosita.distillation.knowledge import layer_map

BATCH = 32  # rows of a step, of all processes together
LINES = {  # name -> teacher, student, whether its states come from the cache, steps
    "cores_bert_base": (BERT_BASE, BASE_STUDENT, False, 24),
    "cores_minilm": (MINILM, MINILM_STUDENT, False, 100),
    "cores_cached_states": (MINILM, MINILM_STUDENT, True, 150),
}


def cores(quick: bool, folder: Path) -> list[Result]:
    """For each line one thread in each of many processes, against one process with all threads."""
    count = os.cpu_count() or 1
    found = []
    for name in LINES:
        rounds = 1 if quick else 3
        ways = {"alone": (1, 1), "threads": (1, count), "processes": (count, 1)}
        sums = {way: [0, 0.0] for way in ways}
        for number in range(rounds):
            for way, (processes, threads) in ways.items():
                new = measured(name, processes, threads, number, Path(folder))
                sums[way] = [a + b for a, b in zip(sums[way], new, strict=True)]
        speed = {way: rows / seconds for way, (rows, seconds) in sums.items()}
        note = f"{count} processes of 1 thread against 1 of {count}; one core: {speed['alone']:.1f}"
        found.append(rates(name, speed["processes"], speed["threads"], None, note))
    return found


def measured(name: str, processes: int, threads: int, seed: int, folder: Path) -> tuple[int, float]:
    """Rows and seconds of a line's steps, in so many processes of so many threads each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        world = {
            "OMP_NUM_THREADS": threads,
            **({"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if processes > 1 else {}),
        }  # fmt: skip
        command = [sys.executable, __file__, name, str(seed), str(folder)]
        started.append(
            subprocess.Popen(
                command,
                env=os.environ | {key: str(value) for key, value in world.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = [process.communicate() for process in started]
    if any(process.returncode for process in started):
        sys.exit("\n".join(error for _, error in ends))
    rows, seconds = json.loads(ends[0][0].splitlines()[-1])
    return rows * processes, seconds


def main() -> None:
    """One process of `measured`: prints its rows and seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=LINES)
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    config, shape, cached, steps = LINES[args.name]
    student = random_model(config, shape)
    data = distilling.encoded(args.folder)
    followed = None
    if cached:
        layers = config.num_hidden_layers, student.config.num_hidden_layers
        followed = list(layer_map(*layers).values())
    with tempfile.TemporaryDirectory(dir=args.folder) as own:
        found = distilling.ours(
            random_model(config), student, data, steps, Path(own), True, args.seed, followed,
            batch=BATCH,
        )  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
