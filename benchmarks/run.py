"""Every stage against the plain way and against what the machine can do, in one table.

    python benchmarks/run.py            # 25 minutes on two cores
    python benchmarks/run.py --quick    # every ratio in about 5 minutes
    python benchmarks/run.py --only svd,serving     # and keep the other lines of results.json

Writes benchmarks/results.json and benchmarks/scaling.png. The README beside it explains each line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
CASES = {
    "kd_bert_base": "distilling",
    "kd_minilm": "distilling",
    "kd_cached_logits": "distilling",
    "kd_cached_states": "distilling",
    "kd_fewer_states": "distilling",
    "augmentation": "making",
    "svd": "making",
    "pruning_event": "making",
    "tokenize": "making",
    "serving": "serving",
    "train_4m_rows": "making",
    "scaling": "making",
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.case:
        print(json.dumps(run_case(args.case, args.quick, args.folder)))
        return
    results, points = [], []
    with tempfile.TemporaryDirectory(prefix="rosita-bench-") as folder:
        for number, name in enumerate(args.only, 1):
            print(f"[{number}/{len(args.only)}] {name} ...", end="", flush=True, file=sys.stderr)
            start = time.perf_counter()
            found = in_process(name, args.quick, folder)
            print(f" {time.perf_counter() - start:.0f} s", file=sys.stderr)
            if name == "scaling":
                points = found
            else:
                results += found
    print(table(results))
    if args.only != list(CASES) and args.output.exists():  # the other lines stay as they are
        new = {one["name"]: one for one in results}
        earlier = json.loads(args.output.read_text(encoding="utf-8"))
        results = [new.pop(one["name"], one) for one in earlier] + list(new.values())
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\n{machine()}; written to {args.output}")
    if points:
        picture = args.output.with_name("scaling.png")
        draw(points, picture)
        print(f"time and memory against rows: {picture}")


def in_process(name: str, quick: bool, folder: str) -> list[dict]:
    """One case in a process of its own: its memory and threads are its own."""
    command = [sys.executable, __file__, "--case", name, "--folder", folder]
    done = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"\n{done.stderr}\nthe case {name} failed")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(name: str, quick: bool, folder: Path) -> list[dict]:
    """The results of one case, as they stand in results.json."""
    found = getattr(__import__(CASES[name]), name)(quick, folder)
    return [one if isinstance(one, dict) else asdict(one) for one in found]


def table(results: list[dict]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| name | unit | ours | baseline | ratio | of the limit | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for one in results:
        limit = one["fraction_of_limit"]
        share = f"{100 * limit:.0f} %" if limit else ""
        lines.append(
            f"| {one['name']} | {one['unit']} | {one['ours']:.4g} | {one['baseline']:.4g}"
            f" | {one['ratio']:.1f}x | {share} | {one['note']} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"


def draw(points: list[dict], path: Path) -> None:
    """Seconds and peak memory against rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rows = [point["rows"] for point in points]
    seconds = [point["seconds"] for point in points]
    left.loglog(rows, seconds, "o-", color="#2563eb", label="measured")
    slope = seconds[-1] / rows[-1]
    left.loglog(rows, [slope * n for n in rows], ":", color="#94a3b8", label="in proportion")
    left.set(xlabel="rows", ylabel="seconds", title="TSV to token ids, one epoch of batches")
    left.legend(frameon=False)
    right.semilogx(rows, [point["peak_gb"] for point in points], "o-", color="#2563eb")
    right.set(xlabel="rows", ylabel="GB", title="peak memory of the process", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller runs: about 5 minutes")
    parser.add_argument("--only", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    unknown = [name for name in args.only if name not in CASES]
    if unknown:
        parser.error(f"--only {unknown[0]}: known are {', '.join(CASES)}")
    return args


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
