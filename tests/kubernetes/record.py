"""Provoke failures on a real cluster and write down what its API says, one file a case, into tests/kubernetes/corpus.

    KUBECONFIG=... python -m tests.kubernetes.record [CASE...]      (all cases without a name)

Needs a cluster that nobody minds (it makes namespaces `corpus-*`, a Node object without a machine, two priority
classes, a RuntimeClass, a policy and a webhook for its own namespaces, and takes them away again), and the launcher's
image on its node (AIOS_TEST_TAG). A registry that refuses is played by an HTTP server on this machine,
which must be the node.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from k8s.cluster.client import Api, ApiError
from k8s.cluster.config import connect
from k8s.cluster.mirror import Mirror
from tests.kubernetes.failures import CASES, NODE, REGISTRY_PORT, Case, cluster_objects

CORPUS = Path(__file__).with_name("corpus")
Object = dict[str, Any]
_STRIPPED = ("managedFields", "resourceVersion", "selfLink", "generateName", "hostIP", "hostIPs", "podIP", "podIPs")


def kubectl(*arguments: str, given: object = None, check: bool = True) -> str:
    """Run kubectl, with objects on its standard input."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": given}) if given else None
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers a pull of NAME:CODE with that status, as a registry would."""

    def handle(self) -> None:
        """Refuse TLS in plain words: the puller of an image on localhost then comes without it."""
        if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
            self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n")
            return
        super().handle()

    def do_GET(self) -> None:
        found = re.search(r"/manifests/(\d+)$", self.path)
        code = int(found[1]) if found else (200 if self.path == "/v2/" else 404)
        name = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}.get(
            code, "UNKNOWN"
        )
        body = json.dumps({"errors": [{"code": name, "message": name.lower()}]}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class LoneNode:
    """A Node object without a machine, kept alive by its lease until it is let die."""

    def __init__(self) -> None:
        self.alive = True
        self.thread = threading.Thread(target=self._beat, daemon=True)
        kubectl("delete", "node", NODE, "--ignore-not-found")
        labels = {"corpus": "lone", "kubernetes.io/hostname": NODE}
        taint = {"key": "corpus", "value": "lone", "effect": "NoSchedule"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": labels},
            "spec": {"taints": [taint]},
        }
        kubectl("create", "-f", "-", given=[node])
        size = {"cpu": "2", "memory": "4Gi", "pods": "10", "ephemeral-storage": "10Gi"}
        self._status({"capacity": size, "allocatable": size})
        self.thread.start()

    def _status(self, status: Object) -> None:
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _stamp()}
        body = json.dumps({"status": {**status, "conditions": [ready]}})
        kubectl("patch", "node", NODE, "--subresource=status", "--type=strategic", "-p", body, check=False)

    def _beat(self) -> None:
        while self.alive:
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                     "metadata": {"name": NODE, "namespace": "kube-node-lease"},
                     "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40,
                              "renewTime": _stamp().replace("Z", ".000000Z")}}  # fmt: skip
            kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=[lease], check=False)
            self._status({})
            time.sleep(10)


def _stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def stripped(thing: Any) -> Any:
    """Leave out what no diagnosis reads."""
    if isinstance(thing, dict):
        return {key: stripped(value) for key, value in thing.items() if key not in _STRIPPED}
    return [stripped(item) for item in thing] if isinstance(thing, list) else thing


class Recorder:
    """Runs one case in a namespace and writes down what came of it."""

    def __init__(self, case: Case, version: str, lone: LoneNode) -> None:
        self.case, self.version, self.lone = case, version, lone
        self.space = f"corpus-{case.name}"
        self.api = Api(connect())
        self.api.namespace = self.space
        self.pods = Mirror(self.api, self.api.path("pods"), "job-name=demo-rm", threading.Event())

    def record(self) -> str:
        """Return a line about the case."""
        case = self.case
        kubectl("create", "namespace", self.space)
        try:
            if case.labels:
                kubectl("label", "namespace", self.space, *[f"{k}={v}" for k, v in case.labels.items()])
            until(lambda: self._exists("serviceaccounts", "default"), 30)
            if case.before:
                kubectl("-n", self.space, "create", "-f", "-", given=case.before(self.space))
                time.sleep(case.warm_up)
            self.pods.start()
            self.pods.ready.wait(30)
            kubectl("-n", self.space, "create", "-f", "-", given=[case.job])
            if case.kills_node == 2:
                until(lambda: "nodeName" in json.dumps(self.look()), case.patience)
                self.lone.alive = False
            if case.act:
                until(lambda: re.search(case.act_when, json.dumps(self.look())), case.patience)
                case.act(self)
            shown = until(lambda: re.search(case.shows, json.dumps(self.look())), case.patience)
            time.sleep(case.settle)
            self.write()
            return f"{case.name}: {'recorded' if shown else 'did not show ' + case.shows}"
        except (RuntimeError, ApiError, TimeoutError) as exc:
            return f"{case.name}: {exc}"
        finally:
            self._clean()

    def _exists(self, kind: str, name: str) -> bool:
        try:
            return bool(self.api.get(self.api.path(kind, name)))
        except ApiError:
            return False

    def look(self) -> Object:
        """Return the case's objects as the API has them, and pods that are gone as it had them last."""
        job = self.api.get(self.api.path("jobs", self.case.job["metadata"]["name"]))
        pods = sorted(
            [*self.pods.gone.values(), *self.pods.objects.values()],
            key=lambda pod: pod["metadata"]["creationTimestamp"],
        )
        claims = self.api.get(self.api.path("persistentvolumeclaims"))["items"]
        events = self.api.get(self.api.path("events"))["items"]
        return {"job": job, "pods": pods, "claims": claims, "events": events}

    def pod(self) -> str:
        """Return the newest pod's name."""
        return str(self.look()["pods"][-1]["metadata"]["name"])

    def write(self) -> None:
        """Write the case's file."""
        found = self.look()
        nodes = [_node(item) for item in self.api.get("/api/v1/nodes")["items"]] if self.case.nodes else []
        document = {
            "case": self.case.name,
            "source": f"recorded on Kubernetes {self.version}",
            "code": self.case.code,
            "says": self.case.says,
            "now": time.time() + self.case.later,
            **stripped(found),
        }
        if nodes:
            document["nodes"] = nodes
        text = json.dumps({k: v for k, v in document.items() if v != []}, indent=1, sort_keys=False)
        (CORPUS / f"{self.case.name}.json").write_text(text + "\n")

    def _clean(self) -> None:
        for pod in self.api.get(self.api.path("pods"))["items"]:
            name = pod["metadata"]["name"]
            kubectl("-n", self.space, "patch", "pod", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}',
                    check=False)  # fmt: skip
        kubectl("-n", self.space, "delete", "jobs", "--all", "--wait=false", check=False)
        kubectl("-n", self.space, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false", check=False)
        kubectl("delete", "namespace", self.space, "--wait=false", check=False)
        for item in self.case.before(self.space) if self.case.before else []:
            if item["kind"] in ("PersistentVolume", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
                                "ValidatingWebhookConfiguration"):  # fmt: skip
                kubectl("delete", item["kind"], item["metadata"]["name"], "--wait=false", check=False)


def _node(item: Object) -> Object:
    """Return what placement reads of a node."""
    conditions = [c for c in item["status"].get("conditions", []) if c["type"] == "Ready"]
    return {
        "metadata": {"name": item["metadata"]["name"], "labels": item["metadata"].get("labels", {})},
        "spec": {k: v for k, v in item["spec"].items() if k in ("taints", "unschedulable")},
        "status": {"allocatable": item["status"].get("allocatable", {}), "conditions": conditions},
    }


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait for something to become true and return it, else the last answer."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def main(wanted: list[str]) -> None:
    """Record all cases, or those named."""
    cases = [case for case in CASES if not wanted or case.name in wanted]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", REGISTRY_PORT), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    CORPUS.mkdir(exist_ok=True)
    kubectl("apply", "-f", "-", given=cluster_objects())
    lone = LoneNode()
    version = Api(connect()).get("/version")["gitVersion"]
    try:
        # Those that let the node die come last, one after the other.
        for number in sorted({case.kills_node for case in cases}):
            group = [case for case in cases if case.kills_node == number]
            lone = lone if lone.alive else LoneNode()
            with ThreadPoolExecutor(int(os.environ.get("AIOS_RECORD_THREADS", "6"))) as pool:
                recorders = [Recorder(case, version, lone) for case in group]
                for line in pool.map(Recorder.record, recorders):
                    print(line, flush=True)
    finally:
        lone.alive = False
        kubectl("delete", "node", NODE, "--ignore-not-found", "--wait=false")
        kubectl("delete", "-f", "-", "--ignore-not-found", given=cluster_objects(), check=False)


if __name__ == "__main__":
    main(sys.argv[1:])
