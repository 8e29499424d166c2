"""The cluster's conductor over every order of what may befall it: deaths, doubles, watches that lag, pods that lie."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.cluster import names
from k8s.cluster.client import Api, ApiError, Object
from k8s.cluster.conduct import Conductor
from k8s.conductor import Outcome

STEPS = ("a", "b", "c", "d")
GRAPHS = ({"b": "a", "c": "a,b", "d": "a,b,c"}, {"b": "a", "c": "a", "d": "b,c"}, {"c": "a,b", "d": "c"})
PROOF = json.dumps({"state": "succeeded", "manifest_sha256": "0" * 64})


class Died(Exception):
    """The conductor's process was killed."""


@dataclass
class Server:
    """What API server and Job controller do with a run's Jobs and pods; every change is in a log, as for watches."""

    needs: dict[str, str]
    jobs: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    log: dict[str, list[dict[str, Object]]] = field(default_factory=lambda: {"jobs": [], "pods": []})
    data: dict[str, str] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    patches_left: int | None = None
    namespace: str = "n"
    has_status: bool = True
    version: int = 0

    def __post_init__(self) -> None:
        for step in STEPS:
            notes = {names.NEEDS: self.needs.get(step, "")}
            self.jobs[f"r-{step}"] = {
                "metadata": {"name": f"r-{step}", "annotations": notes, "resourceVersion": "0"},
                "spec": {"suspend": True},
                "status": {},
            }
        self.changed("jobs")
        self.changed("pods")

    def changed(self, kind: str, item: Object | None = None) -> None:
        self.version += 1
        if item is not None:
            item["metadata"]["resourceVersion"] = str(self.version)
        self.log[kind].append(copy.deepcopy(getattr(self, kind)))

    # What the conductor calls
    def path(self, kind: str, name: str = "") -> str:
        return f"{kind}/{name}" if name else kind

    def get(self, path: str, **query: str) -> Object:
        kind, _, _ = path.partition("/")
        if kind == "configmaps":
            return {"data": dict(self.data)}
        job = query["labelSelector"].removeprefix("job-name=")
        return {"items": [p for p in copy.deepcopy(self.pods).values() if p["metadata"]["labels"]["job-name"] == job]}

    def patch(self, path: str, body: Object) -> Object:
        if self.patches_left is not None:
            if self.patches_left == 0:
                raise Died
            self.patches_left -= 1
        kind, _, name = path.partition("/")
        if kind == "configmaps":
            if not self.has_status:
                raise ApiError(404, "NotFound", f'configmaps "{name}" not found')
            self.data |= body["data"]
            return {}
        job = self.jobs[name]
        if body["metadata"]["resourceVersion"] != job["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        if body.get("spec", {}).get("suspend") is False:
            assert job["spec"]["suspend"], f"{name} was released twice"
            for need in self.before(name):
                assert self.proven(need), f"{name} was released before {need} had succeeded"
            self.releases.append(name)
            job["spec"]["suspend"] = False
        if notes := body["metadata"].get("annotations"):
            assert any(self.lost(need) for need in self.before(name)), f"{name} was skipped for nothing"
            job["metadata"]["annotations"] |= notes
        self.changed("jobs", job)
        return {}

    # The truth
    def before(self, job: str) -> list[str]:
        return [f"r-{need}" for need in self.needs.get(job.removeprefix("r-"), "").split(",") if need]

    def conditions(self, job: str) -> set[str]:
        return {c["type"] for c in self.jobs[job]["status"].get("conditions", [])}

    def proven(self, job: str) -> bool:
        return "Complete" in self.conditions(job) and self.jobs[job].get("truth") is True

    def lost(self, job: str) -> bool:
        lied = "Complete" in self.conditions(job) and not self.proven(job)
        skipped = bool(self.jobs[job]["metadata"]["annotations"].get(names.SKIPPED))
        return lied or skipped or "Failed" in self.conditions(job)

    # What the Job controller and the kubelet do
    def active(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not job["spec"]["suspend"] and not self.conditions(name)]

    def last_pod(self, job: str) -> Object | None:
        mine = [pod for pod in self.pods.values() if pod["metadata"]["labels"]["job-name"] == job]
        return mine[-1] if mine else None

    def work(self, job: str, how: str) -> None:
        """Take a Job a little further: a pod, its start, its end (`how`), the Job's end."""
        pod = self.last_pod(job)
        phase = pod["status"]["phase"] if pod else None
        if pod is None or (phase == "Failed" and not pod.get("final")):
            name = f"{job}-{len(self.pods)}"
            made: Object = {
                "metadata": {"name": name, "labels": {"job-name": job}, "creationTimestamp": self.now()},
                "spec": {"nodeName": "n", "containers": [{"image": "i"}]},
                "status": {"phase": "Pending"},
            }
            self.pods[name] = made
            self.changed("pods", made)
        elif phase == "Pending":
            pod["status"]["phase"] = "Running"
            self.changed("pods", pod)
        elif phase == "Running":
            code = {"succeed": 0, "lie": 0, "retry": 70, "fail": 64}[how]
            message = PROOF if how == "succeed" else ""
            ended = {"terminated": {"exitCode": code, "reason": "Error", "message": message}}
            pod["status"] = {"phase": "Failed" if code else "Succeeded",
                             "containerStatuses": [{"name": "step", "state": ended}]}  # fmt: skip
            pod["final"] = how != "retry"
            self.changed("pods", pod)
        else:
            self.jobs[job]["truth"] = PROOF in str(pod["status"])
            kind = "Complete" if phase == "Succeeded" else "Failed"
            self.jobs[job]["status"]["completionTime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self.jobs[job]["status"]["conditions"] = [{"type": kind, "status": "True", "reason": "", "message": ""}]
            self.changed("jobs", self.jobs[job])

    def collect(self, job: str) -> None:
        """Take away the pods of a Job that has succeeded, as when their node is deleted.

        Not of the last one: nobody after it would notice that nothing was published, so unseen it counts as failed.
        """
        if self.proven(job) and job != f"r-{STEPS[-1]}":
            for name in [n for n, pod in self.pods.items() if pod["metadata"]["labels"]["job-name"] == job]:
                del self.pods[name]
            self.changed("pods")

    def now(self) -> str:
        return f"2026-11-22T20:{self.version // 60 % 60:02}:{self.version % 60:02}Z"


class Mind:
    """A conductor and how far its watches have come."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.conductor = Conductor(cast(Api, server), "r", STEPS, 1e12)
        self.conductor.status = json.loads(server.data.get("state.json", "{}"))
        self.at = {kind: len(log) - 1 for kind, log in server.log.items()}
        self.deliver("jobs", 0)
        self.deliver("pods", 0)

    def knows(self, job: str) -> bool:
        """Tell whether it has written down, or read, that a step succeeded."""
        step = self.conductor.status.get("steps", {}).get(job.removeprefix("r-"), {})
        return bool(step.get("phase") == "succeeded")

    def deliver(self, kind: str, steps: int) -> None:
        log = self.server.log[kind]
        self.at[kind] = min(self.at[kind] + steps, len(log) - 1)
        getattr(self.conductor, kind).objects = copy.deepcopy(log[self.at[kind]])


@settings(max_examples=100, deadline=None)
@given(needs=st.sampled_from(GRAPHS), data=st.data())
def test_no_order_of_deaths_doubles_and_delays_starts_a_step_early_twice_or_never(
    needs: dict[str, str], data: st.DataObject
) -> None:
    """Two conductors whose watches lag each in its own way, killed between any two requests, beside a Job controller
    that retries, fails, and completes pods that lie: a step is released once, after proof of all before it, and when
    all calm down the run has ended with every reachable step done.
    """
    server = Server(dict(needs))
    minds = [Mind(server), Mind(server)]
    draw = data.draw
    for _ in range(draw(st.integers(0, 60), label="events")):
        event = draw(st.sampled_from(["jobs", "pods", "look", "look", "work", "work", "work", "die", "collect"]))
        which = draw(st.integers(0, 1))
        if event in ("jobs", "pods"):
            minds[which].deliver(event, draw(st.integers(1, 4)))
        elif event in ("look", "die"):
            server.patches_left = draw(st.integers(0, 3)) if event == "die" else None
            with contextlib.suppress(Died):
                minds[which].conductor.reconcile()
            server.patches_left = None
            if event == "die":
                minds[which] = Mind(server)
        elif event == "work" and server.active():
            how = draw(st.sampled_from(["succeed"] * 6 + ["retry", "fail", "lie"]))
            server.work(draw(st.sampled_from(server.active())), how)
        elif event == "collect":
            job = draw(st.sampled_from(sorted(server.jobs)))
            if all(mind.knows(job) for mind in minds):
                server.collect(job)
    outcome = _calm_down(server, minds[0])
    lost = {job for job in server.jobs if server.lost(job)}
    assert outcome is (Outcome.FAILED if lost else Outcome.SUCCEEDED)
    assert len(set(server.releases)) == len(server.releases)
    for job in server.jobs:
        assert server.proven(job) or job in lost, f"{job} was never started"
    assert _phases(server) == {job: "failed" for job in lost if job in server.releases} | {
        job: "skipped" for job in lost if job not in server.releases
    }


def test_a_run_whose_status_is_deleted_goes_on_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Without its ConfigMap the run goes to its end and one line says what to do; made again, it is written again."""
    server = Server(dict(GRAPHS[0]), has_status=False)
    mind = Mind(server)
    with caplog.at_level("WARNING", "aios"):
        outcome = _calm_down(server, mind)
    assert outcome is Outcome.SUCCEEDED
    assert len(server.releases) == len(STEPS)
    assert [record.getMessage() for record in caplog.records] == [names.status_gone("r", "n")]
    server.has_status = True
    mind.conductor.reconcile()
    assert json.loads(server.data["state.json"])["phase"] == "succeeded"


def _calm_down(server: Server, mind: Mind) -> Outcome | None:
    """Let everything be seen at once and succeed; returns what the conductor says at the end."""
    outcome = None
    for _ in range(40):
        for kind in ("jobs", "pods"):
            mind.deliver(kind, 10_000)
        outcome = mind.conductor.reconcile()
        for job in server.active():
            server.work(job, "succeed")
    return outcome


def _phases(server: Server) -> dict[str, Any]:
    """Return what the status says of the steps that have not succeeded."""
    steps = json.loads(server.data["state.json"])["steps"]
    return {f"r-{name}": step["phase"] for name, step in steps.items() if step["phase"] != "succeeded"}
