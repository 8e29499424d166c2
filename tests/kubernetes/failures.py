"""Failures that a real cluster can be made to show, each as a Job and what to do to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
NODE = "corpus-node"
REGISTRY_PORT = 5055
REGISTRY = f"localhost:{REGISTRY_PORT}"
IMAGE = f"localhost/aios-alignment/launcher:{os.environ.get('AIOS_TEST_TAG', '0.1.0-cpu')}"
FAILED = '"type": "Failed"'
TRAP = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
_POLICY = {"rules": [
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3, 64, 65, 66, 71, 77, 78]}},
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
]}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One failure."""

    name: str
    code: str
    """Expected; empty: nothing is wrong."""
    job: Object
    shows: str
    """What the objects (as JSON) match when it has happened."""
    says: list[str] = field(default_factory=list)
    """Texts that the diagnosis must contain."""
    before: Callable[[str], list[Object]] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    act_when: str = ""
    act: Callable[[Any], object] | None = None
    patience: float = 60
    settle: float = 1.0
    warm_up: float = 0.0
    later: float = 0.0
    """Seconds after the recording at which the diagnosis is asked for."""
    nodes: bool = False
    kills_node: int = 0
    """The order among those after which the lone node is dead."""


def job(
    script: str = "sleep 300", *, spec: Object | None = None, container: Object | None = None,
    beside: list[Object] | None = None, **pod: Any,
) -> Object:  # fmt: skip
    """Return a Job as the chart makes them, with a shell script for a step."""
    step = {
        "name": "step", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script],
        "terminationMessagePolicy": "FallbackToLogsOnError", "resources": {"limits": {"memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    } | (container or {})  # fmt: skip
    step = {key: value for key, value in step.items() if value is not None}
    body = {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [step, *(beside or [])],
    } | pod  # fmt: skip
    labels = {"aios-alignment/step": "rm", "aios-alignment/run": "demo"}
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "demo-rm", "labels": labels},
        "spec": {"backoffLimit": 4, "podReplacementPolicy": "Failed", "podFailurePolicy": _POLICY,
                 "template": {"metadata": {"labels": labels}, "spec": body}} | (spec or {}),
    }  # fmt: skip


def said(code: int, **message: Any) -> str:
    """Return a script that leaves the supervisor's last message and exits."""
    text = json.dumps({"exit_code": code, "state": "failed", "message": "", "manifest_sha256": None} | message)
    return f"echo '{text}' > /dev/termination-log; exit {code}"


def _beside(name: str, script: str, **more: Any) -> Object:
    return {"name": name, "image": IMAGE, "command": ["/bin/sh", "-c", script],
            "resources": {"limits": {"memory": "32Mi"}}} | more  # fmt: skip


def _claimed(claim: str) -> Object:
    return {"volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": claim}}]}


def _claim(**spec: Any) -> Object:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}} | spec
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "aios-workspace"}, "spec": spec}


def _volume(space: str, **spec: Any) -> list[Object]:
    """Return a claim and the volume that it is bound to."""
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "claimRef": {"namespace": space, "name": "aios-workspace"},
            "persistentVolumeReclaimPolicy": "Retain"} | spec  # fmt: skip
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": space}, "spec": spec}
    return [volume, _claim(storageClassName="", volumeName=space)]


_MOUNTED = {"volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}]}
ON_LONE = {"nodeSelector": {"corpus": "lone"}, "tolerations": [
    {"key": "corpus", "operator": "Exists"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
]}  # fmt: skip


def _evict(recorder: Any) -> None:
    name = recorder.pod()
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    recorder.api.create(f"{recorder.api.path('pods', name)}/eviction", body)


def _delete(recorder: Any) -> None:
    recorder.api.delete(recorder.api.path("pods", recorder.pod()))


def _delete_by_force(recorder: Any) -> None:
    recorder.api.delete(recorder.api.path("pods", recorder.pod()), gracePeriodSeconds=0)


def _lose_volume(recorder: Any) -> None:
    path = f"/api/v1/persistentvolumes/{recorder.space}"
    recorder.api.delete(path)
    recorder.api.patch(path, {"metadata": {"finalizers": None}})
    recorder.api.patch(recorder.api.path("pods", recorder.pod()), {"spec": {"schedulingGates": []}})


def _delete_node(recorder: Any) -> None:
    recorder.lone.alive = False
    recorder.api.delete(f"/api/v1/nodes/{NODE}")


def _important(space: str) -> list[Object]:
    """Return a pod of high priority that wants the whole lone node."""
    spec = {"priorityClassName": "corpus-high", "containers": [
        {"name": "x", "image": IMAGE, "resources": {"requests": {"cpu": "1500m"}}}]} | ON_LONE  # fmt: skip
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "important"}, "spec": spec}]


def _preempt(recorder: Any) -> None:
    for item in _important(recorder.space):
        recorder.api.create(recorder.api.path("pods"), item)


def cluster_objects() -> list[Object]:
    """Return what belongs to no namespace."""
    return [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "corpus-low"}, "value": -10},
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "corpus-high"}, "value": 10},
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "corpus-nowhere"}, "handler": "nowhere"},
    ]  # fmt: skip


def _policy(space: str) -> list[Object]:
    match = {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
             "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}}}  # fmt: skip
    spec = {"failurePolicy": "Fail", "matchConstraints": match,
            "validations": [{"expression": "false", "message": "images from registry.example only"}]}  # fmt: skip
    group = "admissionregistration.k8s.io/v1"
    return [
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": space}, "spec": spec},
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": space},
         "spec": {"policyName": space, "validationActions": ["Deny"]}},
    ]  # fmt: skip


def _webhook(space: str) -> list[Object]:
    hook = {"name": "guard.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 2,
            "clientConfig": {"url": "https://127.0.0.1:9/"}, "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}  # fmt: skip
    return [{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
             "metadata": {"name": space}, "webhooks": [hook]}]  # fmt: skip


def _quota(**hard: str) -> Callable[[str], list[Object]]:
    spec = {"hard": hard}
    return lambda space: [{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": spec}]


_LIMITS = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
           "spec": {"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]}}  # fmt: skip
_EMPTY_SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"other": "x"}}
_EMPTY_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"other": "x"}}


def _env(kind: str, name: str, key: str) -> Object:
    return {"env": [{"name": "HF_TOKEN", "valueFrom": {kind: {"name": name, "key": key}}}]}


def _mounts(volume: Object) -> tuple[Object, Object]:
    """Return the container's and the pod's part of one volume."""
    return {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"volumes": [{"name": "v"} | volume]}


def _with_volume(volume: Object) -> Object:
    container, pod = _mounts(volume)
    return job(container=container, **pod)


_ELF = "printf '\\177ELFnothing' > /v/program; chmod 755 /v/program"
_GANG = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 1}

CASES: list[Case] = [
    # No node
    Case(name="unschedulable-label", code="UNSCHEDULABLE", nodes=True, shows="didn't match Pod's node affinity",
         job=job(nodeSelector={"nvidia.com/gpu.product": "H100"}), says=["nvidia.com/gpu.product=H100", "the nearest"]),
    Case(name="unschedulable-affinity", code="UNSCHEDULABLE", nodes=True, shows="didn't match Pod's node affinity",
         job=job(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
             {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["s390x"]}]}]}}}),
         says=["kubernetes.io/arch In [s390x]"]),
    Case(name="unschedulable-gpu", code="UNSCHEDULABLE", nodes=True, shows="Insufficient nvidia",
         job=job(container={"resources": {"limits": {"nvidia.com/gpu": "1"}}}), says=["nvidia.com/gpu"]),
    Case(name="unschedulable-memory", code="UNSCHEDULABLE", shows="Insufficient memory",
         job=job(container={"resources": {"requests": {"memory": "900Gi"}}}), says=["not enough memory"]),
    Case(name="unschedulable-taint", code="UNSCHEDULABLE", nodes=True, shows="untolerated taint",
         job=job(nodeSelector={"corpus": "lone"}), says=["tainted", "corpus"]),
    Case(name="scheduling-gated", code="UNSCHEDULABLE", shows="SchedulingGated",
         job=job(schedulingGates=[{"name": "example.com/approval"}]), says=["example.com/approval"]),
    Case(name="kueue-gated", code="QUEUED_KUEUE", shows="SchedulingGated",
         job=job(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])),
    Case(name="no-scheduler", code="UNSCHEDULABLE", shows="Pending", later=60,
         job=job(schedulerName="nobody"), says=["nobody"]),
    Case(name="out-of-cpu", code="UNSCHEDULABLE", shows="OutOfcpu", says=["cpu"],
         job=job(nodeName="node-1", container={"resources": {"requests": {"cpu": "64"}}})),
    Case(name="node-affinity-refused", code="UNSCHEDULABLE", shows="NodeAffinity",
         job=job(nodeName="node-1", nodeSelector={"no": "such"}), says=["labels"]),
    # Claims and volumes
    Case(name="claim-missing", code="CONFIG", shows="not found", job=job(container=_MOUNTED, **_claimed("aios-workspace")),
         says=["aios-workspace does not exist"]),
    Case(name="claim-class-missing", code="CONFIG", shows="unbound immediate.*ProvisioningFailed|ProvisioningFailed.*unbound",
         job=job(container=_MOUNTED, **_claimed("aios-workspace")), says=["no-such-class", "not bound"],
         before=lambda space: [_claim(storageClassName="no-such-class")]),
    Case(name="claim-without-class", code="CONFIG", shows="unbound immediate", settle=3,
         job=job(container=_MOUNTED, **_claimed("aios-workspace")), says=["aios-workspace"],
         before=lambda space: [_claim()]),
    Case(name="claim-lost", code="CONFIG", shows='"Lost"', settle=3, says=["aios-workspace"],
         job=job(container=_MOUNTED, **_claimed("aios-workspace"), schedulingGates=[{"name": "x/y"}]),
         before=lambda space: _volume(space, hostPath={"path": "/var/tmp/corpus-none"}), act_when='"Bound"',
         act=_lose_volume),
    Case(name="claim-elsewhere", code="UNSCHEDULABLE", shows="volume node affinity conflict|didn't match PersistentVolume",
         job=job(container=_MOUNTED, **_claimed("aios-workspace")), says=["volume"],
         before=lambda space: _volume(space, local={"path": "/var/tmp/corpus-none"}, nodeAffinity={"required": {
             "nodeSelectorTerms": [{"matchExpressions": [
                 {"key": "kubernetes.io/hostname", "operator": "In", "values": ["far-away"]}]}]}})),
    Case(name="mount-path-missing", code="CONFIG", shows="FailedMount", job=job(container=_MOUNTED, **_claimed("aios-workspace")),
         before=lambda space: _volume(space, hostPath={"path": "/var/tmp/corpus-none", "type": "Directory"}),
         says=["cannot be mounted"]),
    Case(name="attach-driver-missing", code="CONFIG", shows="FailedAttachVolume|FailedMount", patience=150,
         job=job(container=_MOUNTED, **_claimed("aios-workspace")),
         before=lambda space: _volume(space, csi={"driver": "csi.example.com", "volumeHandle": "v1"})),
    Case(name="mount-secret-missing", code="CONFIG", shows="FailedMount", says=["Secret hub does not exist"],
         job=_with_volume({"secret": {"secretName": "hub"}})),
    Case(name="mount-configmap-missing", code="CONFIG", shows="FailedMount", says=["ConfigMap settings does not exist"],
         job=_with_volume({"configMap": {"name": "settings"}})),
    Case(name="mount-key-missing", code="CONFIG", shows="FailedMount", says=["no key"],
         before=lambda space: [_EMPTY_MAP],
         job=_with_volume({"configMap": {"name": "settings", "items": [{"key": "a.yaml", "path": "a.yaml"}]}})),
    # Images
    Case(name="image-not-found", code="IMAGE_PERMANENT", shows="ErrImagePull", says=["404", "registry"],
         job=job(container={"image": f"{REGISTRY}/rm:404"})),
    Case(name="image-back-off", code="IMAGE_PERMANENT", shows="ImagePullBackOff",
         job=job(container={"image": f"{REGISTRY}/rm:404"})),
    Case(name="image-unauthorized", code="IMAGE_PERMANENT", shows="ErrImagePull", says=["pullSecrets"],
         job=job(container={"image": f"{REGISTRY}/rm:401"})),
    Case(name="image-forbidden", code="IMAGE_PERMANENT", shows="ErrImagePull", says=["pullSecrets"],
         job=job(container={"image": f"{REGISTRY}/rm:403"})),
    Case(name="image-rate-limited", code="IMAGE_TRANSIENT", shows="ErrImagePull", job=job(container={"image": f"{REGISTRY}/rm:429"})),
    Case(name="image-registry-ill", code="IMAGE_TRANSIENT", shows="ErrImagePull", job=job(container={"image": f"{REGISTRY}/rm:503"})),
    Case(name="image-registry-down", code="IMAGE_TRANSIENT", shows="ErrImagePull", job=job(container={"image": "localhost:9/rm:1"})),
    Case(name="image-no-such-host", code="IMAGE_TRANSIENT", shows="ErrImagePull",
         job=job(container={"image": "registry.invalid/rm:1"})),
    Case(name="image-invalid-name", code="IMAGE_PERMANENT", shows="InvalidImageName", job=job(container={"image": "Registry//RM:1"})),
    Case(name="image-never-pulled", code="IMAGE_PERMANENT", shows="ErrImageNeverPull", says=["images-load"],
         job=job(container={"image": "localhost/rm:0", "imagePullPolicy": "Never"})),
    Case(name="image-of-init", code="IMAGE_PERMANENT", shows="ErrImagePull", says=["init:404"],
         job=job(initContainers=[_beside("init", "true", image=f"{REGISTRY}/init:404")])),
    Case(name="image-of-sidecar", code="IMAGE_PERMANENT", shows="ErrImagePull", says=["proxy:404"],
         job=job(initContainers=[_beside("proxy", "true", image=f"{REGISTRY}/proxy:404", restartPolicy="Always")])),
    # Configuration of the container
    Case(name="secret-missing", code="CONFIG", shows="CreateContainerConfigError", says=["Secret hub does not exist"],
         job=job(container=_env("secretKeyRef", "hub", "token"))),
    Case(name="secret-key-missing", code="CONFIG", shows="CreateContainerConfigError", says=["no key token"],
         before=lambda space: [_EMPTY_SECRET], job=job(container=_env("secretKeyRef", "hub", "token"))),
    Case(name="configmap-missing", code="CONFIG", shows="CreateContainerConfigError", says=["ConfigMap settings"],
         job=job(container=_env("configMapKeyRef", "settings", "token"))),
    Case(name="configmap-key-missing", code="CONFIG", shows="CreateContainerConfigError", says=["no key token"],
         before=lambda space: [_EMPTY_MAP], job=job(container=_env("configMapKeyRef", "settings", "token"))),
    Case(name="image-runs-as-root", code="CONFIG", shows="CreateContainerConfigError", says=["root"],
         job=job(securityContext={"runAsNonRoot": True, "runAsUser": 0})),
    Case(name="no-such-program", code="CONFIG", shows="StartError", says=["no program"],
         job=job(container={"command": ["aiox"]}, spec={"backoffLimit": 0})),
    Case(name="program-not-executable", code="CONFIG", shows="StartError", says=["executed"],
         job=job(container={"command": ["/etc/hostname"]}, spec={"backoffLimit": 0})),
    Case(name="wrong-architecture", code="IMAGE_PERMANENT", shows="exec format", says=["architecture"],
         job=job(initContainers=[_beside("build", _ELF, volumeMounts=[{"name": "v", "mountPath": "/v"}])], spec={"backoffLimit": 0},
                 container={"command": ["/v/program"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                 volumes=[{"name": "v", "emptyDir": {}}])),
    Case(name="runtime-handler-missing", code="CONFIG", shows="FailedCreatePodSandBox", says=["nowhere"],
         job=job(runtimeClassName="corpus-nowhere")),
    Case(name="subpath-escapes", code="CONFIG", shows="CreateContainerConfigError|CreateContainerError|FailedCreate",
         job=job(container={"volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(NOPE)/x"}]},
                 volumes=[{"name": "v", "emptyDir": {}}])),
    # The API server refuses the pod
    Case(name="quota-exceeded", code="UNSCHEDULABLE", shows="exceeded quota", before=_quota(**{"limits.memory": "1Mi"}),
         job=job(), says=["quota team"]),
    Case(name="quota-wants-limits", code="CONFIG", shows="must specify", before=_quota(**{"limits.cpu": "1"}), job=job(),
         says=["limits.cpu"]),
    Case(name="limit-range", code="CONFIG", shows="maximum memory usage", before=lambda space: [_LIMITS], job=job(),
         says=["LimitRange"]),
    Case(name="pod-security", code="CONFIG", shows="violates PodSecurity", says=["restricted"],
         labels={"pod-security.kubernetes.io/enforce": "restricted"}, job=job(hostNetwork=True)),
    Case(name="service-account-missing", code="CONFIG", shows="serviceaccount", says=["trainer"],
         job=job(serviceAccountName="trainer")),
    Case(name="priority-class-missing", code="CONFIG", shows="FailedCreate", says=["no-such-class"],
         job=job(priorityClassName="no-such-class")),
    Case(name="runtime-class-missing", code="CONFIG", shows="FailedCreate", says=["no-such-runtime"],
         job=job(runtimeClassName="no-such-runtime")),
    Case(name="policy-denies", code="CONFIG", shows="images from registry.example only", says=["registry.example"],
         before=_policy, job=job(spec={"suspend": False}), patience=30, settle=2),
    Case(name="webhook-down", code="CONFIG", shows="failed calling webhook", says=["guard.example.com"], before=_webhook,
         job=job()),
    # How containers end
    Case(name="running", code="", shows='"running"', job=job()),
    Case(name="succeeded", code="", shows='"Complete"',
         job=job(said(0, state="succeeded", manifest_sha256="a" * 64, attempt_id="1"))),
    Case(name="zero-without-proof", code="APP_UNPROVEN", shows='"Complete"', job=job("exit 0"), says=["published"]),
    Case(name="bad-data", code="APP_DATA", shows=FAILED, job=job(said(65, message="the file is empty", log="line 1")),
         says=["the file is empty"]),
    Case(name="bad-settings-no-message", code="APP_CONFIG", shows=FAILED, job=job("echo 'Error: the ratios add up to 2' >&2; exit 64"),
         says=["the ratios add up to 2"]),
    Case(name="diverged", code="APP_DIVERGED", shows=FAILED, job=job(said(71, message="the train loss is nan"))),
    Case(name="gpu-memory", code="OOM_GPU", shows=FAILED, says=["batch_size"],
         job=job(said(71, message="the GPU is out of memory (CUDA out of memory. Tried to allocate 2.00 GiB)"))),
    Case(name="crashes", code="APP_1", shows='"BackoffLimitExceeded"', job=job("echo 'ValueError: x'; exit 1", spec={"backoffLimit": 0}),
         says=["ValueError: x"]),
    Case(name="interrupted", code="INTERRUPTED_SAVED", shows='"exitCode": 75', job=job(said(75, message="saved step 40")),
         says=["checkpoint"]),
    Case(name="gpu-fault", code="GPU_NODE_BAD", shows='"exitCode": 70', says=["node-1"],
         job=job(said(70, message="CUDA error: uncorrectable ECC error encountered"))),
    Case(name="hung-and-ended", code="HUNG", shows='"exitCode": 70',
         job=job(said(70, cause="hung", message="no progress for 11 min (median step 2.1 s)")), says=["no progress"]),
    Case(name="out-of-memory", code="OOM_CONTAINER", shows='"phase": "Failed"', says=["limit 64Mi", "96Mi"],
         job=job("exec python3 -c \"b = bytearray(400 << 20)\"", spec={"backoffLimit": 0})),
    Case(name="out-of-memory-child", code="OOM_CONTAINER", shows='"terminated"', says=["64Mi"],
         job=job(f"python3 -c 'b = bytearray(400 << 20)' || {said(71, cause='memory', message='out of memory', memory={'limit': 67108864, 'peak': 67108864})}",
                 spec={"backoffLimit": 0})),
    Case(name="out-of-memory-exit-0", code="OOM_CONTAINER", shows='"terminated"', settle=3,
         job=job("python3 -c 'b = bytearray(400 << 20)'; sleep 1; exit 0", spec={"backoffLimit": 0})),
    Case(name="segfault", code="APP_139", shows='"exitCode": 139', job=job("sh -c 'kill -SEGV $$$$'; exit $?", spec={"backoffLimit": 0}), says=["SIGSEGV"]),
    Case(name="sigkill-from-outside", code="APP_137", shows='"exitCode": 137', job=job("exit 137", spec={"backoffLimit": 0}),
         says=["SIGKILL"]),
    Case(name="init-fails", code="APP_1", shows=FAILED, says=["init"],
         job=job(initContainers=[_beside("init", "echo 'no route'; exit 1", terminationMessagePolicy="FallbackToLogsOnError")],
                 spec={"backoffLimit": 0})),
    Case(name="sidecar-ends-143", code="", shows='"Complete"', patience=90,
         job=job("sleep 2; " + said(0, state="succeeded", manifest_sha256="a" * 64),
                 initContainers=[_beside("proxy", "exec sleep 600", restartPolicy="Always")])),
    Case(name="container-beside-lasts", code="CONFIG", shows='"terminated"', says=["proxy"], later=120,
         job=job("sleep 1; " + said(0, state="succeeded", manifest_sha256="a" * 64), beside=[_beside("proxy", "sleep 600")])),
    Case(name="deadline-of-pod", code="DEADLINE", shows='"phase": "Failed"', job=job(TRAP, activeDeadlineSeconds=3), says=["3 s"]),
    Case(name="deadline-of-job", code="DEADLINE", shows='"DeadlineExceeded"', settle=12,
         job=job(TRAP, spec={"activeDeadlineSeconds": 3})),
    Case(name="emptydir-full", code="EVICTED_DISK", shows='"phase": "Failed"', patience=180, says=["tmpSize", "10Mi"],
         job=job("dd if=/dev/zero of=/v/x bs=1M count=40 2>/dev/null; sleep 300",
                 container={"volumeMounts": [{"name": "tmp", "mountPath": "/v"}]},
                 volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "10Mi"}}])),
    Case(name="own-disk-full", code="EVICTED_DISK", shows='"phase": "Failed"', patience=180, says=["10Mi"],
         job=job("dd if=/dev/zero of=/tmp/x bs=1M count=40 2>/dev/null; sleep 300",
                 container={"resources": {"limits": {"memory": "64Mi", "ephemeral-storage": "10Mi"}}})),
    # What befalls pods
    Case(name="evicted-saves", code="DRAINED", act_when='"running"', act=_evict, shows='"exitCode": 75', says=["saved step 40"],
         job=job("end() { " + said(75, message="saved step 40") + "; }; trap end TERM; while :; do sleep 0.2; done")),
    Case(name="evicted-traps-and-exits-0", code="DRAINED", act_when='"running"', act=_evict, shows='"exitCode": 0',
         job=job(TRAP), says=["no success"]),
    Case(name="evicted-143", code="DRAINED", act_when='"running"', act=_evict, shows='"exitCode": 143', job=job("trap 'exit 143' TERM; while :; do sleep 0.2; done")),
    Case(name="evicted-killed", code="DRAINED", act_when='"running"', act=_evict, shows='"exitCode": 137', job=job("sleep 300")),
    Case(name="deleted", code="USER_DELETED", act_when='"running"', act=_delete, shows='"deletionTimestamp"', settle=0,
         job=job("trap '' TERM; while :; do sleep 0.2; done", terminationGracePeriodSeconds=20)),
    Case(name="deleted-while-pending", code="USER_DELETED", act_when="ContainerCreating|Unschedulable", act=_delete,
         shows='"deletionTimestamp"', settle=0, job=job(**ON_LONE)),
    Case(name="preempted", code="PREEMPTED", act_when='"PodScheduled", .{0,200}"True"|"status": "True", "type": "PodScheduled"', act=_preempt,
         shows="PreemptionBy", job=job(priorityClassName="corpus-low", **ON_LONE, container={"resources": {"requests": {"cpu": "1500m"}}})),
    Case(name="zombie", code="ZOMBIE_TERMINATING", act_when='"type": "PodScheduled"', act=_delete, shows='"deletionTimestamp"',
         later=300, says=["--grace-period=0 --force", "out-of-service"], nodes=True, job=job(**ON_LONE)),
    Case(name="node-silent", code="NODE_LOST", shows="DeletionByTaintManager", patience=240, kills_node=2, job=job(**ON_LONE)),
    Case(name="node-removed", code="NODE_LOST", act_when='"nodeName"', act=_delete_node, shows="DeletionByPodGC", patience=180,
         kills_node=1, job=job(**ON_LONE)),
    Case(name="gang-one-rank-fails", code="APP_DIVERGED", shows=FAILED, says=["loss"], settle=3,
         job=job('test "$JOB_COMPLETION_INDEX" = 1 && { sleep 2; ' + said(71, message="the train loss is nan") + "; }; " + TRAP, spec=_GANG)),
]  # fmt: skip
