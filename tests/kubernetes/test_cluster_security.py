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


CANARY = "canary-7c1d9f3e5b"
TELL = """
import os, pathlib, sys
print("stdout", os.environ["MY_CANARY"])
print("stderr", os.environ["MY_CANARY"], file=sys.stderr, flush=True)
os.write(1, b"native " + os.environ["MY_CANARY"].encode() + b"\\n")
from jobs.contract.child import report_result
report_result(exit_code=65, message="refused: " + os.environ["MY_CANARY"])
sys.exit(65)
"""


def test_a_canary_appears_nowhere(space: Space) -> None:
    """A step that prints and reports its secret: it is in no log, object, event, status or file of the run."""
    kubectl("-n", space.namespace, "create", "secret", "generic", "birds", f"--from-literal=token={CANARY}")
    space.install_program("leaky", "ingest", TELL, "steps.ingest.secrets=[{env: MY_CANARY, secret: birds, key: token}]")
    assert space.wait("leaky", 300) == "failed"
    pod = space.pods("app.kubernetes.io/instance=leaky,aios-alignment/step=ingest")[0]
    log = kubectl("-n", space.namespace, "logs", pod["metadata"]["name"])
    assert [line for line in log.splitlines() if "[hidden]" in line] == [
        f"{channel} [hidden]" for channel in ("stdout", "stderr", "native")
    ]
    message = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert json.loads(message)["message"] == "refused: [hidden]"
    kinds = "pods,jobs,configmaps,events,serviceaccounts,roles,rolebindings"
    objects = kubectl("-n", space.namespace, "get", kinds, "-o", "yaml")
    files = [path.read_bytes() for path in space.folder.rglob("*") if path.is_file()]
    assert any(b"[hidden]" in content for content in files)
    for place in (log, message, objects, json.dumps(space.state("leaky"))):
        assert CANARY not in place
    assert not any(CANARY.encode() in content for content in files)


PEEK = """
import json, os, pathlib, ssl, urllib.error, urllib.request
found = sorted(str(path) for path in pathlib.Path("/workspace").rglob("*") if path.is_file())
try:
    address = "https://10.96.0.1/api/v1/namespaces/{namespace}/secrets"
    answer = urllib.request.urlopen(address, context=ssl._create_unverified_context(), timeout=20).status
except urllib.error.HTTPError as exc:
    answer = exc.code
except OSError as exc:
    answer = str(exc)
writes = {{}}
for folder in ("artifacts", "training_data", "artifacts/base", "training_data/exports/mine"):
    try:
        (pathlib.Path("/workspace") / folder / "probe").write_text("x")
        writes[folder] = True
    except OSError:
        writes[folder] = False
print(json.dumps({{"found": found, "api": answer, "writes": writes}}))
"""


def test_an_isolated_step_sees_its_own_run_and_cannot_use_the_api(space: Space) -> None:
    """With isolation the folders of another run are not there; what runs share is read-only; the API says no."""
    space.folder.chmod(0o777)  # the kubelet makes the folders of a run with the mode of the volume's root
    other = space.folder / "isolated/other/artifacts/rm/theirs"
    other.mkdir(parents=True)
    for path in (
        other / "model.safetensors",
        space.folder / "artifacts/rm.txt",
        space.folder / "training_data/x.jsonl",
    ):
        path.write_text("of another run")
    exports = space.folder / "training_data/exports/mine"
    exports.mkdir(parents=True)
    (exports / "export.jsonl").write_text("{}")
    space.install_program("mine", "ingest", PEEK.format(namespace=space.namespace), "workspace.isolation=run")
    space.wait("mine", 300)
    pod = space.pods("app.kubernetes.io/instance=mine,aios-alignment/step=ingest")[0]["metadata"]["name"]
    seen = json.loads(kubectl("-n", space.namespace, "logs", pod).splitlines()[0])
    assert seen["api"] in (401, 403)
    shared = ("/workspace/artifacts/base/", "/workspace/artifacts/runs/mine/", "/workspace/training_data/exports/mine/")
    assert [path for path in seen["found"] if not path.startswith(shared)] == []
    assert "/workspace/artifacts/base/tiny/model.safetensors" in seen["found"]
    assert "/workspace/training_data/exports/mine/export.jsonl" in seen["found"]
    assert seen["writes"] == {
        "artifacts": True, "training_data": True, "artifacts/base": False, "training_data/exports/mine": False,
    }  # fmt: skip
    assert (space.folder / "isolated/mine/artifacts/runs/mine/run.json").exists()


def test_a_planted_link_is_followed_by_nobody(space: Space) -> None:
    """An export and an output folder that somebody planted as links: the step ends at once, and the status says why."""
    outside = "/etc"
    export, target = space.folder / "training_data/planted.jsonl", space.folder / "training_data/curated_datasets"
    export.symlink_to(f"{outside}/passwd")
    target.mkdir()
    (target / "written").symlink_to("/tmp")
    for name, setting in (
        ("reads", "steps.ingest.args.input=[training_data/planted.jsonl]"),
        ("writes", "run.dataset=written"),
    ):
        space.install(name, setting, *(f"steps.{step}.enabled=false" for step in ("rm", "dpo", "evaluation")))
        assert space.wait(name, 300) == "failed"
        step = space.state(name)["steps"]["ingest"]
        assert "leads out of the workspace" in step["attempts"][-1]["message"]
        assert "root:" not in json.dumps(step)
        assert len(step["attempts"]) == 1
