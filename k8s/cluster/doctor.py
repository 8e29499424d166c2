"""Whether a run can work in this cluster, asked before it is submitted: each finding with its remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from jobs.contract.errors import AiosError
from k8s import helm
from k8s.cluster import probe
from k8s.cluster.client import Api, find, namespace_exists, no_namespace
from k8s.cluster.images import images
from k8s.cluster.placement import claim, placement, quantity
from k8s.cluster.rehearsal import rehearse
from k8s.findings import Finding, ok, problem, warning
from k8s.values import Values, enabled_steps

OLDEST = (1, 34)
OLDEST_HELM = (3, 17)
_RBAC = "rbac.authorization.k8s.io"
_TO_RUN = (
    ("batch", "jobs", "create"), ("batch", "jobs", "patch"), ("", "configmaps", "create"),
    ("", "serviceaccounts", "create"), (_RBAC, "roles", "create"), (_RBAC, "rolebindings", "create"),
    ("batch", "jobs", "watch"), ("", "pods", "watch"), ("", "configmaps", "watch"), ("", "pods/log", "get"),
)  # fmt: skip
_TO_COPY = (("", "pods", "create"), ("", "pods", "delete"), ("", "pods/exec", "create"))
Check = Callable[[Api, Values], Iterator[Finding]]


def examine(api: Api, values: Values) -> Iterator[Finding]:
    """Yield findings; stops early where nothing more can be asked. Starts a pod that looks at disk and hub."""
    found = [*_tried(_helm, api, values), *quick(api, values)]
    yield from found
    if all(finding.level != "problem" for finding in found):
        yield from _tried(probe.examine, api, values)


def quick(api: Api, values: Values) -> Iterator[Finding]:
    """Yield what can be said without starting anything: `submit` asks this much."""
    try:
        yield from _server(api)
        exists = namespace_exists(api)
    except AiosError as exc:
        yield problem(exc.found, exc.next_step or "correct the kubeconfig or its context")
        return
    if exists is False:
        missing = no_namespace(api)
        yield problem(missing.found, missing.next_step)
        return
    rights = list(_rights(api))
    yield from rights
    if any(finding.level == "problem" for finding in rights):
        return  # what follows would say the same again, in other words
    for check in (claim, placement, images, _secrets, _quota, _admission):
        yield from _tried(check, api, values)


def for_submission(api: Api, values: Values) -> list[Finding]:
    """Return what keeps a run from starting, and as warnings what may change by itself: pools of nodes grow when a pod
    waits, and a node tells of images that were just loaded up to some minutes late.
    """
    found = [finding for finding in quick(api, values) if finding.level == "problem"]
    late = [*_tried(placement, api, values), *_tried(images, api, values)] if found else []
    return [replace(finding, level="warning") if finding in late else finding for finding in found]


def _tried(check: Check, api: Api, values: Values) -> Iterator[Finding]:
    try:
        yield from check(api, values)
    except AiosError as exc:
        name = check.__name__.strip("_")
        yield warning(f"{name} could not be looked at: {exc.found}", exc.next_step or "ask somebody who may")


def _server(api: Api) -> Iterator[Finding]:
    version = api.get("/version")
    numbers = (int(version["major"]), int(re.sub(r"\D", "", version["minor"])))
    text = f"Kubernetes {version['gitVersion']} at {api.connection.server}"
    yield ok(text) if numbers >= OLDEST else problem(text, f"upgrade to {OLDEST[0]}.{OLDEST[1]} or newer")


def _helm(api: Api, values: Values) -> Iterator[Finding]:
    client = helm.version()
    match = re.match(r"v?(\d+)\.(\d+)", client)
    old = match is not None and (int(match[1]), int(match[2])) < OLDEST_HELM
    yield problem(f"helm {client}", "install helm 3.17 or newer, see helm.sh") if old else ok(f"helm {client}")


def _rights(api: Api) -> Iterator[Finding]:
    # Helm keeps its records in Secrets unless it is told otherwise, as the panel's pod is.
    in_secrets = os.environ.get("HELM_DRIVER", "secret") in ("", "secret", "secrets")
    needed = (*_TO_RUN, ("", "secrets", "create")) if in_secrets else _TO_RUN
    denied = [f"{verb} {resource}" for group, resource, verb in needed if not _may(api, group, resource, verb)]
    if denied:
        yield problem(
            f"you may not {', '.join(denied)} in {api.namespace}", "ask for the role `admin` of the namespace"
        )
        return
    yield ok(f"you may install runs in {api.namespace}")
    denied = [f"{verb} {resource}" for group, resource, verb in _TO_COPY if not _may(api, group, resource, verb)]
    if denied:
        yield warning(f"you may not {', '.join(denied)}", "without it `aios jobs upload` and `download` do not work")


def _may(api: Api, group: str, resource: str, verb: str) -> bool:
    kind, _, sub = resource.partition("/")
    attributes = {"namespace": api.namespace, "group": group, "resource": kind, "verb": verb, "subresource": sub}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
              "spec": {"resourceAttributes": attributes}}  # fmt: skip
    answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"].get("allowed"))


def _secrets(api: Api, values: Values) -> Iterator[Finding]:
    for name, step in enabled_steps(values).items():
        for wanted in step.get("secrets") or []:
            secret = find(api, "secrets", wanted["secret"])
            if secret is None or wanted["key"] not in (secret.get("data") or {}):
                yield problem(
                    f"{name} wants the key {wanted['key']} of the Secret {wanted['secret']}, which is not there",
                    f"kubectl -n {api.namespace} create secret generic {wanted['secret']}"
                    f" --from-file={wanted['key']}=FILE",
                )


def _quota(api: Api, values: Values) -> Iterator[Finding]:
    """Yield what a quota lacks: steps run one at a time, each beside the conductor."""
    needed = {"count/jobs.batch": len(enabled_steps(values)) + 1.0, "pods": 2.0}
    for step in enabled_steps(values).values():
        pods = max(step.get("nodes") or 1, step.get("shards") or 1)
        for kind in ("requests", "limits"):
            for resource, amount in ((step.get("resources") or {}).get(kind) or {}).items():
                own = (values["conductor"]["resources"].get(kind) or {}).get(resource, 0)
                key = f"requests.{resource}" if "/" in resource else f"{kind}.{resource}"
                needed[key] = max(needed.get(key, 0.0), pods * quantity(amount) + quantity(own))
    for quota in api.get(api.path("resourcequotas"))["items"]:
        hard, used = quota["status"].get("hard") or {}, quota["status"].get("used") or {}
        for key in sorted(needed.keys() & hard.keys()):
            free = quantity(hard[key]) - quantity(used.get(key, 0))
            if free < needed[key]:
                yield problem(
                    f"the quota {quota['metadata']['name']} leaves {free:g} of {key}, the run needs {needed[key]:g}",
                    "uninstall runs that have ended, lower steps.NAME.resources, or raise it",
                )


def _admission(api: Api, values: Values) -> Iterator[Finding]:
    refusals = list(rehearse(api, values))
    for exc in refusals:
        yield problem(
            f"the API server refuses the run: {exc.found}",
            exc.next_step or "see the message; `aios jobs render --manifests` shows the object",
        )
    if not refusals:
        yield ok("the API server accepts every object of the run and every pod")
