"""What the pods of a run may do, asked of the pods themselves on a real cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.cluster.client import Object
from tests.kubernetes.cluster import Space, kubectl, new_space, until
from tests.kubernetes.rendering import violations

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

STEPS = ("ingest", "rm", "dpo", "evaluation")
# Runs in place of a step's command, in the step's own image and pod spec; standard library only.
PROBE = """
import json, os, pathlib
def writes(folder):
    try:
        path = pathlib.Path(folder) / "probe"
        path.write_text("x")
        path.unlink()
        return True
    except OSError:
        return False
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
tokens = [str(path) for root in ("/var/run/secrets", "/run/secrets") for path in pathlib.Path(root).rglob("token")]
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": status["NoNewPrivs"] == "1", "seccomp": status["Seccomp"] == "2", "token": bool(tokens),
    "writes": [folder for folder in ("/", "/etc", "/usr", "/opt/aios/code", "/root", "/var", "/tmp", "/workspace")
               if writes(folder)],
}))
"""


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


def probe(space: Space, job: Object, name: str) -> dict[str, object]:
    """Start the pod that a Job would, with the probe as its command, and return what it found."""
    spec = dict(job["spec"]["template"]["spec"])
    spec["containers"] = [spec["containers"][0] | {"command": ["python3", "-c", PROBE], "args": []}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    command = ["kubectl", "-n", space.namespace, "apply", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(pod), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    until(lambda: space.api.get(space.api.path("pods", name))["status"]["phase"] in ("Succeeded", "Failed"), 300)
    found: dict[str, object] = json.loads(kubectl("-n", space.namespace, "logs", name))
    return found


def test_pods_can_write_their_volumes_and_nothing_else(space: Space) -> None:
    """Each step's pod spec and image: uid 10001, no capability, no token, no part of the root writable."""
    space.install("look", "conductor.enabled=false")
    expected = {
        "uid": 10001,
        "gid": 10001,
        "capabilities": 0,
        "no_new_privileges": True,
        "seccomp": True,
        "token": False,
    }
    for step in STEPS:
        found = probe(space, space.job(f"look-{step}"), f"probe-{step}")
        assert found == expected | {"writes": ["/tmp", "/workspace"]}, step


def test_the_conductor_has_a_token_and_no_volume(space: Space) -> None:
    """The one pod that speaks to the API may write its /tmp only."""
    space.install("look", "steps.ingest.args.input=[nowhere.jsonl]")
    found = probe(space, space.job("look-conductor"), "probe-conductor")
    assert (found["uid"], found["capabilities"], found["token"]) == (10001, 0, True)
    assert found["writes"] == ["/tmp"]


def test_the_namespace_enforces_restricted_and_every_pod_that_ran_is(space: Space) -> None:
    """The API server refuses a plain pod here; those of a run to the verdict were all let in, none with a token."""
    plain = ["kubectl", "-n", space.namespace, "run", "plain", "--image=localhost/pause:1", "--dry-run=server"]
    refused = subprocess.run(plain, capture_output=True, text=True)
    assert refused.returncode
    assert "violates PodSecurity" in refused.stderr
    space.install("run")
    assert space.wait("run", 1200) == "succeeded"
    pods = space.pods("app.kubernetes.io/instance=run")
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == {*STEPS, "conductor"}
    for pod in pods:
        assert violations(pod["spec"]) == []
        mounts = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
        token = any("serviceaccount" in path for path in mounts)
        assert token is (pod["metadata"]["labels"]["app.kubernetes.io/component"] == "conductor")
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
