"""Runs whose pods are played: real Jobs, pods and statuses in a real API server, but no container ever starts.

The Jobs carry `managedBy`, so the Job controller leaves them alone; the pods name a scheduler that nobody is. The
player does what controller, scheduler and kubelet would: it makes a pod for a released Job and writes how it goes.
"""

from __future__ import annotations

import copy
import json
import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from k8s import helm
from k8s import values as run_values
from k8s.cluster.client import Api, Object
from k8s.cluster.config import connect

STEPS = ("fetch-model", "ingest", "rm", "dpo", "evaluation")
_NAME = "played-000"


def new_api(namespace: str) -> Api:
    """Return a client of its own."""
    return Api(connect(namespace=namespace))


def stamp() -> str:
    """Return the time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def make_runs(api: Api, names: Iterable[str]) -> None:
    """Make the Jobs and the status of each run, as the chart renders them; that of the conductor is idle."""
    values = run_values.compose("kind-cpu", name=_NAME, inputs=["training_data/export.jsonl"])
    text = helm.template(_NAME, values, namespace=api.namespace)
    template = json.dumps([d for d in yaml.safe_load_all(text) if d and d["kind"] in ("Job", "ConfigMap")])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _make(api, json.loads(template.replace(_NAME, name))), names))


def _make(api: Api, documents: list[Object]) -> None:
    for document in documents:
        kind = {"Job": "jobs", "ConfigMap": "configmaps"}[document["kind"]]
        if kind == "jobs":
            document["spec"]["managedBy"] = "aios-alignment.test/player"
        api.create(api.path(kind), document)


class Player(threading.Thread):
    """Plays the pods of all Jobs of a namespace that are released; `hold` keeps steps from ending."""

    def __init__(self, namespace: str, *, step_s: tuple[float, float] = (2.0, 12.0), fail: str = "") -> None:
        super().__init__(daemon=True)
        self.api, self.step_s, self.fail = new_api(namespace), step_s, fail
        self.hold = threading.Event()
        self.released: dict[str, list[float]] = {}
        """Job -> when this machine saw it released; more than once would be a step that was repeated."""
        self.ended: dict[str, float] = {}
        """Job -> when the API server had taken its end."""
        self._pool = ThreadPoolExecutor(64)
        self._suspended: dict[str, bool] = {}

    def run(self) -> None:
        """Watch the Jobs."""
        listed = self.api.get(self.api.path("jobs"))
        for job in listed["items"]:
            self._see(job)
        version = listed["metadata"]["resourceVersion"]
        while True:
            for event in self.api.watch(self.api.path("jobs"), resourceVersion=version, timeoutSeconds=3000):
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._see(event["object"])

    def _see(self, job: Object) -> None:
        name, suspended = job["metadata"]["name"], bool(job["spec"].get("suspend"))
        if self._suspended.get(name, True) and not suspended and not name.endswith("-conductor"):
            self.released.setdefault(name, []).append(time.monotonic())
            self._pool.submit(self._play, copy.deepcopy(job))
        self._suspended[name] = suspended

    def _play(self, job: Object) -> None:
        try:
            self._live(job)
        except Exception as exc:
            print(f"the player stumbled over {job['metadata']['name']}: {exc!r}")
            raise

    def _live(self, job: Object) -> None:
        api, name, started = self.api, job["metadata"]["name"], stamp()
        template = job["spec"]["template"]
        labels = template["metadata"]["labels"] | {"job-name": name, "batch.kubernetes.io/job-name": name}
        metadata = {"name": f"{name}-{random.randrange(16**5):05x}", "labels": labels}
        spec = template["spec"] | {"schedulerName": "nobody"}
        pod = api.create(api.path("pods"), {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self._pod(pod, {"phase": "Running", "startTime": started}, {"running": {"startedAt": started}})
        time.sleep(random.uniform(*self.step_s))
        self.hold.wait()
        failed = bool(self.fail) and name.endswith(self.fail)
        said = {"state": "failed", "exit_code": 65, "message": "bad data"} if failed else {
            "state": "succeeded", "exit_code": 0, "manifest_sha256": "0" * 64}  # fmt: skip
        end = {"exitCode": said["exit_code"], "startedAt": started, "finishedAt": stamp(), "message": json.dumps(said)}
        self._pod(pod, {"phase": "Failed" if failed else "Succeeded"}, {"terminated": end})
        kinds = ("FailureTarget", "Failed") if failed else ("SuccessCriteriaMet", "Complete")
        status: dict[str, Any] = {
            "startTime": started,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": stamp()} for kind in kinds],
        }
        status |= {"failed": 1} if failed else {"succeeded": 1, "completionTime": stamp()}
        api.patch(f"{api.path('jobs', name)}/status", {"status": status})
        self.ended[name] = time.monotonic()

    def _pod(self, pod: Object, status: dict[str, Any], state: dict[str, Any]) -> None:
        container = {"name": "step", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
        path = f"{self.api.path('pods', pod['metadata']['name'])}/status"
        self.api.patch(path, {"status": status | {"containerStatuses": [container]}})


def write_kubeconfig(folder: Path, server: str, token: str, namespace: str) -> Path:
    """Write the kubeconfig of somebody with a token."""
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "a",
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": namespace}}],
                "clusters": [{"name": "a", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "a", "user": {"token": token}}],
            }
        )
    )
    return path
