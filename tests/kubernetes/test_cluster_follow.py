"""Following a run over broken connections: nothing is lost, shown twice, or taken for a failure; and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.backends import Cluster
from k8s.cluster.client import Api, Object
from k8s.cluster.logs import pod_lines
from k8s.cluster.mirror import Mirror
from tests.kubernetes.cluster import Space, new_space, until
from tests.kubernetes.conducting import Counted
from tests.kubernetes.played import STEPS, Player, make_runs, new_api, write_kubeconfig
from tests.kubernetes.proxy import Proxy
from tests.kubernetes.rendering import REPOSITORY
from tests.kubernetes.test_cluster_scale import Conducting, p95

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
TAG = os.environ.get("AIOS_TEST_TAG", "0.1.0-cpu")


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


@pytest.fixture
def proxy(space: Space) -> Iterator[Proxy]:
    """A proxy before the API server."""
    made = Proxy(space.api.connection.server)
    yield made
    made.close()


def proxied(space: Space, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Api:
    """Return a client that goes through the proxy; so does every command that the test starts."""
    token = space.api.connection.token()
    path = write_kubeconfig(folder, proxy.server, token, space.namespace)
    monkeypatch.setenv("KUBECONFIG", str(path))
    return new_api(space.namespace)


def talker(space: Space, name: str, lines: int, per_s: int, width: int) -> None:
    """Start a pod that counts aloud, on both of its channels."""
    script = (
        f"import sys, time\nfor i in range({lines}):\n"
        f"    print(f'line {{i}} ' + 'x' * {width}, file=(sys.stdout, sys.stderr)[i % 7 == 0], flush=True)\n"
        f"    if i % {per_s // 20} == 0: time.sleep(0.05)\n"
    )
    start_pod(space, {"name": name}, script)


def start_pod(space: Space, metadata: Object, script: str) -> None:
    """Start a pod that runs a script, and wait until it runs."""
    container = {
        "name": "step", "image": f"localhost/aios-alignment/launcher:{TAG}", "imagePullPolicy": "Never",
        "command": ["python3", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "containers": [container], "securityContext": security}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    space.api.create(space.api.path("pods"), pod)
    path = space.api.path("pods", metadata["name"])
    until(lambda: space.api.get(path)["status"].get("phase") == "Running", 120)


def numbers(lines: Iterator[str]) -> list[int]:
    """Return what was counted."""
    return [int(line.split()[1]) for line in lines]


def test_logs_survive_cuts(space: Space, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """30 s of log through a proxy that cuts and refuses connections all the time: every line once, also to the end."""
    api = proxied(space, proxy, monkeypatch, tmp_path)
    talker(space, "talker", 12_000, 400, 60)
    proxy.cut_again_and_again((0.2, 2.0), down_s=1.0)
    found = numbers(pod_lines(api, "talker", follow=True))
    print(f"\n{proxy.cuts} connections cut, {len(found)} lines, {api.calls} requests")
    assert sorted(found) == list(range(12_000))
    assert proxy.cuts > 20
    whole = numbers(pod_lines(api, "talker", follow=False))
    assert sorted(whole) == list(range(12_000))


def test_logs_survive_rotation(space: Space) -> None:
    """A follower gets every line once of a log that is three times as long as the kubelet keeps in one file."""
    lines = 150_000
    talker(space, "talker", lines, 4_000, 200)
    found = numbers(pod_lines(space.api, "talker", follow=True))
    print(f"\n{len(found)} lines, {lines * 260 / 1e6:.0f} MB on the node, {len(set(found))} different ones")
    assert len(found) == len(set(found))
    assert set(found) == set(range(lines))


def test_a_mirror_lists_again_when_the_server_has_forgotten_its_position(space: Space) -> None:
    """A position that is too old (410) makes the mirror list again; what happened meanwhile is there."""
    changed = threading.Event()
    mirror = Mirror(space.api, space.api.path("configmaps"), "test=mirror", changed)
    mirror._version = "1"  # long compacted or, where not, before every change
    mirror.start()
    document = {"metadata": {"name": "late", "labels": {"test": "mirror"}}, "data": {}}
    space.api.create(space.api.path("configmaps"), document)
    until(lambda: "late" in mirror.objects, 30)


def follow(space: Space, run: str, *options: str) -> subprocess.Popen[str]:
    """Start `aios jobs status RUN -w` in a process of its own."""
    command = [sys.executable, "-m", "jobs.cli", "jobs", "status", run, "-w", "-n", space.namespace, *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_follower_never_takes_a_cut_for_a_failure(
    space: Space, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`status -w` through a server that goes away again and again ends with 0 once the run has succeeded."""
    make_runs(space.api, ["cut"])
    player = Player(space.namespace, step_s=(4.0, 6.0))
    player.hold.set()
    player.start()
    conductor = Conducting(space.namespace, "cut")
    proxied(space, proxy, monkeypatch, tmp_path)
    process = follow(space, "cut")
    time.sleep(3)
    proxy.cut_again_and_again((0.2, 3.0), down_s=4.0)
    out, _ = process.communicate(timeout=300)
    print(f"\n{proxy.cuts} connections cut\n{out}")
    assert process.returncode == 0
    assert "failed" not in out
    assert out.rstrip().endswith("succeeded")
    conductor.process.wait(60)


def test_a_failed_step_shows_within_a_second(space: Space) -> None:
    """From the API server's answer that a step has failed to the line of `status -w`: at most 1 s at p95 of 20."""
    names = [f"fails-{number:02d}" for number in range(20)]
    make_runs(space.api, names)
    player = Player(space.namespace, step_s=(1.0, 3.0), fail="-fetch-model")
    player.hold.set()
    player.start()
    shown: dict[str, float] = {}

    def read(name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("fetch-model: failed"):
                shown.setdefault(name, time.monotonic())

    for some in range(0, len(names), 4):  # four at a time: it is their reaction that is measured, not their start
        followers = {name: follow(space, name) for name in names[some : some + 4]}
        readers = [threading.Thread(target=read, args=pair) for pair in followers.items()]
        for reader in readers:
            reader.start()
        time.sleep(8)
        for name in followers:
            space.api.patch(space.api.path("jobs", f"{name}-fetch-model"), {"spec": {"suspend": False}})
        until(lambda: len(shown) == some + len(followers), 60)  # noqa: B023  asked at once
        for process in followers.values():
            process.kill()
    late = [shown[name] - player.ended[f"{name}-fetch-model"] for name in names]
    print(
        f"\nfailed -> shown, {len(late)} times: mid {sorted(late)[10]:.3f} s, p95 {p95(late):.3f}, max {max(late):.3f}"
    )
    assert p95(late) <= 1.0


def test_a_run_at_rest_costs_almost_no_calls(space: Space) -> None:
    """Conductor, `status -w` and `logs -f` of a run in which nothing happens: at most 2 calls a minute in all."""
    make_runs(space.api, ["rest"])
    conductor = Conducting(space.namespace, "rest")
    until(lambda: not space.job("rest-fetch-model")["spec"]["suspend"], 60)
    labels = space.job("rest-fetch-model")["spec"]["template"]["metadata"]["labels"]
    start_pod(
        space,
        {"name": "rest-fetch-model-pod", "labels": labels | {"job-name": "rest-fetch-model"}},
        "import time; print('now nothing happens', flush=True); time.sleep(3600)",
    )
    place = Cluster(None, space.namespace)
    place.api = Counted(place.api.connection)
    look = place.look("rest")
    threading.Thread(target=lambda: list(place.logs("rest", list(STEPS), follow=True)), daemon=True).start()
    until(lambda: look().steps[0].state == "running", 60)
    time.sleep(15)
    seconds = float(os.environ.get("AIOS_TEST_REST_S", "330"))  # longer than a watch lasts
    before = [conductor.tell(), {"requests": place.api.calls, "watches": place.api.watches}]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert look().phase == "running"
        time.sleep(0.25)
    after = [conductor.tell(), {"requests": place.api.calls, "watches": place.api.watches}]
    calls, watches = [
        [now[key] - then[key] for then, now in zip(before, after, strict=True)] for key in ("requests", "watches")
    ]
    rest = [call - watch for call, watch in zip(calls, watches, strict=True)]
    print(f"\nin {seconds:.0f} s besides watches: conductor {rest[0]}, followers {rest[1]}; watches begun: {watches}")
    assert sum(rest) / (seconds / 60) <= 2
    conductor.process.kill()
