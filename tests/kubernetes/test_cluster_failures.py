"""Failures on a real cluster, up to the sentence: how soon it comes, what is waited for, what is mended."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster import names
from k8s.cluster.actions import forget_vanished
from k8s.cluster.client import Api, Object
from k8s.cluster.conduct import Conductor
from k8s.cluster.config import connect
from k8s.conductor import Outcome
from k8s.diagnose import diagnose_pod
from tests.kubernetes import failures
from tests.kubernetes.cluster import kubectl, new_space, until
from tests.kubernetes.record import LoneNode
from tests.kubernetes.rendering import helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
PROOF = failures.said(0, state="succeeded", manifest_sha256="a" * 64)


class Place:
    """A namespace in which single Jobs stand for runs of one step, each with a conductor in a thread."""

    def __init__(self, namespace: str) -> None:
        self.api = Api(connect(namespace=namespace))
        self.outcomes: dict[str, Outcome] = {}

    def start(self, run: str, job: Object, deadline_s: float = 1800, **annotations: str) -> None:
        """Make a suspended Job and its status, and conduct it."""
        job = json.loads(json.dumps(job))
        labels = {names.INSTANCE: run, names.RUN: run, names.STEP: "rm"}
        job["metadata"] |= {"name": f"{run}-rm", "labels": labels, "annotations": annotations}
        job["spec"]["suspend"] = True
        job["spec"]["template"]["metadata"]["labels"] = labels
        status = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{run}-status", "labels": labels}}
        fresh = Api(
            self.api.connection
        )  # one that has been idle may find its connection closed, and does not post twice
        fresh.create(self.api.path("configmaps"), status)
        fresh.create(self.api.path("jobs"), job)
        conductor = Conductor(Api(self.api.connection), run, ("rm",), deadline_s)
        conductor.api.namespace = self.api.namespace
        threading.Thread(target=lambda: self.outcomes.update({run: conductor.conduct()}), daemon=True).start()

    def state(self, run: str) -> dict[str, Any]:
        """Return what the conductor wrote about the step."""
        data = self.api.get(self.api.path("configmaps", f"{run}-status")).get("data", {})
        document = json.loads(data.get("state.json", "{}"))
        return dict(document.get("steps", {}).get("rm", {}))

    def code(self, run: str) -> str:
        """Return the code of the present diagnosis."""
        return str(self.state(run).get("diagnosis", {}).get("code", ""))

    def pods(self, run: str) -> list[Object]:
        """Return the run's pods, the oldest first."""
        found = self.api.get(self.api.path("pods"), labelSelector=f"{names.INSTANCE}={run}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A namespace of its own."""
    name = f"aios-fail-{os.getpid()}-{int(time.time() * 10) % 10**6}"
    kubectl("create", "namespace", name)
    made = Place(name)
    until(lambda: "default" in kubectl("-n", name, "get", "serviceaccounts"), 30)
    yield made
    kubectl("-n", name, "delete", "jobs", "--all", "--wait=false", check=False)
    kubectl("delete", "namespace", name, "--wait=false", check=False)


BROKEN: dict[str, tuple[str, Object]] = {
    "image": ("IMAGE_PERMANENT", failures.job(container={"image": "localhost/none:1", "imagePullPolicy": "Never"})),
    "registry": ("IMAGE_TRANSIENT", failures.job(container={"image": "localhost:9/rm:1"})),
    "secret": ("CONFIG", failures.job(container={"env": [
        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "t"}}}]})),
    "label": ("UNSCHEDULABLE", failures.job(nodeSelector={"no": "such"})),
    "memory": ("UNSCHEDULABLE", failures.job(container={"resources": {"requests": {"memory": "900Gi"}}})),
    "claim": ("CONFIG", failures.job(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}])),
    "program": ("CONFIG", failures.job(container={"command": ["aiox"]}, spec={"backoffLimit": 0})),
    "data": ("APP_DATA", failures.job(failures.said(65, message="the file is empty"))),
    "killed": ("OOM_CONTAINER", failures.job("exec python3 -c 'b = bytearray(400 << 20)'")),
    "unproven": ("APP_UNPROVEN", failures.job("exit 0")),
}  # fmt: skip


class Known(threading.Thread):
    """Writes down when the API server first showed a run's failure, and when its status first named it."""

    def __init__(self, api: Api, kind: str) -> None:
        super().__init__(daemon=True)
        self.kind, self.seen = kind, dict[str, float]()
        self.api = Api(api.connection)
        self.api.namespace = api.namespace
        self.start()

    def run(self) -> None:
        path = self.api.path(self.kind)
        version = self.api.get(path)["metadata"]["resourceVersion"]
        for event in self.api.watch(path, resourceVersion=version, timeoutSeconds=1500):
            item = event["object"]
            if event["type"] != "BOOKMARK":
                run, code = self._read(item)
                if code:
                    self.seen.setdefault(f"{run} {code}", time.monotonic())

    def _read(self, item: Object) -> tuple[str, str]:
        run = (item["metadata"].get("labels") or {}).get(names.INSTANCE, "")
        if self.kind == "pods":
            found = diagnose_pod(item)
            return run, found.code if found else ""
        state = json.loads((item.get("data") or {}).get("state.json", "{}"))
        codes = [step["diagnosis"]["code"] for step in state.get("steps", {}).values() if "diagnosis" in step]
        return run, codes[0] if codes else ""


def tell(late: dict[str, float]) -> float:
    """Print what a measurement gave and return its 95th percentile."""
    values = list(late.values())
    p95 = statistics.quantiles(values, n=20)[18]
    print(f"\n{len(late)} failures: median {statistics.median(values):.2f} s, p95 {p95:.2f} s, max {max(values):.2f} s")
    return p95


def test_the_sentence_comes_within_5_seconds(place: Place) -> None:
    """From the moment at which the API knows to the status that names the cause: at most 5 s at the 95th percentile."""
    api_knew, said = Known(place.api, "pods"), Known(place.api, "configmaps")
    time.sleep(1)
    late: dict[str, float] = {}
    for repetition in range(4):
        for kind, (code, job) in BROKEN.items():
            run = f"{kind}-{repetition}"
            place.start(run, job)
            key = f"{run} {code}"
            until(lambda key=key: key in said.seen and key in api_knew.seen, 90, 0.05)
            late[run] = said.seen[key] - api_knew.seen[key]
            kubectl("-n", place.api.namespace, "delete", "job", f"{run}-rm", "--wait=false")
    assert tell(late) <= 5.0


WHOLE: dict[str, tuple[str, str]] = {
    "image": ("IMAGE_PERMANENT", "steps.ingest.image.tag=none"),
    "secret": ("CONFIG", "steps.ingest.secrets=[{env: TOKEN, secret: hub, key: token}]"),
    "label": ("UNSCHEDULABLE", "steps.ingest.nodeSelector={no: such}"),
    "claim": ("CONFIG", "workspace.claim=none"),
    "input": ("APP_DATA", "steps.ingest.args.input=[nowhere.jsonl]"),
}


def test_the_sentence_of_a_whole_run_comes_within_5_seconds(tmp_path: Path) -> None:
    """The same with runs as the chart installs them: the conductor in its pod, our supervisor in the steps."""
    with new_space(tmp_path) as space:
        api_knew, said = Known(space.api, "pods"), Known(space.api, "configmaps")
        time.sleep(1)
        late: dict[str, float] = {}
        for repetition in range(4):
            for kind, (code, setting) in WHOLE.items():
                run = f"{kind}-{repetition}"
                space.install(run, setting)
                key = f"{run} {code}"
                until(lambda key=key: key in said.seen and key in api_knew.seen, 120, 0.05)
                late[run] = said.seen[key] - api_knew.seen[key]
                helm("uninstall", run, "--namespace", space.namespace, "--wait=false")
        assert tell(late) <= 5.0


def test_a_node_that_comes_late_is_waited_for(place: Place) -> None:
    """Half of the startup deadline without a node is no failure (15 of 30 minutes, here 20 of 40 s)."""
    place.start("late-node", failures.job(PROOF, nodeSelector={"aios-late": place.api.namespace}), 40)
    until(lambda: place.code("late-node") == "UNSCHEDULABLE", 30)
    time.sleep(20)
    kubectl("label", "node", "node-1", f"aios-late={place.api.namespace}", "--overwrite")
    try:
        until(lambda: "late-node" in place.outcomes, 60)
    finally:
        kubectl("label", "node", "node-1", "aios-late-")
    assert place.outcomes["late-node"] is Outcome.SUCCEEDED


def test_an_image_that_comes_late_is_waited_for(place: Place) -> None:
    """A registry that does not answer is waited for, beyond the grace that a wrong image gets."""
    late = "localhost/late-" + place.api.namespace + ":1"
    place.start("late-image", failures.job(PROOF, container={"image": late}), 600)
    until(lambda: place.code("late-image") == "IMAGE_TRANSIENT", 60)
    time.sleep(130)
    assert "late-image" not in place.outcomes
    socket = Path("/var/tmp/bare-kubernetes/containerd/containerd.sock")
    if not socket.exists():
        pytest.skip("only where the node's containerd is at hand can an image be put there")
    import subprocess

    tag = ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "tag", failures.IMAGE, late]
    subprocess.run(tag, check=True, capture_output=True)
    until(lambda: "late-image" in place.outcomes, 400)
    assert place.outcomes["late-image"] is Outcome.SUCCEEDED


def test_a_wrong_image_is_given_up_after_its_grace_and_the_cause_stays(place: Place) -> None:
    """Named at once, ended after two minutes, and the status still says why when the pod is gone."""
    began = time.monotonic()
    place.start("wrong-image", BROKEN["image"][1])
    until(lambda: place.code("wrong-image") == "IMAGE_PERMANENT", 30)
    until(lambda: "wrong-image" in place.outcomes, 240)
    assert place.outcomes["wrong-image"] is Outcome.FAILED
    assert time.monotonic() - began >= 115
    state = place.state("wrong-image")
    assert state["diagnosis"]["code"] == "IMAGE_PERMANENT"
    assert "given up after 120 s" in state["diagnosis"]["summary"]
    assert state["phase"] == "failed"


def test_a_step_that_runs_out_of_memory_gets_more_once(place: Place) -> None:
    """64 Mi do not suffice, 96 Mi do: the Job is suspended, changed and let go on, and the failure is not counted."""
    need = "python3 -c 'b = bytearray(75 << 20)' || exit 137; " + PROOF
    place.start("grow", failures.job(need, spec={"backoffLimit": 1}), **{names.GROW_MEMORY: "true"})
    until(lambda: "grow" in place.outcomes, 180)
    job = place.api.get(place.api.path("jobs", "grow-rm"))
    assert place.outcomes["grow"] is Outcome.SUCCEEDED, place.state("grow")
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "96Mi"
    state = place.state("grow")
    assert state["repairs"] == ["tried again, memory raised to 96Mi"]
    assert state["attempts"][0]["code"] == "OOM_CONTAINER"


def test_a_node_with_a_bad_device_is_left_out(place: Place) -> None:
    """After a device fault the next attempt keeps away from that node; with no other node it waits and says so."""
    fault = failures.said(70, message="CUDA error: uncorrectable ECC error encountered")
    place.start("bad-node", failures.job(fault))
    until(lambda: place.state("bad-node").get("repairs"), 90)
    until(lambda: place.code("bad-node") == "UNSCHEDULABLE", 60)
    affinity = place.pods("bad-node")[-1]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    away = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-1"]}
    assert terms == [{"matchExpressions": [away]}]
    assert place.api.get(place.api.path("jobs", "bad-node-rm"))["spec"]["backoffLimit"] == 5


def test_a_hung_step_reaches_the_status_through_its_probe(place: Place) -> None:
    """What the supervisor writes for the probe is the diagnosis while the step hangs, and goes when it moves again."""
    probe = {"exec": {"command": ["/bin/sh", "-c", "! cat /tmp/aios-hung"]}, "periodSeconds": 2, "failureThreshold": 1}
    script = "sleep 3; echo 'hung: no progress for 12 min (median step 2.1 s)' > /tmp/aios-hung; sleep 20; "
    place.start(
        "hangs", failures.job(f"{script} rm /tmp/aios-hung; sleep 20; {PROOF}", container={"readinessProbe": probe})
    )
    until(lambda: place.code("hangs") == "HUNG", 60)
    assert place.state("hangs")["diagnosis"]["summary"] == "no progress for 12 min (median step 2.1 s)"
    until(lambda: not place.code("hangs"), 60)
    until(lambda: "hangs" in place.outcomes, 60)
    assert place.outcomes["hangs"] is Outcome.SUCCEEDED


def supervised(code: str, **environment: str) -> Object:
    """Return a Job whose PID 1 is our supervisor over a line of Python."""
    own = {"AIOS_RUN": "r", "AIOS_STEP": "rm", "AIOS_RUNS_DIR": "/tmp/runs", "AIOS_HEARTBEAT_S": "0.5"} | environment
    probe = {"exec": {"command": ["/bin/sh", "-c", "! cat /tmp/aios-hung"]}, "periodSeconds": 2, "failureThreshold": 1}
    command = ["python3", "-m", "jobs.supervisor", "--", "python3", "-c", code]
    env = [{"name": key, "value": value} for key, value in own.items()]
    resources = {"limits": {"memory": "128Mi"}}
    return failures.job(
        spec={"backoffLimit": 0},
        container={"command": command, "env": env, "readinessProbe": probe, "resources": resources},
    )


def test_the_supervisor_in_a_pod_tells_memory_and_hanging(place: Place) -> None:
    """As PID 1 of a real container: a killed child is want of memory with its peak, a silent one hangs."""
    hungry = supervised("b = bytearray(400 << 20)", AIOS_GROW_MEMORY="1")
    place.start("hungry", hungry)
    place.start("silent", supervised("import time; time.sleep(60)", AIOS_HANG_AFTER_S="2"))
    until(lambda: place.code("silent") == "HUNG", 60)
    assert "no step was finished yet" in place.state("silent")["diagnosis"]["summary"]
    until(lambda: "hungry" in place.outcomes, 90)
    attempt = place.state("hungry")["attempts"][-1]
    assert (attempt["exit_code"], attempt["code"]) == (137, "OOM_CONTAINER")
    assert "limit 128Mi" in place.state("hungry")["diagnosis"]["summary"]


@pytest.mark.parametrize("how", ["evict", "delete"])
def test_a_pod_that_traps_sigterm_and_exits_0_is_no_success(place: Place, how: str) -> None:
    """Its Job is complete and the pod gone, but nothing was published: the run fails, and says what befell the pod."""
    run = f"trap-{how}"
    place.start(run, failures.job(failures.TRAP))
    pod = until(lambda: next((p for p in place.pods(run) if p["status"].get("phase") == "Running"), None), 60)
    name = pod["metadata"]["name"]
    time.sleep(1)
    if how == "evict":
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        place.api.create(f"{place.api.path('pods', name)}/eviction", body)
    else:
        place.api.delete(place.api.path("pods", name))
    until(lambda: run in place.outcomes, 120)
    assert place.outcomes[run] is Outcome.FAILED
    assert place.code(run) == ("DRAINED" if how == "evict" else "USER_DELETED")


def test_a_pod_on_a_node_that_vanished_is_named_and_forgotten_on_request(place: Place) -> None:
    """No replacement comes for it; the sentence has the commands, and who is sure may have it forgotten."""
    lone = LoneNode()
    try:
        place.start("vanished", failures.job(**failures.ON_LONE))
        pod = until(lambda: next((p for p in place.pods("vanished") if p["spec"].get("nodeName")), None), 60)
        place.api.delete(place.api.path("pods", pod["metadata"]["name"]), gracePeriodSeconds=1)
        until(lambda: place.code("vanished") == "ZOMBIE_TERMINATING", 200)
        said = place.state("vanished")["diagnosis"]["resolution"]
        assert f"kubectl delete pod {pod['metadata']['name']}" in said
        assert "aios jobs resume vanished --force" in said
        assert len(place.pods("vanished")) == 1
        assert forget_vanished(place.api, "vanished") == [pod["metadata"]["name"]]
        until(lambda: [p for p in place.pods("vanished") if p["metadata"]["name"] != pod["metadata"]["name"]], 60)
    finally:
        lone.alive = False
        kubectl("delete", "node", failures.NODE, "--ignore-not-found", "--wait=false")


def test_the_conductor_s_own_rights_suffice_and_reach_no_further(tmp_path: Path) -> None:
    """With the token of its account alone it names what only events tell; it may do nothing else."""
    with new_space(tmp_path) as space:
        quota = ["create", "quota", "small", "--hard=limits.memory=1Mi"]  # no pod comes, its own neither
        kubectl("-n", space.namespace, *quota)
        space.install("rights")
        account = f"system:serviceaccount:{space.namespace}:rights-conductor"
        refused = ["delete pods", "create pods", "create jobs", "patch jobs", "get secrets", "get nodes"]
        for verb, kind in (question.split() for question in [*refused, "list persistentvolumeclaims"]):
            answer = kubectl("-n", space.namespace, "auth", "can-i", verb, kind, f"--as={account}", check=False)
            assert answer.strip() == "no", f"{verb} {kind}"
        token = kubectl("-n", space.namespace, "create", "token", "rights-conductor").strip()
        api = Api(replace(space.api.connection, token=lambda: token, namespace=space.namespace))
        conductor = Conductor(api, "rights", ("ingest", "rm", "dpo", "evaluation"), 1800)
        threading.Thread(target=conductor.conduct, daemon=True).start()
        found = until(lambda: space.state("rights").get("steps", {}).get("ingest", {}).get("diagnosis"), 60)
        assert found["code"] == "UNSCHEDULABLE"
        assert "the quota small has no room" in found["summary"]
        assert any("exceeded quota" in line for line in found["evidence"])
