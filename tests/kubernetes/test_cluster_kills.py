"""The launcher is killed at random moments: no run is lost, and what was cut short says how to go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.kubernetes.cluster import Space, new_space
from tests.kubernetes.rendering import REPOSITORY, helm
from tests.kubernetes.test_cluster_cli import ends, options, quick_values
from tests.runs.helpers import Cli

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("AIOS_TEST_LAUNCHER_KILLS", "20"))


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path / "values") as made:
        yield made


def submit(name: str, values: Path, space: Space, folder: Path) -> subprocess.Popen[str]:
    """Start `submit --follow` as the leader of a process group of its own."""
    command = [sys.executable, "-m", "jobs.cli", "jobs", "submit", *options(space, values), "--follow"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def brought_to_its_end(cli: Cli, name: str, values: Path, space: Space) -> str:
    """Do what a person would do next, as the messages say, until the run has succeeded; returns what was needed."""
    where, needed = options(space, values), []
    for _ in range(4):
        said = cli("jobs", "status", name, *where, code=None)
        if "no run" in said:
            said = cli("jobs", "submit", *where, code=None)
            needed.append("submit")
            if "was cut short before" in said:
                helm("uninstall", name, "--namespace", space.namespace)
                needed.append("uninstall")
            continue
        ended = cli("jobs", "status", name, "-n", space.namespace, "--wait", code=None)
        if "succeeded" in ended:
            return "+".join(needed) or "nothing"
        cli("jobs", "resume", name, *where)
        needed.append("resume")
    pytest.fail(f"{name}: {needed} did not help; {ended}")


def test_the_launcher_is_killed_at_random_moments(space: Space, tmp_path: Path) -> None:
    """Killed alone or with the helm that it runs, at any time until the run's end: all runs succeed, no step twice."""
    cli, elsewhere = Cli(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    names, values, died, whole = [], {}, [], {}
    for number in range(KILLS):
        name = f"kill-{number:02d}"
        names.append(name)
        values[name] = quick_values(space, name)
        process = submit(name, values[name], space, tmp_path)
        moment = random.uniform(0, 6) if number % 2 else random.uniform(0, 12)
        time.sleep(moment)
        whole[name] = number % 4 == 3  # helm is a process of its own, and goes on when its parent dies
        died.append(f"{moment:.1f}{'+helm' if whole[name] else ''}{'' if process.poll() is None else ' (over)'}")
        os.killpg(process.pid, signal.SIGKILL) if whole[name] and process.poll() is None else process.kill()
        process.wait()
    space.releases += [*names, *(f"{name}-r2" for name in names)]
    print(f"\nkilled after seconds: {', '.join(died)}")
    needed = Counter(brought_to_its_end(cli, name, values[name], space) for name in names)
    print(f"needed afterwards: {dict(needed)}")
    for name in names:
        steps = ends(Cli(elsewhere), name, ["-n", space.namespace])  # with only the kubeconfig
        assert {step["state"] for step in steps.values()} <= {"succeeded", "already done"}
        for step in ("ingest", "fetch-model"):
            folder = space.folder / f"artifacts/runs/{name}/steps/{step}"
            states = [orjson.loads((path / "status.json").read_bytes())["state"] for path in folder.glob("attempt-*")]
            assert states.count("succeeded") == 1, (name, step, states)
    for kind in ("pods", "jobs"):
        space.api.delete(f"{space.api.path(kind)}")
    logs = Cli(elsewhere)("jobs", "logs", names[0], "-n", space.namespace)
    assert "published" in logs.lower()
    assert "succeeded" in Cli(elsewhere)("jobs", "status", names[0], "-n", space.namespace)
