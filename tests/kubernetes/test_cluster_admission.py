"""What the API server lets in and what accounts may do, asked of the server itself; no pod is started."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from k8s.cluster.client import Object
from tests.kubernetes.cluster import Space, kubectl, new_space, until
from tests.kubernetes.rendering import CHARTS, helm, objects, render

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

REGISTRY = "registry.example/aios/"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A namespace whose admission policy is on; Pod Security is off in it, so that what refuses is ours."""
    with new_space(tmp_path_factory.mktemp("values")) as made:
        helm("upgrade", "platform", str(CHARTS / "platform"), "--namespace", made.namespace, "--reuse-values",
             "--set=admission.enabled=true", f"--set=admission.registries={{{REGISTRY}}}",
             "--set=admission.requireDigest=true")  # fmt: skip
        kubectl("label", "namespace", made.namespace, "pod-security.kubernetes.io/enforce-")
        try:
            until(lambda: "images come from" in create(made, pod(image="elsewhere/x@" + DIGEST)), 60)
            yield made
        finally:
            for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
                kubectl("delete", kind, f"aios-alignment-{made.namespace}", "--ignore-not-found", check=False)


def pod(image: str = f"{REGISTRY}rm@{DIGEST}", **spec: Any) -> Object:
    """Return a pod that is let in, changed."""
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"aios-alignment/step": "rm"}},
        "spec": {"automountServiceAccountToken": False, "containers": [{"name": "step", "image": image}]} | spec,
    }  # fmt: skip


def create(space: Space, document: Object) -> str:
    """Create an object as a trial; returns what the server has against it."""
    command = ["kubectl", "-n", space.namespace, "create", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr


HOST_PATH = [{"name": "host", "hostPath": {"path": "/"}}]
OTHER = {"name": "other", "image": f"docker.io/library/busybox@{DIGEST}"}
DENIED: dict[str, tuple[dict[str, Any], str]] = {
    "registry": ({"image": f"docker.io/aios/rm@{DIGEST}"}, f"images come from {REGISTRY}, not docker.io/aios/rm"),
    "registry that begins alike": ({"image": f"registry.example/aios-evil/rm@{DIGEST}"}, "images come from"),
    "init container": ({"initContainers": [OTHER]}, "images come from"),
    "tag": ({"image": f"{REGISTRY}rm:1"}, f"images are named by digest, not {REGISTRY}rm:1"),
    "host path": ({"volumes": HOST_PATH}, "mount no host paths"),
    "host network": ({"hostNetwork": True}, "use no host namespaces"),
    "host processes": ({"hostPID": True}, "use no host namespaces"),
    "privileged": (
        {"containers": [{"name": "step", "image": f"{REGISTRY}rm@{DIGEST}", "securityContext": {"privileged": True}}]},
        "are not privileged",
    ),
    "account": ({"serviceAccountName": "builder"}, "the service account builder is not one of default, aios-panel"),
    "conductor's account": ({"serviceAccountName": "demo-conductor"}, "the service account demo-conductor is not one"),
    "token": ({"automountServiceAccountToken": True}, "only the conductor and the panel get a service account token"),
    "token by default": ({"automountServiceAccountToken": None}, "only the conductor and the panel get"),
}


def test_a_pod_as_the_chart_makes_it_is_let_in(space: Space) -> None:
    """Each pod of a run whose images are named by digest passes, the conductor's with its account included."""
    digests = [f"--set=steps.{step}.image.digest={DIGEST}" for step in ("ingest", "rm", "dpo", "evaluation")]
    settings = [*digests, f"--set=conductor.image.digest={DIGEST}", f"--set=image.registry={REGISTRY.rstrip('/')}"]
    found = objects(render("run", space.values("demo"), *settings))
    for account in (item for item in found if item["kind"] == "ServiceAccount"):
        kubectl("-n", space.namespace, "create", "serviceaccount", account["metadata"]["name"])
    templates = {item["metadata"]["name"]: item["spec"]["template"] for item in found if item["kind"] == "Job"}
    assert len(templates) == 5
    for name, template in templates.items():
        template["metadata"]["name"] = name
        assert create(space, {"apiVersion": "v1", "kind": "Pod"} | copy.deepcopy(template)) == ""


@pytest.mark.parametrize("case", DENIED)
def test_other_pods_are_refused_with_the_reason(space: Space, case: str) -> None:
    """Foreign images, host resources, other accounts, tokens: refused by the API server, which says why."""
    kubectl("-n", space.namespace, "create", "serviceaccount", "builder", check=False)
    assert create(space, pod()) == ""
    changes, reason = DENIED[case]
    assert reason in create(space, pod(**changes))


def test_a_pod_without_our_labels_is_not_let_in_either(space: Space) -> None:
    """The policy is for all pods of the namespace: leaving a label out changes nothing."""
    document = pod(volumes=HOST_PATH)
    del document["metadata"]["labels"]
    assert "mount no host paths" in create(space, document)


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
KINDS = {
    "": ("pods", "pods/log", "pods/exec", "secrets", "configmaps", "serviceaccounts", "serviceaccounts/token",
         "persistentvolumeclaims", "events", "nodes", "namespaces"),
    "batch": ("jobs", "cronjobs"),
    "apps": ("deployments",),
    "rbac.authorization.k8s.io": ("roles", "rolebindings", "clusterroles"),
    "networking.k8s.io": ("networkpolicies",),
}  # fmt: skip
NAMES = ("", "demo-ingest", "demo-status", "demo-conductor", "other-ingest", "other-status")


def rights(space: Space, account: str) -> set[tuple[str, str, str]]:
    """Return every (verb, kind, name) that the server grants an account, of all that are asked."""
    granted = set()
    for group, kinds in KINDS.items():
        for kind, verb, name in itertools.product(kinds, VERBS, NAMES):
            resource, _, sub = kind.partition("/")
            wanted = {"namespace": space.namespace, "verb": verb, "group": group, "resource": resource,
                      "subresource": sub, "name": name}  # fmt: skip
            user = f"system:serviceaccount:{space.namespace}:{account}"
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{space.namespace}", "system:authenticated"]
            review = {"spec": {"user": user, "groups": groups, "resourceAttributes": wanted}}
            answer = space.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            if answer["status"]["allowed"]:
                granted.add((verb, kind, name))
    return granted


def test_the_conductor_may_read_its_namespace_and_patch_its_own_objects(space: Space) -> None:
    """Of over 800 questions the server grants: reading Jobs, pods, events; patching this run's Jobs, its status."""
    rules = [item for item in objects(render("run", space.values("demo"))) if item["kind"] in
             ("ServiceAccount", "Role", "RoleBinding")]  # fmt: skip
    for item in rules:
        item["metadata"]["namespace"] = item["metadata"].get("namespace", space.namespace)
        for subject in item.get("subjects", []):
            subject["namespace"] = space.namespace
        subprocess.run(["kubectl", "-n", space.namespace, "apply", "-f", "-"], input=json.dumps(
            item | {"metadata": item["metadata"] | {"namespace": space.namespace}}), text=True, check=True)  # fmt: skip
    reading = set(itertools.product(("get", "list", "watch"), ("jobs", "pods", "events"), NAMES))
    own = {
        ("patch", "jobs", "demo-ingest"),
        ("get", "configmaps", "demo-status"),
        ("patch", "configmaps", "demo-status"),
    }
    assert rights(space, "demo-conductor") == reading | own


def test_the_account_of_the_steps_may_nothing(space: Space) -> None:
    """Steps run as the namespace's default account, without a token, and no right is bound to it."""
    assert rights(space, "default") == set()
