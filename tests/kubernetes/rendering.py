"""Rendering the charts with the real helm, and what a strict cluster would say to the result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CHARTS = REPOSITORY / "charts"
Object = dict[str, Any]


def helm(*arguments: str, code: int = 0) -> str:
    """Run helm and return what it printed."""
    program = shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("helm is not installed; `python -m k8s.tools .venv/bin` fetches it")
        pytest.skip("helm is not installed; `python -m k8s.tools .venv/bin` fetches it")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == code or (code and done.returncode), f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def render(chart: str, values: Path | None, *arguments: str, release: str = "demo") -> str:
    """Return what `helm template` makes of a chart."""
    files = ["-f", str(values)] if values else []
    return helm("template", release, str(CHARTS / chart), "--namespace", "runs", *files, *arguments)


def objects(text: str) -> list[Object]:
    """Return the objects in rendered YAML."""
    return [document for document in yaml.safe_load_all(text) if document]


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield name and pod template spec of everything that makes pods."""
    for item in found:
        if item["kind"] in ("Job", "Deployment"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: Object) -> list[str]:
    """Return what Pod Security's level `restricted` (and the baseline under it) forbids in a pod."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not (v.keys() - {"name"}) <= _VOLUMES]
    general = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        seccomp = (own.get("seccompProfile") or general.get("seccompProfile") or {}).get("type")
        capabilities = own.get("capabilities", {})
        checks = {
            "privileged": own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": own.get("runAsNonRoot", general.get("runAsNonRoot")) is not True,
            "runAsUser 0": own.get("runAsUser", general.get("runAsUser")) == 0,
            "seccompProfile": seccomp not in ("RuntimeDefault", "Localhost"),
            "drop ALL": "ALL" not in capabilities.get("drop", []),
            "add": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
            "procMount": own.get("procMount", "Default") != "Default",
        }
        found += [f"{container['name']}: {name}" for name, bad in checks.items() if bad]
    return found
