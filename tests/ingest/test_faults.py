"""A kill at any moment, a full disk and a second ingestion leave the old splits or the new ones, never a mixture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the injector forks its children")
COUNT = 50


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: these tests count outcomes, not the disk's fsyncs."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def inject(kind: str, folder: Path) -> dict[str, Any]:
    """Run the injector and return the outcomes it counted."""
    command = [sys.executable, "-m", "tests.ingest.faults", kind, str(folder), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["left"] == []
    return result["outcomes"]


def test_kill_at_any_moment_leaves_a_whole_set(tmp_path: Path) -> None:
    """Fifty kills spread over the run: a reader gets A or B, and the next ingestion sweeps up what was left."""
    outcomes = inject("kill", tmp_path)
    assert {"A", "B"} <= {outcome[0] for outcome in outcomes}
    assert sum(n for outcome, n in outcomes.items() if outcome.endswith("killed")) >= COUNT


def test_write_that_fails_leaves_the_old_set(memory_path: Path) -> None:
    """Fifty failures, at sizes from nothing to enough, beyond which nothing can be written: failed means unchanged."""
    outcomes = inject("limit", memory_path)
    assert sum(n for outcome, n in outcomes.items() if outcome != "exit 0") >= COUNT


def test_full_disk_leaves_the_old_set(tmp_path: Path) -> None:
    """A real full file system, fifty times, with some space or none left: exit 74 and the old set, or the new one."""
    from tests.ingest.faults import on_small_disk

    done = on_small_disk(tmp_path, COUNT)
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("this machine does not let us mount a small file system")
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])["outcomes"]
    assert outcomes.keys() == {"exit 0", "exit 74"}
    assert outcomes["exit 74"] >= COUNT


def test_second_ingestion_gives_way_and_readers_see_whole_sets(memory_path: Path) -> None:
    """Fifty pairs of ingestions into one folder, read all the while: A, B or `being replaced`, and one of them wins."""
    outcomes = inject("rival", memory_path)
    assert outcomes["exit 0"] + outcomes.get("exit 74", 0) == 2 * COUNT
    assert outcomes["exit 0"] >= COUNT
