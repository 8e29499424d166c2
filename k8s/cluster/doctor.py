"""Whether a run can work in this cluster, asked before it is submitted: each finding with its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from jobs.contract.errors import AiosError, NotAuthorised
from k8s import helm
from k8s.cluster.client import Api, ApiError, Object, find
from k8s.findings import Finding, ok, problem, warning
from k8s.values import Values, enabled_steps

OLDEST = (1, 34)
_RIGHTS = (
    ("batch", "jobs", "create"), ("", "configmaps", "create"), ("", "serviceaccounts", "create"),
    ("", "secrets", "create"),
    ("rbac.authorization.k8s.io", "roles", "create"), ("rbac.authorization.k8s.io", "rolebindings", "create"),
    ("batch", "jobs", "patch"), ("", "pods", "list"), ("", "pods/log", "get"),
)  # fmt: skip


def examine(api: Api, values: Values) -> Iterator[Finding]:
    """Yield findings; stops early where nothing more can be asked."""
    try:
        yield from _server(api)
    except AiosError as exc:
        yield problem(str(exc), "correct the kubeconfig or its context")
        return
    namespace = _allowed(lambda: find_namespace(api))
    if namespace is False:
        yield problem(
            f"the namespace {api.namespace} does not exist",
            f"kubectl create namespace {api.namespace}, then helm install platform charts/platform -n {api.namespace}",
        )
        return
    yield from _rights(api)
    for check in (_claim, _placement, _secrets, _quota, _admission):
        try:
            yield from check(api, values)
        except NotAuthorised as exc:
            yield warning(f"{check.__name__.strip('_')} could not be looked at: {exc.found}", "ask somebody who may")


def _server(api: Api) -> Iterator[Finding]:
    version = api.get("/version")
    numbers = (int(version["major"]), int(re.sub(r"\D", "", version["minor"])))
    text = f"Kubernetes {version['gitVersion']} at {api.connection.server}"
    if numbers < OLDEST:
        yield problem(text, f"upgrade to {OLDEST[0]}.{OLDEST[1]} or newer")
    else:
        yield ok(text)
    yield ok(f"helm {helm.version()}")


def find_namespace(api: Api) -> bool:
    """Tell whether our namespace exists."""
    try:
        api.get(f"/api/v1/namespaces/{api.namespace}")
    except ApiError as exc:
        if exc.status == 404:
            return False
        raise
    return True


def _allowed(question: Callable[[], bool]) -> bool | None:
    """Ask, and take None for "we may not know"."""
    try:
        return question()
    except NotAuthorised:
        return None


def _rights(api: Api) -> Iterator[Finding]:
    denied = []
    for group, resource, verb in _RIGHTS:
        kind, _, sub = resource.partition("/")
        attributes = {"namespace": api.namespace, "group": group, "resource": kind, "verb": verb, "subresource": sub}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                  "spec": {"resourceAttributes": attributes}}  # fmt: skip
        answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        if not answer["status"].get("allowed"):
            denied.append(f"{verb} {resource}")
    if denied:
        yield problem(
            f"you may not {', '.join(denied)} in {api.namespace}", "ask for the role `edit` or `admin` of the namespace"
        )
    else:
        yield ok(f"you may install runs in {api.namespace}")


def _claim(api: Api, values: Values) -> Iterator[Finding]:
    name = values["workspace"]["claim"]
    claim = find(api, "persistentvolumeclaims", name)
    if claim is None:
        yield problem(
            f"there is no claim {name} in {api.namespace}",
            f"helm install platform charts/platform -n {api.namespace} --set workspace.claim={name}",
        )
        return
    modes, phase = claim["spec"]["accessModes"], claim["status"].get("phase")
    if phase == "Lost":
        yield problem(f"the claim {name} has lost its volume", "restore the volume or make another claim")
    elif phase == "Pending":
        yield warning(f"the claim {name} is not bound yet", "fine for classes that wait for the first pod; else see "
                      f"`kubectl describe pvc {name}`")  # fmt: skip
    if "ReadWriteMany" in modes:
        yield ok(f"claim {name}, {', '.join(modes)}: steps may run on any node")
        return
    steps = enabled_steps(values)
    spread = [step for step, given in steps.items() if int(given.get("nodes") or 1) > 1]
    if spread:
        yield problem(
            f"{', '.join(spread)} runs on several nodes, but the claim {name} is {', '.join(modes)}",
            "make the claim ReadWriteMany (NFS, EFS, Filestore, CephFS)",
        )
        return
    nodes = _nodes(api)
    usable = {
        step: [n["metadata"]["name"] for n in nodes if not _objections(n, given)] for step, given in steps.items()
    }
    common = set.intersection(*(set(names) for names in usable.values())) if nodes else set()
    if nodes and all(usable.values()) and not common:
        yield problem(
            f"the claim {name} is {', '.join(modes)}, but no single node takes all steps",
            "make the claim ReadWriteMany, or give all steps the same nodeSelector",
        )
    elif len(nodes) > 1:
        text = f"the claim {name} is {', '.join(modes)} and there are {len(nodes)} nodes"
        yield warning(f"{text}: it follows the steps, about a minute each time", "ReadWriteMany avoids it")
    else:
        yield ok(f"claim {name}, {', '.join(modes)}, one node")


def _nodes(api: Api) -> list[Object]:
    return [node for node in api.get("/api/v1/nodes")["items"] if not node["spec"].get("unschedulable")]


def _objections(node: Object, step: dict[str, Any]) -> list[str]:
    """Return what keeps a step off a node: labels, products, extended resources."""
    labels, allocatable = node["metadata"].get("labels") or {}, node["status"].get("allocatable") or {}
    wanted = {str(key): str(value) for key, value in (step.get("nodeSelector") or {}).items()}
    found = [f"label {key}={value}" for key, value in wanted.items() if labels.get(key) != value]
    products = step.get("gpuProducts") or []
    if products and labels.get("nvidia.com/gpu.product") not in products:
        found.append(f"nvidia.com/gpu.product in {products}")
    limits = (step.get("resources") or {}).get("limits") or {}
    for resource, amount in limits.items():
        if "/" in resource and int(allocatable.get(resource, 0)) < int(amount):
            found.append(f"{amount} {resource} (has {allocatable.get(resource, 0)})")
    return found


def _placement(api: Api, values: Values) -> Iterator[Finding]:
    nodes = _nodes(api)
    for name, step in enabled_steps(values).items():
        needed = int(step.get("nodes") or 1)
        fitting = [node for node in nodes if not _objections(node, step)]
        if len(fitting) >= needed:
            if step.get("nodeSelector") or "gpu" in str(step.get("resources")):
                yield ok(f"{name}: {len(fitting)} of {len(nodes)} nodes fit")
            continue
        nearest = min(nodes, key=lambda node, step=step: len(_objections(node, step)), default=None)  # type: ignore[misc]
        missing = ", ".join(_objections(nearest, step)) if nearest else "there are no nodes"
        near = f"{nearest['metadata']['name']} lacks: {missing}" if nearest else missing
        yield problem(
            f"{name}: {len(fitting)} of {len(nodes)} nodes fit, {needed} needed; the nearest, {near}",
            "correct nodeSelector and limits, or add a node pool (an autoscaler may: then this is expected)",
        )
    yield from _images(nodes, values)


def _images(nodes: list[Object], values: Values) -> Iterator[Finding]:
    """Look for images on the nodes where nothing may be pulled."""
    if values["image"]["pullPolicy"] != "Never":
        return
    there = {
        name for node in nodes for image in node["status"].get("images") or [] for name in image.get("names") or []
    }
    images = [step["image"] for step in enabled_steps(values).values()] + [values["conductor"]["image"]]
    wanted = {f"{values['image']['registry']}/{i['name']}:{i.get('tag') or values['image']['tag']}" for i in images}
    missing = sorted(name for name in wanted if name not in there)
    if missing:
        yield problem(f"not on any node, and pullPolicy is Never: {', '.join(missing)}", "make images images-load")
    else:
        yield ok("all images are on the nodes")


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
    for quota in api.get(api.path("resourcequotas"))["items"]:
        hard, used = quota["status"].get("hard") or {}, quota["status"].get("used") or {}
        for key in ("count/jobs.batch", "pods"):
            needed = len(enabled_steps(values)) + 1 if key == "count/jobs.batch" else 2
            if key in hard and int(hard[key]) - int(used.get(key, 0)) < needed:
                yield problem(
                    f"the quota {quota['metadata']['name']} leaves {int(hard[key]) - int(used.get(key, 0))} of {key}",
                    "uninstall runs that have ended, or raise it",
                )


def _admission(api: Api, values: Values) -> Iterator[Finding]:
    try:
        helm.install(
            f"{values['run']['name']}-dry",
            values,
            context=api.connection.context,
            namespace=api.namespace,
            dry_run=True,
        )
    except AiosError as exc:
        yield problem(
            f"the API server refuses the run: {exc}", "see the message; `aios jobs render --manifests` shows it"
        )
    else:
        yield ok("the API server accepts every object of the run")
