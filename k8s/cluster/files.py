"""Files to and from the claim, through a short-lived pod that mounts it: as `kubectl cp`, but resumed and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.contract.errors import AiosError, BadConfig, BadData, EnvironmentUnfit, FolderBusy
from k8s.cluster.client import Api, Object
from k8s.cluster.runs import Picture
from k8s.diagnose import diagnose
from k8s.sharing import reads, writes
from k8s.values import Values, read_yaml

_CHUNK = 1 << 20
_ATTEMPTS = 5
_LIFETIME_S = 3600
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Door:
    """A pod that holds the claim open."""

    api: Api
    pod: str

    def command(self, *arguments: str, stdin: bool = False) -> list[str]:
        """Return the kubectl command that runs `k8s.volume` in the pod."""
        return self.run("python3", "-m", "k8s.volume", *arguments, stdin=stdin)

    def run(self, *inside: str, stdin: bool = False) -> list[str]:
        """Return the kubectl command that runs another one in the pod, in the workspace."""
        program = shutil.which("kubectl")
        if program is None:
            raise EnvironmentUnfit("kubectl is not installed", next_step="see kubernetes.io/docs/tasks/tools")
        where = ["--namespace", self.api.namespace]
        if self.api.connection.context:
            where += ["--context", self.api.connection.context]
        return [program, *where, "exec", *(["-i"] if stdin else []), self.pod, "--", *inside]

    def ask(self, *arguments: str) -> str:
        """Run a command in the pod and return what it printed."""
        for attempt in range(1, _ATTEMPTS + 1):
            done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=600, check=False)
            if done.returncode == 0:
                return done.stdout
            if done.returncode == 1 and "command terminated" in done.stderr:
                raise BadData(done.stderr.strip().splitlines()[0])
            if attempt < _ATTEMPTS:
                time.sleep(attempt)
        raise AiosError(f"the pod {self.pod} does not answer: {done.stderr.strip()[-300:]}", next_step="try again")


@contextmanager
def door(api: Api, values: Values, *, internet: bool = False, patience_s: float = 300) -> Iterator[Door]:
    """Start the pod, wait until it runs, delete it at the end; with `internet` the network policy lets it out."""
    name = f"aios-files-{uuid.uuid4().hex[:8]}"
    document = _pod(name, values)
    if internet:
        document["metadata"]["labels"]["aios-alignment/egress"] = "internet"
    api.create(api.path("pods"), document)
    try:
        deadline = time.monotonic() + patience_s
        while True:
            pod = api.get(api.path("pods", name))
            if pod["status"].get("phase") == "Running":
                break
            found = diagnose({"status": {}}, [pod])
            if time.monotonic() > deadline or (found and found.fatal_after_s is not None):
                reason = f"{found.summary}: {found.detail}" if found else f"it did not start within {patience_s:.0f} s"
                raise AiosError(
                    f"the pod that opens the claim cannot run ({reason})", next_step=found.resolution if found else ""
                )
            time.sleep(0.3)
        yield Door(api, name)
    finally:
        api.delete(api.path("pods", name), gracePeriodSeconds=0)


def _pod(name: str, values: Values) -> Object:
    """Return a pod that Pod Security's `restricted` accepts and that ends by itself, should we be killed."""
    image, own, security = values["image"], values["conductor"]["image"], values["podSecurity"]
    reference = f"{image['registry']}/{own['name']}" if image["registry"] else own["name"]
    reference += f"@{own['digest']}" if own.get("digest") else f":{own.get('tag') or image['tag']}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "aios-alignment", "aios-alignment/kind": "files"},
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _LIFETIME_S,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": secret} for secret in image.get("pullSecrets") or []],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": security["runAsUser"],
                "runAsGroup": security["runAsUser"],
                "fsGroup": security["fsGroup"],
                "fsGroupChangePolicy": "OnRootMismatch",
                "supplementalGroups": security.get("supplementalGroups") or [],
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "files",
                    "image": reference,
                    "imagePullPolicy": image["pullPolicy"],
                    "command": ["python3", "-c", f"import time; time.sleep({_LIFETIME_S})"],
                    "workingDir": "/workspace",
                    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
                }
            ],
            "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": values["workspace"]["claim"]}}],
        },
    }


def upload(api: Api, values: Values, source: Path, target: str, progress: Progress) -> int:
    """Send a file or folder to the workspace; returns how many files were sent, those that are there not counted.

    Raises:
        FolderBusy: a live run uses that place.
        BadData: the source is not there.
    """
    if not source.exists():
        raise BadData(f"no such file: {source}", next_step="check the path")
    _refuse_live(api, target)
    files = {"": source} if source.is_file() else {
        path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()
    }  # fmt: skip
    sent = 0
    with door(api, values) as pod:
        there = _listing(pod, target)
        for name, path in files.items():
            sha256 = _sha256(path)
            if there.get(name) != [path.stat().st_size, sha256]:
                _send(pod, path, _join(target, name), sha256, progress)
                sent += 1
    return sent


def recorded_values(api: Api, values: Values, run: str) -> Values:
    """Return the values that a run left on the claim, for the day when its release is gone.

    Raises:
        BadConfig: it left none.
    """
    record = f"artifacts/runs/{run}/run.json"
    with door(api, values) as pod:
        text = pod.ask("text", record) or pod.ask("text", f"isolated/{run}/{record}")
    document: dict[str, Any] = json.loads(text) if text else {}
    if not document.get("values"):
        raise BadConfig(
            f"neither the namespace {api.namespace} nor its workspace knows a run {run}", next_step="aios jobs submit"
        )
    return dict(document["values"])


def lineage(api: Api, values: Values, run: str, *, as_json: bool) -> tuple[int, str]:
    """Return exit code and output of `aios jobs lineage RUN`, run where the claim is."""
    inside = 'test ! -d "isolated/$0" || cd "isolated/$0"; exec python3 -m jobs.cli jobs lineage "$@"'
    with door(api, values) as pod:
        command = pod.run("sh", "-c", inside, run, run, *(["--json"] if as_json else []))
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        said = done.stdout or done.stderr.partition("command terminated")[0]
    return done.returncode, said


def _send(pod: Door, path: Path, target: str, sha256: str, progress: Progress) -> None:
    size = path.stat().st_size
    for attempt in range(1, _ATTEMPTS + 1):
        offset = min(int(pod.ask("size", target)), size)
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # what arrived is asked for below
            _pump(pod, path, target, offset, size, progress)
        if int(pod.ask("size", target)) == size:
            pod.ask("commit", target, sha256)
            return
        time.sleep(attempt)
    raise AiosError(
        f"{path} could not be sent after {_ATTEMPTS} attempts", next_step="run this again: it goes on from there"
    )


def _pump(pod: Door, path: Path, target: str, offset: int, size: int, progress: Progress) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        command = pod.command("put", target, str(offset), stdin=True)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        done = offset
        while chunk := file.read(_CHUNK):
            process.stdin.write(chunk)
            done += len(chunk)
            progress(target, done, size)
        process.stdin.close()
        process.wait(timeout=300)


def download(api: Api, values: Values, source: str, target: Path, progress: Progress) -> int:
    """Fetch a file or folder of the workspace; returns how many files came, those that are here not counted."""
    fetched = 0
    with door(api, values) as pod:
        files = _listing(pod, source)
        if not files:
            raise BadData(f"the workspace has no {source}", next_step="look with `aios jobs status`, or check the path")
        for name, (size, sha256) in files.items():
            path = target / name if name else (target / PurePosixPath(source).name if target.is_dir() else target)
            if not (path.is_file() and path.stat().st_size == size and _sha256(path) == sha256):
                _receive(pod, _join(source, name), path, size, sha256, progress)
                fetched += 1
    return fetched


def _receive(pod: Door, source: str, path: Path, size: int, sha256: str, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    for attempt in range(1, _ATTEMPTS + 1):
        offset = part.stat().st_size if part.exists() else 0
        if offset < size or not part.exists():
            process = subprocess.Popen(
                pod.command("get", source, str(offset)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert process.stdout is not None
            with part.open("ab") as file:
                while chunk := process.stdout.read(_CHUNK):
                    file.write(chunk)
                    progress(source, file.tell(), size)
            process.wait(timeout=60)
        if part.stat().st_size == size:
            if _sha256(part) == sha256:
                part.replace(path)
                return
            part.unlink()  # damaged, or replaced under us: from the start
        elif part.stat().st_size > size:
            part.unlink()
        time.sleep(attempt)
    raise AiosError(
        f"{source} could not be fetched after {_ATTEMPTS} attempts", next_step="run this again: it goes on from there"
    )


def _listing(pod: Door, path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(pod.ask("list", path))
    return document


def _refuse_live(api: Api, target: str) -> None:
    """Refuse to change what a live run reads or writes."""
    wanted = PurePosixPath(target)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise BadConfig(
            f"{target} is not a path of the workspace", needed="a relative path, such as training_data/x.jsonl"
        )
    picture = Picture(api).start()
    for status in picture.releases():
        release = status["metadata"]["name"].removesuffix("-status")
        if picture.view(release).ended:
            continue
        values = read_yaml((status.get("data") or {}).get("values.yaml", ""), release) or {}
        inputs = {str(path) for path in values["steps"]["ingest"].get("args", {}).get("input", [])}
        for used in map(PurePosixPath, reads(values) | writes(values) | inputs):
            if used == wanted or used in wanted.parents or wanted in used.parents:
                raise FolderBusy(
                    f"{used} is used by the run {release}, which has not ended", next_step="wait for it, or stop it"
                )


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if name else folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
