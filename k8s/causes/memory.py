"""Memory: whether it was a step's own limit, and how much would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.contract.errors import ExitCode
from k8s.causes.diagnosis import DECISIVE, Diagnosis, Scene, said_text
from k8s.objects import condition, container, in_gib, more_memory, node_of, quantity


def out_of_memory(scene: Scene, end: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Tell whether the container ran into its memory limit.

    The supervisor's count of kernel kills is believed. The kubelet's OOMKilled is not, where the exit code tells that
    the process was asked to end (143: a drain, often reported so) or spoke of something else itself.
    """
    if said.get("cause") == "memory" or "out of memory: limit" in str(said.get("message", "")):
        return True
    if "machine is out of memory" in str(said.get("message", "")):
        return True
    code = end.get("exitCode")
    if said.get("cause") == "node_memory":
        return False
    if end.get("reason") != "OOMKilled" or code == ExitCode.INTERRUPTED or code in DECISIVE:
        return False
    target = condition(scene.pod, "DisruptionTarget") or {}
    asked_to_end = target.get("status") == "True" or scene.pod.get("metadata", {}).get("deletionTimestamp")
    if code == 143 and (asked_to_end or said):
        return False
    return target.get("reason") != "TerminationByKubelet" and scene.status.get("reason") != "Evicted"


def memory_used_up(scene: Scene, end: Mapping[str, Any], said: Mapping[str, Any]) -> Diagnosis:
    spec = scene.pod.get("spec", {})
    every = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    which = next((c for c in every if c.get("name") == end.get("container")), container(scene.pod))
    whole = scene.pod.get("spec", {}).get("resources") or {}
    limit = ((which.get("resources") or {}).get("limits") or whole.get("limits") or {}).get("memory")
    memory = said.get("memory") or {}
    parts = [f"limit {limit or 'none'}"]
    if memory.get("peak"):
        parts.append(f"peak {in_gib(memory['peak'])}")
    shm = next((v["emptyDir"].get("sizeLimit", "unlimited") for v in _memory_volumes(scene)), None)
    if memory.get("shm"):
        parts.append(f"of it {in_gib(memory['shm'])} in shared memory")
    elif shm:
        parts.append(f"its shared memory may take {shm} of it")
    more = more_memory(limit) if limit else ""
    raise_it = f"--set steps.NAME.resources.limits.memory={more}" if more else "steps.NAME.resources.limits.memory"
    text = said_text(end, said)
    return Diagnosis(
        code="OOM_CONTAINER", summary=f"out of memory ({', '.join(parts)})", detail=text, node=node_of(scene.pod),
        resolution=f"give it more ({raise_it}, or submit with --grow-memory), or lower batch_size or max_length",
    )  # fmt: skip


def _memory_volumes(scene: Scene) -> list[Mapping[str, Any]]:
    volumes = scene.pod.get("spec", {}).get("volumes") or []
    return [v for v in volumes if (v.get("emptyDir") or {}).get("medium") == "Memory"]


def suggested_memory(pod: Mapping[str, Any]) -> str:
    """Return half as much memory again as the step's container may use; empty without a limit."""
    limit = ((container(pod).get("resources") or {}).get("limits") or {}).get("memory")
    return more_memory(limit) if limit and quantity(limit) else ""
