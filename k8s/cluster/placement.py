"""Whether the nodes take the steps: labels, taints, capacity, and the claim that all steps share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from k8s.cluster.client import Api, Object, find
from k8s.findings import Finding, ok, problem, warning
from k8s.values import Values, enabled_steps

_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_HARD = ("NoSchedule", "NoExecute")
_GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}


def quantity(text: Any) -> float:
    """Return the number that Kubernetes writes as 500m or 4Gi."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    return float(match[1]) * _UNITS.get(match[2], 1.0) if match else 0.0


def nodes(api: Api) -> list[Object]:
    """Return the nodes that take pods."""
    return [node for node in api.get("/api/v1/nodes")["items"] if not node["spec"].get("unschedulable")]


def placement(api: Api, values: Values) -> Iterator[Finding]:
    """Yield for each step how many nodes fit; where too few, what the nearest one lacks."""
    there = nodes(api)
    for name, step in enabled_steps(values).items():
        # Pods without devices may share a node.
        needed = int(step.get("nodes") or 1) if any("/" in key for key in _limits(step)) else 1
        lacking = [(node, objections(node, step)) for node in there]
        fitting = [node for node, lacks in lacking if not lacks]
        if len(fitting) >= needed:
            yield ok(f"{name}: {len(fitting)} of {len(there)} nodes fit")
            continue
        rest = [(node, lacks) for node, lacks in lacking if lacks]
        nearest = min(rest, key=lambda pair: len(pair[1]), default=None)
        near = f"the nearest, {nearest[0]['metadata']['name']}, lacks {', '.join(nearest[1])}" if nearest else "no more"
        yield problem(
            f"{name}: {len(fitting)} of {len(there)} nodes fit, {needed} needed; {near}",
            f"correct steps.{name}.nodeSelector, tolerations or resources, or add a node pool "
            "(where an autoscaler will, this is expected)",
        )


def objections(node: Object, step: Mapping[str, Any]) -> list[str]:
    """Return what keeps a step off a node: labels, taints, processors, memory, devices."""
    return [*_labels(node, step), *_taints(node, step), *_capacity(node, step)]


def _labels(node: Object, step: Mapping[str, Any]) -> Iterator[str]:
    labels = node["metadata"].get("labels") or {}
    for key, value in (step.get("nodeSelector") or {}).items():
        if labels.get(key) != str(value):
            yield f"the label {key}={value}{_nearest(labels, key, str(value))}"
    products = step.get("gpuProducts") or []
    product = labels.get("nvidia.com/gpu.product")
    if products and product not in products:
        yield f"nvidia.com/gpu.product in {', '.join(products)} (it has {product or 'none'})"


def _nearest(labels: Mapping[str, str], key: str, value: str) -> str:
    """Name the label that was probably meant."""
    if key in labels:
        return f" (it has {key}={labels[key]})"
    pairs = [f"{name}={content}" for name, content in labels.items()]
    close = difflib.get_close_matches(f"{key}={value}", pairs, 1, 0.6)
    return f" (it has {close[0]})" if close else ""


def _taints(node: Object, step: Mapping[str, Any]) -> Iterator[str]:
    tolerations = [*(step.get("tolerations") or [])]
    if any(key.startswith("nvidia.com/") for key in _limits(step)):
        tolerations.append(_GPU_TAINT)  # the chart adds it
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] in _HARD and not any(_tolerates(given, taint) for given in tolerations):
            yield f"a toleration of its taint {taint['key']}={taint.get('value', '')}:{taint['effect']}"


def _tolerates(given: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if given.get("effect") not in (None, "", taint["effect"]):
        return False
    if given.get("operator") == "Exists":
        return given.get("key") in (None, "", taint["key"])
    return bool(given.get("key") == taint["key"] and given.get("value", "") == taint.get("value", ""))


def _limits(step: Mapping[str, Any]) -> Mapping[str, Any]:
    return (step.get("resources") or {}).get("limits") or {}


def _capacity(node: Object, step: Mapping[str, Any]) -> Iterator[str]:
    allocatable = node["status"].get("allocatable") or {}
    requests = (step.get("resources") or {}).get("requests") or {}
    devices = {key: amount for key, amount in _limits(step).items() if "/" in key}
    for resource, amount in (requests | devices).items():
        has = allocatable.get(resource, 0)
        if quantity(has) < quantity(amount):
            yield f"{amount} {resource} (it has {has})"


def claim(api: Api, values: Values) -> Iterator[Finding]:
    """Yield whether the claim is there and follows the steps."""
    name = values["workspace"]["claim"]
    found = find(api, "persistentvolumeclaims", name)
    if found is None:
        yield problem(
            f"there is no claim {name} in {api.namespace}",
            f"helm install platform charts/platform -n {api.namespace} --set workspace.claim={name}",
        )
        return
    phase, modes = found["status"].get("phase"), found["spec"]["accessModes"]
    if phase == "Lost":
        yield problem(f"the claim {name} has lost its volume", "restore the volume or make another claim")
    elif phase == "Pending":
        yield warning(f"the claim {name} is not bound yet", "fine for classes that wait for the first pod; else see "
                      f"`kubectl describe pvc {name}`")  # fmt: skip
    if "ReadWriteMany" in modes:
        yield ok(f"claim {name}, {', '.join(modes)}: steps may run on any node")
    else:
        yield _one_node(name, ", ".join(modes), nodes(api), enabled_steps(values))


def _one_node(claim: str, modes: str, there: list[Object], steps: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Judge a claim that one node at a time may mount."""
    several = [step for step, given in steps.items() if max(given.get("nodes") or 1, given.get("shards") or 1) > 1]
    if several and len(there) > 1:
        return problem(
            f"{', '.join(several)} runs in several pods on {len(there)} nodes, but the claim {claim} is {modes}",
            "make the claim ReadWriteMany (NFS, EFS, Filestore, CephFS)",
        )
    usable = [{n["metadata"]["name"] for n in there if not objections(n, given)} for given in steps.values()]
    if there and all(usable) and not set.intersection(*usable):
        return problem(
            f"the claim {claim} is {modes}, but no single node of {len(there)} takes all steps",
            "make the claim ReadWriteMany, or give all steps the same nodeSelector",
        )
    if len(there) > 1:
        return warning(
            f"the claim {claim} is {modes} and there are {len(there)} nodes: it follows the steps, a minute each time",
            "give all steps the same nodeSelector, or make the claim ReadWriteMany",
        )
    return ok(f"claim {claim}, {modes}, one node")
