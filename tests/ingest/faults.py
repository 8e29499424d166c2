"""Injects faults into real ingestions, fifty and more of each: `python -m tests.ingest.faults KIND FOLDER COUNT`.

A folder holds set A; a child process ingests set B (or A again) into it and is killed, runs out of disk, or meets a
rival. After each, what a reader gets must be A or B as a whole. Prints how often each outcome came, as JSON.
Children are forked from this process, which has imported everything once, so that an attempt takes milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from jobs.cli import run
from jobs.contract.errors import BeingReplaced
from jobs.contract.splits import read_splits
from tests.ingest.helpers import write_lines

ROWS = 400


def main() -> None:
    kind, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    source = random.Random(3)
    for name in "AB":
        rows = [
            {"prompt": f"prompt number {i}", "chosen": f"good {name} {'x' * 300}", "rejected": f"bad {name}"}
            for i in range(ROWS)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    # Once in this process: afterwards everything is imported, and the children start with it.
    run(["data", "argilla-export", "--input", str(folder / "A.jsonl"), "--output", str(folder / "out"), "--json"])
    started = time.monotonic()
    assert Child(folder, "B").wait() == 0
    usual = time.monotonic() - started
    attempt = {"kill": kill, "full": full, "limit": limit, "rival": rival}[kind]
    outcomes: Counter[str] = Counter()
    number = 0
    # An attempt that ends before its fault strikes is no injection: go on until so many have struck.
    while _struck(kind, outcomes) < count and number < 8 * count:
        outcomes.update(attempt(folder, number, count, usual, source))
        number += 1
    leftovers = [p.name for p in folder.iterdir() if ".staging-" in p.name or ".retired-" in p.name]
    ingest_cleanly(folder)
    left = [p.name for p in folder.iterdir() if ".staging-" in p.name or ".retired-" in p.name]
    print("\n" + json.dumps({"outcomes": outcomes, "swept": len(leftovers), "left": left}))


def _struck(kind: str, outcomes: Counter[str]) -> int:
    """Return how many faults came in time."""
    if kind == "kill":
        return sum(n for outcome, n in outcomes.items() if outcome.endswith("killed"))
    if kind in ("limit", "full"):
        return outcomes.total() - outcomes["exit 0"]
    return (outcomes["exit 0"] + outcomes["exit 74"]) // 2


class Child:
    """An ingestion in a forked process."""

    def __init__(self, folder: Path, name: str, file_limit: int | None = None) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            with contextlib.suppress(BaseException):
                with Path(os.devnull).open("w") as null:
                    os.dup2(null.fileno(), 1)
                    os.dup2(null.fileno(), 2)
                if file_limit is not None:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
                export, output = str(folder / f"{name}.jsonl"), str(folder / "out")
                code = run(["data", "argilla-export", "--input", export, "--output", output, "--workers", "1"])
            os._exit(code)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def seen(folder: Path) -> str:
    """Return what a reader gets: A, B, or the error that the folder is being replaced; anything else fails."""
    try:
        _, splits = read_splits(folder / "out")
    except BeingReplaced:
        return "being replaced"
    rows = [row for split in splits.values() for row in split.rows]
    names = {row["chosen"].split()[1] for row in rows} | {row["rejected"].split()[1] for row in rows}
    assert len(rows) == ROWS, len(rows)
    assert len(names) == 1, names
    return names.pop()


def ingest_cleanly(folder: Path) -> None:
    for name in "BA":
        assert Child(folder, name).wait() == 0
        assert seen(folder) == name


def kill(folder: Path, number: int, count: int, usual: float, source: random.Random) -> list[str]:
    """Kill the ingestion at a moment spread over its whole run; the next one repairs what it left."""
    victim = Child(folder, "AB"[number // 4 % 2])
    if number % 4 == 3:  # now and then one finishes, so that the killed ones meet either set
        victim.wait()
        return [f"{seen(folder)}, finished"]
    time.sleep(usual * source.random() * 1.5)
    os.kill(victim.pid, signal.SIGKILL)
    code = victim.wait()
    return [f"{seen(folder)}, {'killed' if code < 0 else 'finished'}"]


def limit(folder: Path, number: int, count: int, usual: float, source: random.Random) -> list[str]:
    """Let every write beyond a size fail, a size that grows from nothing to enough."""
    before = seen(folder)
    code = Child(folder, "B" if before == "A" else "A", file_limit=int(160_000 * (number % count) / count)).wait()
    after = seen(folder)
    assert (after != before) == (code == 0), (before, after, code)
    return [f"exit {code}"]


def full(folder: Path, number: int, count: int, usual: float, source: random.Random) -> list[str]:
    """Fill a small file system until so much is left, from nothing to enough."""
    before = seen(folder)
    filler = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    leave = int(700_000 * (number % count) / count)
    with filler.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(free - leave, 1))
    code = Child(folder, "B" if before == "A" else "A").wait()
    after = seen(folder)
    filler.unlink()
    assert code in (0, 74), code
    assert (after != before) == (code == 0), (before, after, code)
    return [f"exit {code}"]


def rival(folder: Path, number: int, count: int, usual: float, source: random.Random) -> list[str]:
    """Start two ingestions at once and read all the while: one gives way, readers see whole sets."""
    rivals = [Child(folder, name) for name in ("AB" if number % 2 else "BA")]
    found = []
    running = {r.pid: r for r in rivals}
    codes = []
    while running:
        found.append(seen(folder))
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes.append(os.waitstatus_to_exitcode(status))
                del running[pid]
    assert set(codes) <= {0, 74}, codes
    assert 0 in codes, codes
    return [*found, *(f"exit {code}" for code in codes)]


def on_small_disk(folder: Path, count: int) -> subprocess.CompletedProcess[str]:
    """Run the kind `full` on a file system of 4 MB, in a mount namespace of its own."""
    script = (
        f"mount -t tmpfs -o size=4m none {folder} && exec {sys.executable} -m tests.ingest.faults full {folder} {count}"
    )
    return subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script], capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    main()
