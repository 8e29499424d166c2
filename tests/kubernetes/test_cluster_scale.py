"""Many runs at once against a real API server: with pods played by the test, and in real pods."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster.client import Api
from tests.kubernetes.cluster import Space, kubectl, new_space, until
from tests.kubernetes.played import STEPS, Player, make_runs
from tests.kubernetes.rendering import REPOSITORY
from tests.kubernetes.test_cluster import quick

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
RUNS = int(os.environ.get("AIOS_TEST_SCALE_RUNS", "200"))
REAL = int(os.environ.get("AIOS_TEST_REAL_RUNS", "20"))


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


class Conducting:
    """A conductor in a process of its own, and what it last told."""

    def __init__(self, namespace: str, release: str) -> None:
        command = [sys.executable, "-m", "tests.kubernetes.conducting", namespace, release, ",".join(STEPS)]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        self.told: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def tell(self) -> dict[str, Any]:
        """Ask it what it has taken so far."""
        before = len(self.told)
        self.process.send_signal(signal.SIGUSR1)
        until(lambda: len(self.told) > before, 60, 0.02)
        return self.told[-1]


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[18]


def server_metric(api: Api, name: str) -> float:
    """Return the sum of a metric of the API server."""
    text = b"".join(api.stream("/metrics")).decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))


def test_two_hundred_runs_have_a_conductor_each(space: Space) -> None:
    """200 runs of five Jobs, pods played: all succeed, no step twice, each conductor under 100 MB, p95 under 1 s."""
    names = [f"played-{number:03d}" for number in range(RUNS)]
    began = time.monotonic()
    make_runs(space.api, names)
    made_s = time.monotonic() - began
    player = Player(space.namespace)
    player.start()
    conductors = [Conducting(space.namespace, name) for name in names]
    try:
        until(lambda: len(player.released) == 2 * RUNS, 600, 1)  # two steps need nothing before them
        started_s = time.monotonic() - began - made_s
        time.sleep(10)  # whatever they say about their first step is written by then
        before, rest_began = [c.tell() for c in conductors], time.monotonic()
        time.sleep(30)
        after, rested_s = [c.tell() for c in conductors], time.monotonic() - rest_began
        cpu, calls, play_began = server_metric(space.api, "process_cpu_seconds_total"), sum_of(after), time.monotonic()
        player.hold.set()
        until(lambda: all(c.process.poll() is not None for c in conductors), 1200, 1)
        played_s = time.monotonic() - play_began
        cpu = server_metric(space.api, "process_cpu_seconds_total") - cpu
    finally:
        for conductor in conductors:
            conductor.process.kill()
    last = [c.told[-1] for c in conductors]
    assert {told["outcome"] for told in last} == {"succeeded"}
    assert {len(seen) for seen in player.released.values()} == {1}
    assert len(player.released) == RUNS * len(STEPS)
    reconcile = [seconds for told in last for seconds in told["reconcile_s"]]
    reaction = [
        player.released[f"{name}-{step}"][0] - max(player.ended[f"{name}-{before}"] for before in needs)
        for name in names
        for step, needs in (("rm", STEPS[:2]), ("dpo", ["rm"]), ("evaluation", ["dpo"]))
    ]
    per_run = [told["requests"] - told["watches"] for told in last]
    at_rest = (sum_of(after) - sum_of(before)) / RUNS / (rested_s / 60)
    rate = (sum_of(last) - calls) / played_s
    memory = [told["rss_mb"] for told in last]
    median = statistics.median
    print(f"""
{RUNS} runs, {RUNS * len(STEPS)} Jobs: made in {made_s:.0f} s, all conductors at work after {started_s:.0f} s
memory of a conductor: median {median(memory):.1f} MB, max {max(memory):.1f} MB
processor of a conductor: median {median(told["cpu_s"] for told in last):.2f} s over its life
reconcile, {len(reconcile)} times: median {median(reconcile) * 1000:.1f} ms, p95 {p95(reconcile) * 1000:.1f} ms
Job ended -> next released: median {median(reaction):.3f} s, p95 {p95(reaction):.3f} s, max {max(reaction):.3f} s
calls of a run besides watches: median {median(per_run)}, max {max(per_run)}
at rest: {at_rest:.2f} calls a minute and run, over {rested_s:.0f} s
while all {RUNS} ran to their end in {played_s:.0f} s: {rate:.1f} calls/s, API server {cpu / played_s:.2f} cores
extrapolated to 1000 runs ending at the same pace: {rate * 1000 / RUNS:.0f} calls/s, {2 * 1000} watches""")
    assert max(memory) <= 100
    assert p95(reconcile) < 1
    assert at_rest <= 2


def sum_of(told: list[dict[str, Any]]) -> int:
    """Return the requests besides watches of all conductors."""
    return sum(one["requests"] - one["watches"] for one in told)


def test_twenty_runs_at_once_in_real_pods(space: Space) -> None:
    """20 runs installed at once all succeed, and each of their steps ran once."""
    names = [f"many-{number:02d}" for number in range(REAL)]
    for name in names:
        space.install(name, *quick(name))
    began = time.monotonic()
    for name in names:
        assert space.wait(name, 1800) == "succeeded"
        for step in ("ingest", "fetch-model"):
            pods = space.pods(f"app.kubernetes.io/instance={name},aios-alignment/step={step}")
            attempts = [path.name for path in (space.folder / f"artifacts/runs/{name}/steps/{step}").iterdir()]
            assert (len(pods), attempts) == (1, ["attempt-1"])
    print(f"\n{REAL} runs at once, two steps each: {time.monotonic() - began:.0f} s after the last was installed")
    assert kubectl("-n", space.namespace, "get", "pods", "-o", "name").count("pod/") == 3 * REAL
