"""Why no node takes a pod: constraints, gates, claims that are not bound."""

from __future__ import annotations

import re

from k8s.causes.diagnosis import CONFIG_GRACE_S, Diagnosis, Scene
from k8s.causes.placement import nearest
from k8s.causes.starting import claim_names
from k8s.objects import condition, container, event_time, events_of, name_of, node_of, seconds

_SILENT_S = 30.0
_CONSTRAINTS: tuple[tuple[str, str], ...] = (
    (r"Insufficient ([\w./-]+)", "not enough {0} is free"),
    (r"untolerated taint\(?s?\)? \{([^}]*)\}", "they are tainted {0}"),
    (r"had untolerated taint", "they are tainted"),
    (r"didn't match Pod's node affinity|didn't match node selector", "their labels differ from selector or affinity"),
    (r"volume node affinity conflict|PersistentVolume's node affinity", "the claim's volume is in another zone"),
    (r"Too many pods", "they hold as many pods as they may"),
    (r"were unschedulable", "they are cordoned"),
    (r"exceed max volume count", "they hold as many volumes as they may"),
    (r"didn't have free ports", "the port is taken"),
    (r"topology spread constraints", "the spread constraints forbid it"),
    (r"pod (?:anti-)?affinity", "the pod affinity forbids it"),
    (r"cannot allocate all claims|resource ?claim", "a resource claim cannot be served"),
)  # fmt: skip


def unscheduled(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that no node takes, and say which constraint it is."""
    if scene.status.get("phase") not in ("Pending", None, ""):
        return None
    scheduled = condition(scene.pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return _unseen(scene)
    message = scheduled.get("message") or ""
    if scheduled.get("reason") == "SchedulingGated":
        gates = [(g.get("name") or "") for g in scene.pod.get("spec", {}).get("schedulingGates") or []]
        queued = any("kueue" in gate for gate in gates)
        return Diagnosis(
            code="QUEUED_KUEUE" if queued else "UNSCHEDULABLE", detail=message,
            summary=f"it waits behind {', '.join(gates) or 'a gate'}", resolution="wait: whoever set the gate opens it",
        )  # fmt: skip
    if re.search(
        r"persistentvolumeclaim|unbound immediate|PersistentVolumeClaim is|bound to non-existent", message, re.I
    ):
        return _unbound(scene, message)
    return _no_node(scene, message)


def _unseen(scene: Scene) -> Diagnosis | None:
    created = seconds(scene.pod.get("metadata", {}).get("creationTimestamp"))
    if condition(scene.pod, "PodScheduled") or node_of(scene.pod) or created is None or scene.now - created < _SILENT_S:
        return None
    name = scene.pod.get("spec", {}).get("schedulerName", "default-scheduler")
    return Diagnosis(
        code="UNSCHEDULABLE", summary=f"the scheduler {name} has not looked at the pod",
        resolution="see whether it runs: kubectl -n kube-system get pods",
    )  # fmt: skip


def _no_node(scene: Scene, message: str) -> Diagnosis:
    text = message.partition("preemption:")[0]
    found: list[str] = []
    for pattern, words in _CONSTRAINTS:
        match = re.search(pattern, text)
        if match and not (words == "they are tainted" and any(f.startswith("they are tainted") for f in found)):
            found.append(words.format(*(group.strip(": ") for group in match.groups())))
    wanted = _wanted(scene)
    summary = "no node takes the pod" + (f": {', '.join(found)}" if found else "")
    summary += f"; it needs {wanted}" if wanted else ""
    near = nearest(scene.pod, scene.nodes)
    if near:
        summary += f"; the nearest, {near}"
    hint = "wait for the autoscaler, or compare selectors, requests and taints with the nodes: `aios jobs doctor`"
    if "volume node affinity" in text or "PersistentVolume's node affinity" in text:
        hint = "let the step run where its volume is, or use a ReadWriteMany claim that every zone reaches"
    return Diagnosis(code="UNSCHEDULABLE", summary=summary, detail=message, resolution=hint)


def _wanted(scene: Scene) -> str:
    """Return what not every node has, of what a pod asks for: labels, and devices such as nvidia.com/gpu."""
    spec = scene.pod.get("spec", {})
    labels = [f"the label {key}={value}" for key, value in (spec.get("nodeSelector") or {}).items()]
    limits = (container(scene.pod).get("resources") or {}).get("limits") or {}
    devices = [f"{amount} {name}" for name, amount in limits.items() if "/" in name]
    return " and ".join([*labels, *devices])


def _unbound(scene: Scene, message: str) -> Diagnosis:
    """Name the claim that is not there, not bound, lost or going, and what its events say."""
    quoted = re.search(r'persistentvolumeclaim "([^"]+)"', message, re.IGNORECASE)
    names = [quoted[1].rpartition("/")[2]] if quoted else claim_names(scene)
    name = names[0] if names else "of the step"
    if re.search(r'persistentvolumeclaim "[^"]+" not found', message, re.IGNORECASE):
        return Diagnosis(
            code="CONFIG", summary=f"the claim {name} does not exist", detail=message, fatal_after_s=CONFIG_GRACE_S,
            resolution="make the claim: helm install platform charts/platform, or correct workspace.claim",
        )  # fmt: skip
    claim = next((c for c in scene.claims if name_of(c) == name), {})
    spec, phase = claim.get("spec", {}), (claim.get("status") or {}).get("phase", "")
    said = sorted(events_of(claim or {"metadata": {"name": name}}, scene.all_events), key=event_time)
    why = str(said[-1].get("message", "")) if said else ""
    word = (
        "is being deleted" if "being deleted" in message else {"Lost": "has lost its volume"}.get(phase, "is not bound")
    )
    if "non-existent" in message:
        word = "is bound to a volume that does not exist"
    of = (
        f" (class {spec.get('storageClassName') or 'none'}, {', '.join(spec.get('accessModes') or [])})" if spec else ""
    )
    return Diagnosis(
        code="CONFIG", summary=f"the claim {name} {word}{of}" + (f": {why}" if why else ""), detail=message,
        resolution=f"see that its class exists and can serve its access mode: `kubectl describe pvc {name}`",
    )  # fmt: skip
