"""Which node is nearest to taking a pod, and what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from k8s.objects import Object, container, is_true, name_of, quantity


def nearest(pod: Object, nodes: Sequence[Object]) -> str:
    """Return the node with the fewest objections and what they are; empty without nodes or objections."""
    judged = [(objections(node, pod), name_of(node)) for node in nodes]
    if not judged:
        return ""
    found, name = min(judged, key=lambda entry: (len(entry[0]), entry[1]))
    return f"{name}, lacks: {', '.join(found)}" if found else ""


def objections(node: Object, pod: Object) -> list[str]:
    """Return what keeps a pod off a node: labels, affinity, taints, size, state."""
    spec, labels = pod.get("spec", {}), node.get("metadata", {}).get("labels") or {}
    found = []
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            found.append(f"label {key}={value}" + (f" (has {labels[key]})" if key in labels else ""))
    found += _affinity(spec, node, labels)
    if node.get("spec", {}).get("unschedulable"):
        found.append("it is cordoned")
    elif node.get("status", {}).get("conditions") and not is_true(node, "Ready"):
        found.append("it is not ready")
    tolerations = spec.get("tolerations") or []
    for taint in node.get("spec", {}).get("taints") or []:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(_tolerates(t, taint) for t in tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            found.append(f"a toleration of {taint.get('key')}{value}")
    return found + _size(pod, node)


def _size(pod: Object, node: Object) -> list[str]:
    resources = container(pod).get("resources") or {}
    wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    allocatable = node.get("status", {}).get("allocatable") or {}
    found = []
    for name, amount in wanted.items():
        has = quantity(allocatable.get(name, 0)) or 0.0
        if has < (quantity(amount) or 0.0):
            found.append(f"{amount} {name} (has {allocatable.get(name, 0)})")
    return found


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    same_key = toleration.get("key") == taint.get("key")
    return same_key and (toleration.get("value") or "") == (taint.get("value") or "")


def _affinity(spec: Mapping[str, Any], node: Object, labels: Mapping[str, str]) -> list[str]:
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms = required.get("nodeSelectorTerms") or []
    lacking = [
        [*(_unmet(e, labels) for e in term.get("matchExpressions") or []),
         *(_unmet(e, {"metadata.name": name_of(node)}) for e in term.get("matchFields") or [])]
        for term in terms
    ]  # fmt: skip
    unmet = [[text for text in texts if text] for texts in lacking]
    return min(unmet, key=len) if unmet else []


def _unmet(expression: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return what a label lacks to meet an expression; empty where it is met."""
    key, operator = expression.get("key", ""), expression.get("operator", "")
    values, has = expression.get("values") or [], labels.get(key)
    number = quantity(has)
    bound = (quantity(values[0]) if values else None) or 0.0
    met = {
        "In": has in values,
        "NotIn": has not in values,
        "Exists": has is not None,
        "DoesNotExist": has is None,
        "Gt": number is not None and number > bound,
        "Lt": number is not None and number < bound,
    }.get(operator, True)
    shown = f" [{', '.join(values)}]" if values else ""
    return "" if met else f"{key} {operator}{shown}" + (f" (has {has})" if has is not None else "")
