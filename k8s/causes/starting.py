"""Why a pod does not start: image, configuration, volumes, network, and no node that takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k8s.causes.devices import FAULT, refused_device
from k8s.causes.diagnosis import CONFIG_GRACE_S, IMAGE_GRACE_S, Diagnosis, Scene
from k8s.causes.placement import nearest
from k8s.objects import condition, container, event_time, events_of, last_message, name_of, node_of, seconds, waiting

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
          "RegistryUnavailable", "SignatureValidationFailed")  # fmt: skip
_ALWAYS = ("InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed")
_PERMANENT = re.compile(
    r"not found|unauthorized|authentication required|denied|forbidden|manifest.{0,20}unknown|name unknown"
    r"|no match for platform|no matching manifest|invalid reference|NeverPull|not present with pull policy"
    r"|HTTP response to HTTPS client|no basic auth credentials|unsupported media type", re.IGNORECASE,
)  # fmt: skip
_PASSING = re.compile(
    r"i/o timeout|timed? ?out|deadline exceeded|connection re(fused|set)|no such host|temporary failure"
    r"|too ?many ?requests|\b429\b|status:? 5\d\d|\b50[0234] |unexpected EOF|TLS handshake timeout|no space left"
    r"|network is unreachable|server misbehaving|no route to host|pull QPS exceeded", re.IGNORECASE,
)  # fmt: skip
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PostStartHookError",
           "PreCreateHookError", "PreStartHookError", "StartError", "ContainerCannotRun")  # fmt: skip
_PASSES = re.compile(
    r"failed to sync (secret|configmap) cache|is reserved for|context deadline exceeded", re.IGNORECASE
)
_SILENT_S = 30.0


def cannot_start(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that is bound to a node but whose containers do not come up."""
    if scene.status.get("phase") in ("Succeeded", "Failed"):
        return None
    for wait in waiting(scene.pod):
        reason, message = wait.get("reason", ""), wait.get("message", "")
        if reason in _IMAGE:
            return _image(scene, wait, reason, message)
        if reason in _CONFIG:
            return cannot_run(scene, message, container_name=wait.get("container", ""))
    if scene.status.get("phase") == "Pending" and node_of(scene.pod):
        return _mounting(scene) or _sandbox(scene)
    return None


def _image(scene: Scene, wait: Mapping[str, Any], reason: str, message: str) -> Diagnosis:
    image = _specified(scene, wait.get("container", "")).get("image") or wait.get("image") or "?"
    pulls = [e for e in scene.events if e.get("reason") == "Failed" and "pull image" in str(e.get("message", ""))]
    if "Back-off" in message and ":" not in message.partition('"')[2].partition('"')[2] and pulls:
        message = str(pulls[-1].get("message", ""))  # servers before 1.31 name the cause in the event only
    passing = _PASSING.search(message) is not None and reason not in _ALWAYS
    permanent = reason in _ALWAYS or (not passing and _PERMANENT.search(message.replace(image, "")) is not None)
    return Diagnosis(
        code="IMAGE_PERMANENT" if permanent else "IMAGE_TRANSIENT", node=node_of(scene.pod),
        summary=f"the image {image} cannot be pulled" + ("" if permanent else " yet"), detail=message,
        resolution=_image_advice(reason, message) if permanent or not passing else "wait: it is tried again and again; "
        "if it lasts, check the network between the node and the registry",
        fatal_after_s=IMAGE_GRACE_S if permanent else None,
    )  # fmt: skip


def _image_advice(reason: str, message: str) -> str:
    if reason == "InvalidImageName":
        return "correct image.registry, steps.NAME.image.name, tag or digest"
    if reason == "ErrImageNeverPull":
        return "image.pullPolicy is Never and the node does not have it: `make images-load`, or another pullPolicy"
    if reason == "SignatureValidationFailed":
        return "the node accepts signed images only: sign it, or take one that is"
    if re.search(r"unauthorized|authentication|denied|forbidden|credentials|\b40[13]\b", message, re.IGNORECASE):
        return "check the image's name, and the credentials in image.pullSecrets"
    if re.search(r"platform|no matching manifest", message, re.IGNORECASE):
        return "the image is not built for the node's architecture: build it for that too, or choose other nodes"
    if re.search(r"x509|certificate|HTTPS client|tls: ", message, re.IGNORECASE):
        return "the node does not trust the registry: configure its certificate on the nodes"
    return "check registry, tag, digest and image.pullSecrets; for a local cluster `make images-load`"


def _specified(scene: Scene, name: str) -> Mapping[str, Any]:
    spec = scene.pod.get("spec", {})
    every = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return next((c for c in every if c.get("name") == name), container(scene.pod))


def cannot_run(scene: Scene, message: str, *, container_name: str = "") -> Diagnosis:
    """Return the diagnosis of a container that cannot be made or whose program cannot be started."""
    node = node_of(scene.pod)
    image = _specified(scene, container_name).get("image", "")
    if "exec format error" in message:
        return Diagnosis(
            code="IMAGE_PERMANENT", summary=f"the image {image} is built for another architecture than the node {node}",
            detail=message, node=node, fatal_after_s=IMAGE_GRACE_S,
            resolution="build the image for the node's architecture, or choose other nodes (kubernetes.io/arch)",
        )  # fmt: skip
    if FAULT.search(message):
        return refused_device(scene, message)
    if re.search(r"OOM-killed|memory limit too low|cannot allocate memory", message):
        limit = ((container(scene.pod).get("resources") or {}).get("limits") or {}).get("memory", "none")
        return Diagnosis(
            code="OOM_CONTAINER", summary=f"out of memory before it started (limit {limit})", detail=message, node=node,
            resolution="raise steps.NAME.resources.limits.memory", fatal_after_s=CONFIG_GRACE_S,
        )  # fmt: skip
    summary, advice = _explain(message, image)
    grace = None if _PASSES.search(message) else CONFIG_GRACE_S
    return Diagnosis(code="CONFIG", summary=summary, detail=message, node=node, resolution=advice, fatal_after_s=grace)


_EXPLAINED: tuple[tuple[str, str, str], ...] = (
    (r"couldn't find key ([\w./-]+) in Secret (\S+)", "the Secret {1} has no key {0}",
     "add the key, or correct steps.NAME.secrets"),
    (r"couldn't find key ([\w./-]+) in ConfigMap (\S+)", "the ConfigMap {1} has no key {0}", "add the key"),
    (r"references non-existent (?:secret|config) key:? ?([\w./-]*)", "a Secret or ConfigMap has no key {0}",
     "add the key that the message names"),
    (r"[sS]ecret \"([^\"]+)\" not found", "the Secret {0} does not exist",
     "kubectl create secret generic {0} --from-file=KEY=FILE, or correct steps.NAME.secrets"),
    (r"[cC]onfig[mM]ap \"([^\"]+)\" not found", "the ConfigMap {0} does not exist",
     "make it; where it is RUN-status, the release is broken: install the run anew"),
    (r"persistentvolumeclaim \"([^\"]+)\" not found", "the claim {0} does not exist",
     "helm install platform charts/platform, or correct workspace.claim"),
    (r"runAsNonRoot.*image will run as root|breaks non-root policy",
     "the container would run as root, which the pod forbids",
     "set podSecurity.runAsUser, or build the image for another user"),
    (r"non-numeric user \(([^)]*)\)", "the image's user {0} is a name, so nobody can tell that it is not root",
     "set podSecurity.runAsUser to its number"),
    (r"exec: \"([^\"]+)\": .*(?:not found|no such file)", "the image has no program {0}",
     "correct steps.NAME.image, or the command"),
    (r"exec: \"([^\"]+)\": permission denied", "the program {0} of the image may not be executed",
     "build the image with the file executable for uid 10001"),
    (r"no command specified", "the image says no command and the step none either", "correct steps.NAME.image"),
    (r"(?:[rR]untime(?:Handler|Class)? ?|no runtime )(?:for )?\"([^\"]+)\"(?: is)?(?: not)?",
     "the node has no container runtime {0}",
     "correct steps.NAME.runtimeClassName, or install it on the nodes"),
)  # fmt: skip


def _explain(message: str, image: str) -> tuple[str, str]:
    for pattern, summary, advice in _EXPLAINED:
        match = re.search(pattern, message, re.DOTALL)
        if match:
            words = [word for word in match.groups() if word] or [""]
            return summary.format(*words), advice.format(*words)
    first = " ".join(message.split())[:300] or f"image {image}"
    return (
        f"the container cannot be made: {first}",
        "see the message; the Secret, key or setting that it names is wrong",
    )


# Volumes and network
def _mounting(scene: Scene) -> Diagnosis | None:
    attach = last_message(scene.events, "FailedAttachVolume")
    mount = last_message(scene.events, "FailedMount", "FailedMapVolume")
    message = mount if mount and "timed out waiting" not in mount else (attach or mount)
    if not message or _PASSES.search(message):
        return None
    node, claims = node_of(scene.pod), _claim_names(scene)
    if re.search(r"Multi-Attach|already (exclusively )?attached|already used by", message):
        return Diagnosis(
            code="CONFIG", summary=f"its volume ({', '.join(claims)}) is still attached to another node",
            detail=message, node=node,
            resolution="wait a minute after a step that ran elsewhere, six after a lost node; a ReadWriteMany claim "
            " avoids it",
        )  # fmt: skip
    summary, advice = _explain(message, "")
    if summary.startswith("the container cannot be made"):
        volume = re.search(r'for volume "([^"]+)"', message) or re.search(r"unmounted volumes=\[([^\]]+)\]", message)
        summary = f"the volume {volume[1] if volume else ', '.join(claims)} cannot be mounted on {node}"
        advice = f"see the message; `kubectl describe pvc {' '.join(claims)}`, and the storage driver on that node"
        return Diagnosis(code="CONFIG", summary=summary, detail=message, node=node, resolution=advice)
    return Diagnosis(code="CONFIG", summary=summary, detail=message, node=node, resolution=advice,
                     fatal_after_s=CONFIG_GRACE_S)  # fmt: skip


def _sandbox(scene: Scene) -> Diagnosis | None:
    message = last_message(scene.events, "FailedCreatePodSandBox", "NetworkNotReady", "FailedCreatePodContainer",
                           "FailedPodSandBoxStatus")  # fmt: skip
    if not message:
        return None
    node = node_of(scene.pod)
    summary, advice = _explain(message, "")
    if summary.startswith("the container cannot be made"):
        network = re.search(r"network|CNI|cni|IP address|\bIPs\b", message) is not None
        what = "give the pod a network" if network else "make the pod's sandbox"
        summary = f"the node {node} cannot {what}"
        advice = "it is tried again; look at the node's network plugin, or cordon the node"
        return Diagnosis(code="CONFIG", summary=summary, detail=message, node=node, resolution=advice)
    return Diagnosis(code="CONFIG", summary=summary, detail=message, node=node, resolution=advice,
                     fatal_after_s=CONFIG_GRACE_S)  # fmt: skip


def _claim_names(scene: Scene) -> list[str]:
    volumes = scene.pod.get("spec", {}).get("volumes") or []
    return [v["persistentVolumeClaim"]["claimName"] for v in volumes if v.get("persistentVolumeClaim")]


# No node
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
    message = scheduled.get("message", "")
    if scheduled.get("reason") == "SchedulingGated":
        gates = [g.get("name", "") for g in scene.pod.get("spec", {}).get("schedulingGates") or []]
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
    names = [quoted[1].rpartition("/")[2]] if quoted else _claim_names(scene)
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
