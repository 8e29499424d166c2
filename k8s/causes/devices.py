"""Devices that fail: what pods and steps say of GPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jobs.contract.errors import ExitCode
from k8s.causes.diagnosis import Diagnosis, Scene
from k8s.objects import container, node_of, statuses

FAULT = re.compile(
    r"\bXid\b|uncorrectable|ECC error|fallen off the bus|GPU is lost|nvidia-container-cli|nvml error|NVML: "
    r"|CUDA error: (unknown error|device.{0,20}unavailable|hardware|system not yet initialized)"
    r"|no healthy devices|could not select device driver|libcuda.*device not present", re.IGNORECASE,
)  # fmt: skip
_ADVICE = "cordon the node and look at its driver and device plugin (Xid, ECC); other nodes take the step"
_RETRIED = {1, 70, 71, 128, 134, 135, 137, 139, 255}
"""Exit codes that a failed device can lie behind; the others speak of the step's own input."""


def unhealthy_devices(pod: Mapping[str, Any]) -> list[str]:
    """Return the devices that the kubelet calls unhealthy: resource and id."""
    found = []
    for status in statuses(pod):
        for resource in status.get("allocatedResourcesStatus") or []:
            found += [
                f"{resource.get('name', '')} {device.get('resourceID', '')}".strip()
                for device in resource.get("resources") or []
                if device.get("health") == "Unhealthy"
            ]
    return found


def device_fault(scene: Scene, code: int, text: str, cause: str) -> Diagnosis | None:
    """Diagnose a step that failed because of its device."""
    ill = unhealthy_devices(scene.pod)
    said = FAULT.search(text)
    if code not in _RETRIED and cause != "device":
        return None
    if not (cause == "device" or ill or (said and code != ExitCode.DIVERGED)):
        return None
    node = node_of(scene.pod)
    what = ", ".join(ill) or (said[0] if said else "a device error")
    return Diagnosis(
        code="GPU_NODE_BAD", summary=f"a device of the node {node} failed ({what})", node=node,
        detail=text.strip()[:1200], resolution=_ADVICE,
    )  # fmt: skip


def refused_device(scene: Scene, message: str) -> Diagnosis:
    """Diagnose a pod that its node cannot give the device it was promised."""
    node = node_of(scene.pod)
    devices = [name for name in (container(scene.pod).get("resources") or {}).get("limits") or {} if "/" in name]
    what = f" {' and '.join(devices)}" if devices else " what it was promised"
    return Diagnosis(
        code="GPU_NODE_BAD", summary=f"the node {node} cannot give the pod{what}", node=node, detail=message,
        resolution=_ADVICE,
    )  # fmt: skip
