"""Every stage on a GPU, against the plain way and against the card's own rate: one table.

    python benchmarks/gpu.py            # under ten minutes on one card; writes benchmarks/gpu.json
    python benchmarks/gpu.py --tiny     # tiny shapes on whatever there is: shows that it runs

Weights and token ids are random, lengths those of CoLA and MNLI; speed does not depend on what they
say. It needs torch, transformers and this repository, no data and no network.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    import on_gpu  # heavy

    if on_gpu.DEVICE == "cpu" and not args.tiny:
        sys.exit("error: there is no GPU here; --tiny shows that everything runs")
    card = on_gpu.facts()
    lines = on_gpu.run(on_gpu.TINY if args.tiny else on_gpu.BASE, card)
    print(on_gpu.table(lines, goals=not args.tiny))
    report = {"machine": card, "tiny": args.tiny, "lines": [asdict(one) for one in lines]}
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{card['name']}, {card['bf16_tflops']:.0f} TFLOP/s in bf16, torch {card['torch']}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on whatever there is")
    parser.add_argument("--output", type=Path, help="JSON to write (default: benchmarks/gpu.json)")
    args = parser.parse_args(argv)
    if not args.tiny and args.output is None:
        args.output = HERE / "gpu.json"
    return args


if __name__ == "__main__":
    main()
