"""What is wrong with a pod that runs but gets nowhere."""

from __future__ import annotations

from k8s.causes.devices import unhealthy_devices
from k8s.causes.diagnosis import Diagnosis, Scene
from k8s.objects import container, ending, is_true, last_message, name_of, node_of, seconds, statuses

_LASTING_S = 60.0


def unwell(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that runs but gets nowhere: hung, its device or node ill, held by a container beside it."""
    if scene.status.get("phase") != "Running":
        return None
    node = node_of(scene.pod)
    probe = last_message(scene.events, "Unhealthy")
    if "hung:" in probe and not is_true(scene.pod, "Ready"):
        summary = probe.partition("hung:")[2].strip().splitlines()[0]
        return Diagnosis(
            code="HUNG", summary=summary, node=node,
            resolution="the attempt's stdout.log has every thread's stack; `aios jobs stop RUN` and `resume` start it "
            "again from its checkpoint, steps.NAME.onHang=restart does so by itself",
        )  # fmt: skip
    ill = unhealthy_devices(scene.pod)
    if ill:
        return Diagnosis(
            code="GPU_NODE_BAD", summary=f"a device of the node {node} is ill ({', '.join(ill)})", node=node,
            resolution="the step goes on while it can; cordon the node and look at the device",
        )  # fmt: skip
    if node_ready(scene) is False or (last_message(scene.events, "NodeNotReady") and not is_true(scene.pod, "Ready")):
        return Diagnosis(
            code="NODE_LOST", summary=f"its node {node} does not answer", node=node,
            resolution="wait: it is evicted after 60 s and replaced when the node is back or was removed",
        )  # fmt: skip
    return _held(scene)


def _held(scene: Scene) -> Diagnosis | None:
    end = ending(scene.pod)
    own = container(scene.pod).get("name")
    if end is None or end.get("container") != own or scene.now - (seconds(end.get("finishedAt")) or 0) < _LASTING_S:
        return None
    names = [c.get("name") for c in scene.pod.get("spec", {}).get("containers") or []]
    going_on = [
        s["name"] for s in statuses(scene.pod) if s.get("name") in names and (s.get("state") or {}).get("running")
    ]
    if not going_on:
        return None
    return Diagnosis(
        code="CONFIG", summary=f"the step has ended, but {', '.join(going_on)} beside it goes on: its Job never ends",
        resolution='keep such containers out (for Istio: podLabels {sidecar.istio.io/inject: "false"}), or make them '
        "native sidecars",
    )  # fmt: skip


def node_ready(scene: Scene) -> bool | None:
    """Tell whether the pod's node answers; None where nodes are not known."""
    node = next((n for n in scene.nodes if name_of(n) == node_of(scene.pod)), None)
    return None if node is None else is_true(node, "Ready")
