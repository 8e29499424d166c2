"""Measures ingestion side by side with the stock tools, in one run: `python benchmarks/bench_ingest.py [--big]`.

Generates 300,000 records (about 285 MB) of an Argilla 2.x flat export, and with --big 3,000,000, and reports for each
tool wall time, CPU time and peak memory: the proportional set size summed over its processes, sampled twenty times a
second. All tools have to end with the same number of pairs. Rivals that are not installed are left out and named.

Ours does more: a full report, record ids and metadata beside each row, hashes and atomic publishing. See
rivals_ingest.py for what the others do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import orjson
import psutil

RIVALS = ("datasets", "datasets-rows", "pandas", "polars", "duckdb")
HERE = Path(__file__).resolve().parent
LABELS = ("response_a", "response_b", "tie")
STATUSES = ("submitted",) * 8 + ("draft", "discarded")


def main() -> None:
    options = _options()
    work = Path(options.work or tempfile.mkdtemp(prefix="bench-ingest-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        results = [_measured(options, work, 300_000)]
        if options.big:
            results.append(_measured(options, work, 3_000_000))
    finally:
        if not options.work:
            shutil.rmtree(work)
    _print(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big", action="store_true", help="also measure 3,000,000 records, ours alone")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each tool; the median counts")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=RIVALS, help="tools to compare with")
    parser.add_argument("--work", help="folder for the data, kept afterwards")
    parser.add_argument("--rivals-python", default=sys.executable, help="interpreter that has the rivals")
    parser.add_argument("--json", help="also write the figures to this file")
    return parser.parse_args()


def generate(path: Path, count: int) -> None:
    """Write a 2.x flat export like the genuine ones: about two thirds of its records become pairs.

    One record in 50 asks an earlier question again, one in 100 shows the same two answers again, so that there are
    duplicates, contradictions and prompts with several pairs to be found.
    """
    source = random.Random(7)
    words = (HERE / "rivals_ingest.py").read_text().split()
    pool = " ".join(source.choices([word for word in words if word.isalpha()], k=40_000))
    users = [str(uuid.UUID(int=source.getrandbits(128))) for _ in range(8)]

    def text(low: int, high: int) -> str:
        start = source.randrange(len(pool) - high)
        return pool[start : start + source.randint(low, high)].strip() + source.choice((".", "?", ".\n\nYes — “so”."))

    seen: deque[tuple[str, str, str]] = deque(maxlen=5000)
    with path.open("wb") as file:
        for i in range(count):
            kind = source.random()
            earlier = source.choice(seen) if seen and kind < 0.03 else None
            prompt = earlier[0] if earlier else f"Question {i}: {text(60, 160)}"
            first = text(40, 300) if source.random() > 0.005 else " "
            first, second = earlier[1:] if earlier and kind < 0.01 else (first, text(40, 300))
            seen.append((prompt, first, second))
            answers = source.choice((0, 1, 1, 2, 3, 3))
            who = source.sample(users, answers)
            better = source.choice(LABELS[:2])
            given = [better if source.random() < 0.85 else source.choice(LABELS) for _ in who]
            row = {
                "id": f"rec-{i:08d}",
                "status": "completed" if answers > 1 else "pending",
                "_server_id": str(uuid.UUID(int=source.getrandbits(128))),
                "prompt": prompt,
                "response_a": first,
                "response_b": second,
                "source": source.choice(("web-forum", "support-tickets", "internal-eval")),
                "turns": 1,
                "preference.responses": given or None,
                "preference.responses.users": who or None,
                "preference.responses.status": [source.choice(STATUSES) for _ in who] or None,
                "preference.suggestion": source.randrange(4),
                "preference.suggestion.score": round(source.random(), 3),
                "preference.suggestion.agent": "judge-llm-v3",
            }
            file.write(orjson.dumps(row) + b"\n")


def _measured(options: argparse.Namespace, work: Path, count: int) -> dict[str, Any]:
    export = work / f"export-{count}.jsonl"
    if not export.exists():
        generate(export, count)
    tools = ["aios", *(options.rivals if count == 300_000 else ())]
    missing = [tool for tool in tools[1:] if not _has(options.rivals_python, tool)]
    tools = [tool for tool in tools if tool not in missing]
    runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    # Interleaved, so that a slow minute of the machine hits all tools alike.
    for _ in range(options.repeat):
        for tool in tools:
            runs[tool].append(_run(options, tool, export, work / "out"))
    figures = {
        tool: {key: statistics.median(r[key] for r in found) for key in found[0]} for tool, found in runs.items()
    }
    pairs = {tool: figure["pairs"] for tool, figure in figures.items()}
    if len(set(pairs.values())) > 1:
        raise SystemExit(f"the tools do not agree, so their times do not compare: {pairs}")
    return {"records": count, "bytes": export.stat().st_size, "tools": figures, "missing": missing,
            "cpus": len(os.sched_getaffinity(0))}  # fmt: skip


def _has(python: str, tool: str) -> bool:
    tool = tool.removesuffix("-rows")
    if python == sys.executable:
        return importlib.util.find_spec(tool) is not None
    return subprocess.run([python, "-c", f"import {tool}"], capture_output=True, check=False).returncode == 0


def _run(options: argparse.Namespace, tool: str, export: Path, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    if tool == "aios":
        command = [
            sys.executable,
            "-m",
            "jobs.cli",
            "data",
            "argilla-export",
            "--input",
            str(export),
            "--output",
            str(out),
        ]
    else:
        command = [options.rivals_python, str(HERE / "rivals_ingest.py"), tool, str(export), str(out)]
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = _PeakMemory(process.pid)
    _, error = process.communicate()
    wall = time.perf_counter() - started
    after = os.times()
    peak.stop()
    if process.returncode:
        raise SystemExit(f"{tool} failed: {error[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    pairs = sum(_count_lines(out / f"{name}.jsonl") for name in ("train", "eval", "test"))
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak.bytes / 1e6, "pairs": pairs}


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


class _PeakMemory:
    """Samples the memory of a process and its children; shared pages count in proportion."""

    def __init__(self, pid: int) -> None:
        self.pid, self.bytes = pid, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            total = 0
            try:
                root = psutil.Process(self.pid)
                for process in (root, *root.children(recursive=True)):
                    try:
                        info = process.memory_full_info()
                        total += getattr(info, "pss", info.rss)
                    except psutil.Error:
                        continue
            except psutil.Error:
                continue
            self.bytes = max(self.bytes, total)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        ours = result["tools"]["aios"]
        size, pairs = result["bytes"] / 1e6, int(ours["pairs"])
        print(f"\n{result['records']:,} records, {size:.0f} MB, {pairs:,} pairs, {result['cpus']} CPUs")
        print(f"{'tool':<10} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'wall of ours':>13}")
        for tool, figures in result["tools"].items():
            ratio = figures["wall_s"] / ours["wall_s"]
            print(
                f"{tool:<10} {figures['wall_s']:8.2f} {figures['cpu_s']:8.2f} {figures['peak_mb']:8.0f} {ratio:12.2f}x"
            )
        if result["missing"]:
            print(f"not installed: {', '.join(result['missing'])}")
    if len(results) == 2:
        small, big = (r["tools"]["aios"]["wall_s"] for r in results)
        print(f"\nten times the records take {big / small:.1f} times as long")


if __name__ == "__main__":
    main()
