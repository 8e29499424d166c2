"""Why a pod does not start: image, configuration, volumes, network, and no node that takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k8s.causes.devices import FAULT, refused_device
from k8s.causes.diagnosis import CONFIG_GRACE_S, IMAGE_GRACE_S, Diagnosis, Scene
from k8s.objects import container, last_message, name_of, node_of, waiting

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


def cannot_start(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that is bound to a node but whose containers do not come up."""
    if scene.status.get("phase") in ("Succeeded", "Failed"):
        return None
    for wait in waiting(scene.pod):
        reason, message = (wait.get("reason") or ""), (wait.get("message") or "")
        if reason in _IMAGE:
            return _image(scene, wait, reason, message)
        if reason in _CONFIG:
            return cannot_run(scene, message, container_name=wait.get("container", ""))
    if scene.status.get("phase") == "Pending" and node_of(scene.pod):
        return _mounting(scene) or _sandbox(scene)
    return None


def _image(scene: Scene, wait: Mapping[str, Any], reason: str, message: str) -> Diagnosis:
    image = _specified(scene, wait.get("container", "")).get("image") or wait.get("image") or "?"
    pulls = [e for e in scene.events if e.get("reason") == "Failed" and "pull image" in str(e.get("message") or "")]
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
    node, claims = node_of(scene.pod), claim_names(scene)
    if re.search(r"Multi-Attach|already (exclusively )?attached|already used by", message):
        return Diagnosis(
            code="CONFIG", summary=f"its volume ({', '.join(claims)}) is still attached to another node",
            detail=message, node=node,
            resolution="wait a minute after a step that ran elsewhere, six after a lost node; a ReadWriteMany claim "
            "avoids it",
        )  # fmt: skip
    summary, advice = _explain(message, "")
    if summary.startswith("the container cannot be made"):
        volume = re.search(r'for volume "([^"]+)"', message) or re.search(r"unmounted volumes=\[([^\]]+)\]", message)
        summary = f"the volume {volume[1] if volume else ', '.join(claims)} cannot be mounted on {node}"
        what = f"pvc {' '.join(claims)}" if claims else f"pod {name_of(scene.pod)}"
        advice = f"see the message; `kubectl describe {what}`, and the storage driver on that node"
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


def claim_names(scene: Scene) -> list[str]:
    """Return the claims that a pod mounts."""
    volumes = scene.pod.get("spec", {}).get("volumes") or []
    claims = [(volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in volumes]
    return [name for name in claims if name]
