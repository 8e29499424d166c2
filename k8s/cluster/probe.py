"""What only a pod can see: whether the claim is mounted and writable, its free space, whether the hub answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.contract.errors import AiosError, EnvironmentUnfit
from k8s.cluster.client import Api
from k8s.cluster.files import door
from k8s.findings import Finding, ok, problem, warning
from k8s.values import Values, enabled_steps

_NEEDED, _COMFORTABLE = 1e9, 10e9
_HUB = "https://huggingface.co"
_PROXIES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


def examine(api: Api, values: Values) -> Iterator[Finding]:
    """Yield the disk's state and, where a step asks for the hub, the hub's."""
    hub = next((step for step in enabled_steps(values).values() if step.get("hub")), None)
    try:
        with door(api, values, internet=hub is not None, patience_s=90) as pod:
            yield _disk(json.loads(pod.ask("space")))
            if hub is not None:
                yield _reach(pod.ask("reach", *_addresses(hub)))
    except EnvironmentUnfit as exc:  # no kubectl here, such as in the panel's image
        yield warning(f"disk and hub were not looked at: {exc.found}", exc.next_step)
    except AiosError as exc:
        yield problem(
            f"a pod that mounts the claim: {exc.found}", exc.next_step or "kubectl describe the claim and the node"
        )


def _disk(space: dict[str, Any]) -> Finding:
    free, total = space["free"], space["total"]
    text = f"the workspace has {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if not space["writable"]:
        return problem(
            f"the workspace cannot be written by uid {space['uid']} (mode {space['mode']}, owner {space['owner']})",
            "podSecurity.fsGroup or supplementalGroups, or give the folder to that uid; docs/kubernetes.md, Volumes",
        )
    if free < _NEEDED:
        return problem(text, "aios artifacts prune, or a larger claim")
    return ok(text) if free >= _COMFORTABLE else warning(text, "a 7B model with checkpoints wants 60 GB")


def _addresses(step: dict[str, Any]) -> list[str]:
    """Return where the hub is and the proxies on the way, as the step would have them."""
    env = {str(key): str(value) for key, value in (step.get("env") or {}).items()}
    return [env.get("HF_ENDPOINT", _HUB), *(f"{key}={env[key]}" for key in _PROXIES if key in env)]


def _reach(answer: str) -> Finding:
    if answer.startswith("ok"):
        return ok(f"the hub answers from inside the cluster ({answer.strip()})")
    return problem(
        f"the hub does not answer from inside the cluster: {answer.strip()}",
        "steps.fetch-model.env.HTTPS_PROXY or HF_ENDPOINT, the network policy, or upload the model and disable this",
    )
