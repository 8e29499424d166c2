"""Run the measurements that need nothing but the repository: ingestion, then training with the demo's model.

    make bench

Training needs the model that `make demo` fetches; without it only ingestion runs, and the line says so.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = Path("artifacts/base/smollm2-135m-instruct")


def main() -> None:
    """Run each measurement in a process of its own, so that none is warmed up by another."""
    _run("bench_ingest.py")
    if MODEL.is_dir():
        _run("bench_train.py")
    else:
        print(f"Training was not measured: {MODEL} is missing; run `make demo` first", file=sys.stderr)


def _run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    main()
