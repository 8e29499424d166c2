"""What Kubernetes objects say: conditions, ends of containers, last messages, events, quantities."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

STEP_CONTAINER = "step"
_OURS = {"exit_code", "state", "message", "manifest_sha256"}
_UNITS = {
    "": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def condition(thing: Object, kind: str) -> dict[str, Any] | None:
    """Return a condition of an object by its type."""
    for entry in thing.get("status", {}).get("conditions") or []:
        if entry.get("type") == kind:
            return dict(entry)
    return None


def is_true(thing: Object, kind: str) -> bool:
    """Tell whether a condition is there and true."""
    found = condition(thing, kind)
    return found is not None and found.get("status") == "True"


def annotation(thing: Object | None, key: str) -> str:
    """Return an annotation; empty where there is none, or no object."""
    return str(((thing or {}).get("metadata", {}).get("annotations") or {}).get(key) or "")


def label(thing: Object | None, key: str) -> str:
    """Return a label; empty where there is none, or no object."""
    return str(((thing or {}).get("metadata", {}).get("labels") or {}).get(key) or "")


def name_of(thing: Object | None) -> str:
    """Return an object's name."""
    return str((thing or {}).get("metadata", {}).get("name") or "")


def node_of(pod: Object) -> str:
    """Return the node that a pod was bound to; empty before."""
    return str(pod.get("spec", {}).get("nodeName") or "")


def seconds(stamp: str | None) -> float | None:
    """Turn an API timestamp into seconds since the epoch."""
    if not stamp:
        return None
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


# Containers
def container(pod: Object) -> dict[str, Any]:
    """Return the step's container as the pod specifies it: `step`, or the first where none has that name."""
    containers = pod.get("spec", {}).get("containers") or [{}]
    return dict(next((c for c in containers if c.get("name") == STEP_CONTAINER), containers[0]))


def statuses(pod: Object) -> list[dict[str, Any]]:
    """Return the statuses of all containers, init containers first: nothing starts before those are done."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def sidecars(pod: Object) -> set[str]:
    """Return the names of native sidecars: init containers that go on beside the step and end after it."""
    return {
        c.get("name", "") for c in pod.get("spec", {}).get("initContainers") or [] if c.get("restartPolicy") == "Always"
    }


def _state(status: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    found = (status.get("state") or {}).get(kind)
    if found is None and kind == "terminated":
        # Restarted in place (restart rules, a pod that is not ours): what it died of is in the state before.
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") == "CrashLoopBackOff":
            found = (status.get("lastState") or {}).get("terminated")
    return dict(found) if found is not None else None


def waiting(pod: Object) -> list[dict[str, Any]]:
    """Return why containers wait, the first to start first; each with the container's name and image."""
    found = []
    for status in statuses(pod):
        state = _state(status, "waiting")
        if state is not None:
            found.append(state | {"container": status.get("name", ""), "image": status.get("image", "")})
    return found


def ending(pod: Object) -> dict[str, Any] | None:
    """Return the end that decides over a pod, None while there is none: how the container `container` ended.

    A failed init container comes first, since the step then never started; then the step; then whatever else failed.
    Sidecars are ended by the kubelet after the step: their codes mean nothing.
    """
    status, beside = pod.get("status", {}), sidecars(pod)
    own = container(pod).get("name", STEP_CONTAINER)
    inits = [s for s in status.get("initContainerStatuses") or [] if s.get("name") not in beside]
    mains = sorted(status.get("containerStatuses") or [], key=lambda s: s.get("name") not in (own, STEP_CONTAINER))
    for entry in inits:
        end = _state(entry, "terminated")
        if end is not None and end.get("exitCode") != 0:
            return end | {"container": entry.get("name", "")}
    for index, entry in enumerate(mains):
        end = _state(entry, "terminated")
        failed_pod = status.get("phase") == "Failed"
        if end is not None and (index == 0 or (failed_pod and end.get("exitCode") != 0)):
            rest = [_state(other, "terminated") or {} for other in mains[1:]]
            if index == 0 and end.get("exitCode") == 0 and failed_pod and any(o.get("exitCode") for o in rest):
                continue  # the step is well, but a container beside it made the pod fail
            return end | {"container": entry.get("name", "")}
    return None


def termination_message(pod: Object) -> dict[str, Any]:
    """Return what the supervisor left as the pod's last message; empty where it is not its JSON."""
    end = ending(pod)
    try:
        document = json.loads(end["message"]) if end and end.get("message") else {}
    except json.JSONDecodeError:
        return {}
    # A step that dies without its supervisor may leave a JSON line of a log instead.
    return document if isinstance(document, dict) and _OURS & document.keys() else {}


def proven(pod: Object) -> bool:
    """Tell whether a pod's last words are those of a supervisor that saw its step publish."""
    end, said = ending(pod), termination_message(pod)
    done = end is not None and end.get("exitCode") == 0 and said.get("exit_code", 0) == 0
    return bool(done and said.get("state") in ("succeeded", "skipped") and said.get("manifest_sha256"))


# Events
def events_of(thing: Object, events: Iterable[Object]) -> list[Object]:
    """Return the events about an object, the oldest first. One of the same name that is gone has another uid."""
    metadata = thing.get("metadata", {})
    mine = []
    for event in events:
        about = event.get("involvedObject") or event.get("regarding") or {}
        same = about.get("name") == metadata.get("name")
        uids = about.get("uid"), metadata.get("uid")
        if same and (not all(uids) or uids[0] == uids[1]):
            mine.append(event)
    return sorted(mine, key=event_time)


def event_time(event: Object) -> float:
    """Return when an event happened last, in seconds since the epoch."""
    series = event.get("series") or {}
    stamps = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"),
              event.get("firstTimestamp"), event.get("metadata", {}).get("creationTimestamp"))  # fmt: skip
    return next((found for stamp in stamps if (found := seconds(stamp)) is not None), 0.0)


def event_line(event: Object) -> str:
    """Return an event as one line, at most 400 characters."""
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    at = datetime.datetime.fromtimestamp(event_time(event), tz=datetime.UTC).strftime("%H:%M:%SZ")
    text = " ".join(str(event.get("message") or event.get("note") or "").split())
    return f"{at} {event.get('reason', '')}{f' (x{count})' if count > 1 else ''}: {text}"[:400]


def last_message(events: Sequence[Object], *reasons: str) -> str:
    """Return the message of the newest event that has one of these reasons; empty without one."""
    found = [str(e.get("message") or e.get("note") or "") for e in events if e.get("reason") in reasons]
    return found[-1] if found else ""


# Quantities
def quantity(text: object) -> float | None:
    """Return the value of 500m, 4 or 8Gi; None where it is none."""
    match = re.fullmatch(r"([0-9.]+)(?:e([0-9]+))?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?", str(text).strip())
    if match is None:
        return None
    return float(match[1]) * 10.0 ** int(match[2] or 0) * float(_UNITS[match[3] or ""])


def more_memory(text: object, factor: float = 1.5) -> str:
    """Return a memory quantity raised by a factor, in whole Gi or Mi; empty where the text is no quantity."""
    size = quantity(text)
    if size is None:
        return ""
    mebibytes = math.ceil(size * factor / 2**20)
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def in_gib(size: object) -> str:
    """Return bytes for the eye."""
    return f"{float(size) / 2**30:.2f} GiB" if isinstance(size, int | float) else "unknown"
