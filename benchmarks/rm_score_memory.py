"""Memory of rm-score over many rows: resident set after each tenth of them, with a tiny model.

python -m benchmarks.rm_score_memory [ROWS]
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import psutil

from tests.tiny import make_model

WORDS = ["how", "do", "I", "make", "tea", "with", "milk", "thanks", "here", "is", "a", "clear", "answer", "steps"]


def main(count: int = 1_000_000) -> None:
    """Score so many rows in a process of their own and print its memory as the rows go by."""
    with tempfile.TemporaryDirectory(prefix="rm-score-") as name:
        folder = Path(name)
        make_model(folder / "tiny")
        write_rows(folder / "rows.jsonl", count)
        command = [sys.executable, "-m", "jobs.cli", "hrm-hf", "rm-score", "--model", folder / "tiny"]
        command += ["--input", folder / "rows.jsonl", "--output", folder / "scores.jsonl", "--precision", "fp32"]
        started = time.perf_counter()
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            watch(child, count)
        if child.returncode:
            raise SystemExit(child.returncode)
        scored = sum(1 for _ in (folder / "scores.jsonl").open("rb"))
        print(f"{scored} rows in {time.perf_counter() - started:.0f} s")


def write_rows(path: Path, count: int) -> None:
    rng = random.Random(0)
    with path.open("wb") as file:
        for i in range(count):
            prompt, response = (" ".join(rng.choices(WORDS, k=rng.randint(2, 12))) for _ in range(2))
            file.write(orjson.dumps({"id": i, "prompt": prompt, "response": response}) + b"\n")


def watch(child: subprocess.Popen[bytes], count: int) -> None:
    """Print the child's memory when its progress passes another tenth."""
    process = psutil.Process(child.pid)
    mark = count // 10
    assert child.stderr is not None
    for line in child.stderr:
        done = int(word) if (word := line.split()[0].decode()).isdigit() else 0
        if done >= mark or done == count:
            print(f"{done:9d} rows: {process.memory_info().rss / 1e6:.0f} MB", flush=True)
            mark += count // 10


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
