"""A real cluster for tests: a namespace with a workspace of its own, runs in it, and what happened when."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.contract.errors import AiosError
from k8s import values as run_values
from k8s.cluster.client import Api, Object
from k8s.cluster.config import connect
from tests import tiny
from tests.kubernetes.rendering import CHARTS, REPOSITORY, helm

SAMPLE = REPOSITORY / "training_data" / "sample" / "argilla_export.jsonl"
IMAGES = ["--set=image.pullPolicy=Never", f"--set=image.tag={os.environ.get('AIOS_TEST_TAG', '0.1.0-cpu')}"]
_UID = 10001


def kubectl(*arguments: str, check: bool = True) -> str:
    """Run kubectl and return what it printed."""
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


@dataclass
class Space:
    """One namespace, its workspace folder on the node, and the runs in it."""

    namespace: str
    folder: Path
    api: Api
    values_folder: Path
    releases: list[str] = field(default_factory=list)

    def values(self, name: str, *settings: str, profile: str = "kind-cpu") -> Path:
        """Write the values of a run on the tiny model, as `aios jobs render` would."""
        common = [
            "image.pullPolicy=Never",
            f"image.tag={os.environ.get('AIOS_TEST_TAG', '0.1.0-cpu')}",
            "steps.fetch-model.enabled=false",
            "steps.rm.args.base_model=artifacts/base/tiny",
            "steps.dpo.args.policy_model=artifacts/base/tiny",
            "steps.rm.args.max_steps=8",
            "steps.dpo.args.max_steps=8",
            "steps.rm.args.max_length=128",
            "steps.dpo.args.max_length=128",
            "steps.evaluation.args.num_generations=4",
            "steps.evaluation.args.max_new_tokens=8",
        ]
        # As a setting, not as --input, which would win over a test's own.
        common.append("steps.ingest.args.input=training_data/sample/argilla_export.jsonl")
        document = run_values.compose(profile, settings=[*common, *settings], name=name)
        path = self.values_folder / f"{name}.yaml"
        path.write_text(run_values.to_yaml(document))
        return path

    def install(self, name: str, *settings: str, profile: str = "kind-cpu") -> None:
        """`helm install`, nothing else."""
        path = self.values(name, *settings, profile=profile)
        helm("install", name, str(CHARTS / "run"), "--namespace", self.namespace, "-f", str(path))
        self.releases.append(name)

    def install_program(self, name: str, step: str, code: str, *settings: str) -> None:
        """Install a run whose one step runs Python code of ours in place of its command; all else is the chart's."""
        others = [f"steps.{other}.enabled=false" for other in ("ingest", "rm", "dpo", "evaluation") if other != step]
        path = self.values(name, *others, *settings)
        found = yaml.safe_load_all(
            helm("template", name, str(CHARTS / "run"), "--namespace", self.namespace, "-f", str(path))
        )
        made = [item for item in found if item]
        for item in made:
            if item["metadata"]["name"] == f"{name}-{step}":
                item["spec"]["template"]["spec"]["containers"][0]["args"] = ["python3", "-c", code]
        command = ["kubectl", "-n", self.namespace, "apply", "-f", "-"]
        subprocess.run(command, input=yaml.safe_dump_all(made), text=True, check=True, capture_output=True)

    def job(self, name: str) -> Object:
        """Return a Job."""
        return self.api.get(self.api.path("jobs", name))

    def pods(self, selector: str) -> list[Object]:
        """Return pods by label, oldest first."""
        found = self.api.get(self.api.path("pods"), labelSelector=selector)["items"]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def state(self, release: str) -> dict[str, Any]:
        """Return what the conductor has written."""
        data = self.api.get(self.api.path("configmaps", f"{release}-status")).get("data", {})
        document: dict[str, Any] = json.loads(data.get("state.json", "{}"))
        return document

    def wait(self, release: str, seconds: float = 600) -> str:
        """Wait until the conductor's Job has ended; returns the run's phase."""
        until(lambda: ended(self.job(f"{release}-conductor")), seconds)
        return str(self.state(release).get("phase"))


def ended(job: Object) -> str:
    """Return Complete or Failed once a Job has ended, else ''."""
    conditions = job.get("status", {}).get("conditions") or []
    return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), "")


def until(condition: Callable[[], Any], seconds: float = 60, pause: float = 0.2) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
    pytest.fail(f"waited {seconds} s in vain")


@contextmanager
def new_space(scratch: Path) -> Iterator[Space]:
    """Make a namespace that enforces `restricted`, with a workspace on the node; take it away again."""
    try:
        api = Api(connect())
        api.get("/version")
    except AiosError as exc:
        pytest.skip(f"no cluster: {exc}")
    if shutil.which("helm") is None or shutil.which("kubectl") is None:
        pytest.skip("helm and kubectl are needed")
    name = f"aios-test-{os.getpid()}-{int(time.time() * 10) % 100000}"
    folder = Path(os.environ.get("AIOS_TEST_HOSTPATH", "/var/tmp")) / name
    tiny.make_model(folder / "artifacts" / "base" / "tiny")
    (folder / "training_data" / "sample").mkdir(parents=True)
    shutil.copy(SAMPLE, folder / "training_data" / "sample")
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, _UID, _UID)
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    api.namespace = name
    space = Space(name, folder, api, scratch)
    try:
        helm("install", "platform", str(CHARTS / "platform"), "--namespace", name, f"--set=workspace.hostPath={folder}")
        yield space
    finally:
        for release in [*space.releases, "platform"]:
            helm("uninstall", release, "--namespace", name, "--ignore-not-found")
        kubectl("delete", "namespace", name, "--wait=false", check=False)
        kubectl("delete", "pv", f"aios-alignment-{name}-aios-workspace", "--wait=false", check=False)
        shutil.rmtree(folder, ignore_errors=True)


class Timeline(threading.Thread):
    """Writes down when this machine saw pods appear and Jobs end, finer than the seconds in the objects."""

    def __init__(self, space: Space, kind: str) -> None:
        super().__init__(daemon=True)
        self.space, self.kind = space, kind
        self.seen: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        api = Api(self.space.api.connection)
        api.namespace = self.space.namespace
        version = api.get(api.path(self.kind))["metadata"]["resourceVersion"]
        for event in api.watch(api.path(self.kind), resourceVersion=version, timeoutSeconds=3000):
            item = event["object"]
            name = item["metadata"].get("name", "")
            if event["type"] == "BOOKMARK":
                continue
            key = name if self.kind == "pods" else f"{name} {ended(item)}"
            self.seen.setdefault(key, time.monotonic())
