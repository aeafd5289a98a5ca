"""One-step pruning of a KD model: the script of Pruning/, called from here with the same flags."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    script = Path(__file__).resolve().parent.parent / "Pruning" / "pruning_one_step.py"
    runpy.run_path(str(script), run_name="__main__")
