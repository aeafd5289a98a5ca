"""How to split the cores between processes and threads: the distillation step, every way.

    python benchmarks/cores.py             # three rounds of every way, ten minutes on two cores
    python benchmarks/cores.py --quick     # one

Prints sentences per second as a table, writes cores.json. Each way is run in turn, in processes of
its own. "runs beside each other" are as many distillations as there are cores, as of several seeds
or tasks; their speeds are added up.
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
from statistics import median

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
    if unknown := [name for name in args.only.split(",") if name not in LINES]:
        parser.error(f"--only: {', '.join(unknown)}; the lines are {', '.join(LINES)}")
    with tempfile.TemporaryDirectory(prefix="rosita-bench-") as folder:
        found = {
            name: speeds(name, args.steps or LINES[name][0], 1 if args.quick else 3, folder)
            for name in args.only.split(",")
        }
    print(table(found))
    from common import auto_dtype
    from run import machine

    record = {
        "machine": machine(),
        "dtype": str(auto_dtype())[6:],
        "sentences_per_second": found,
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def speeds(name: str, steps: int, rounds: int, folder: str) -> dict[str, float]:
    """Sentences per second of every way, the median of all rounds."""
    found = [
        {way: measured(name, steps, split, seed, folder) for way, split in WAYS.items()}
        for seed in range(rounds)
    ]
    return {way: median(one[way] for one in found) for way in WAYS}


def measured(name: str, steps: int, split: tuple[int, int, int], seed: int, folder: str) -> float:
    """Sentences per second of a line's steps, split so."""
    runs, processes, threads = split
    started = []
    for _ in range(runs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(processes):
            world: dict[str, object] = {"OMP_NUM_THREADS": threads}
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
    # the processes of a run take the same steps, so their speeds add up as those of runs do
    return sum(json.loads(out.splitlines()[-1]) for out, _ in ends)


def worker(name: str, steps: int, seed: str, folder: str) -> float:
    """One process of `measured`: its sentences per second."""
    import distilling
    from common import BASE_STUDENT, BERT_BASE, MINILM, MINILM_STUDENT, random_model

    of_base = name == "kd_bert_base"
    config, shape = (BERT_BASE, BASE_STUDENT) if of_base else (MINILM, MINILM_STUDENT)
    student = random_model(config, shape)
    followed = distilling.followed_states(config, student) if LINES[name][1] else None
    # token ids and states are there from the first way on, which is a process by itself
    data = distilling.encoded(Path(folder))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        rows, seconds = distilling.ours(
            random_model(config), student, data, steps, Path(own), True, int(seed), followed,
            batch=BATCH,
        )  # fmt: skip
    return rows / seconds


def table(found: dict[str, dict[str, float]]) -> str:
    """Sentences per second as a Markdown table."""
    ways = list(next(iter(found.values())))
    lines = ["| sentences/s | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    lines += [
        f"| {name} | " + " | ".join(f"{speed:.0f}" for speed in by_way.values()) + " |"
        for name, by_way in found.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
