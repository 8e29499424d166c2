"""Pods that the API server refuses to make: quota, policies, accounts. Only events of the Job tell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from k8s.causes.diagnosis import CONFIG_GRACE_S, KEPT_EVENTS, Diagnosis
from k8s.objects import Object, event_line, events_of, is_true, seconds

_REFUSALS: tuple[tuple[str, str, str, str], ...] = (
    (r"exceeded quota: ([^,]+)", "UNSCHEDULABLE", "the quota {0} has no room for its pod",
     "wait until other runs end, uninstall finished ones, or raise the ResourceQuota"),
    (r"failed quota: ([^:]+): must specify (.*)", "CONFIG", "the quota {0} wants its pod to say {1}",
     "set it under steps.NAME.resources"),
    (r"violates PodSecurity \"?([^\": ]+)", "CONFIG", "Pod Security ({0}) of the namespace refuses its pod",
     "the message names the field: take it out of the values, or label the namespace otherwise"),
    (r"ValidatingAdmissionPolicy '([^']+)'", "CONFIG", "the admission policy {0} refuses its pod",
     "the message names the rule"),
    (r"admission webhook \"([^\"]+)\" denied", "CONFIG", "the admission webhook {0} refuses its pod",
     "the message names the rule; ask who runs the webhook"),
    (r"failed calling webhook \"([^\"]+)\"", "CONFIG", "the admission webhook {0} does not answer, so no pod is made",
     "ask who runs the webhook; it is tried again"),
    (r"serviceaccount \"([^\"]+)\" not found", "CONFIG", "the service account {0} does not exist",
     "kubectl create serviceaccount {0}"),
    (r"[Pp]riority ?[Cc]lass (?:with name )?\"?([\w.-]+)\"? (?:was )?(?:not )?found", "CONFIG",
     "the PriorityClass {0} does not exist", "correct priorityClassName"),
    (r"RuntimeClass \"([^\"]+)\" not found", "CONFIG", "the RuntimeClass {0} does not exist",
     "correct steps.NAME.runtimeClassName, or install the runtime"),
    (r"(maximum|minimum) (\w[\w-]*) usage per (?:Container|Pod) is ([^,.]+)", "CONFIG",
     "a LimitRange sets a {0} of {2} for {1}", "change steps.NAME.resources"),
    (r"namespace .* (?:is being|because it is being) terminated", "CONFIG", "its namespace is being deleted",
     "submit the run in another namespace"),
)  # fmt: skip


def not_made(job: Object, events: Sequence[Object], now: float) -> Diagnosis | None:
    """Diagnose a Job whose pods the API server refuses: that is only in events."""
    if (
        job.get("spec", {}).get("suspend")
        or is_true(job, "Complete")
        or (is_true(job, "Failed") or is_true(job, "FailureTarget"))
    ):
        return None
    started = seconds(job.get("status", {}).get("startTime")) or 0.0
    mine = [e for e in events_of(job, events) if e.get("reason") == "FailedCreate"]
    if not mine:
        return None
    message = str(mine[-1].get("message") or mine[-1].get("note") or "")
    lines = tuple(event_line(event) for event in mine[-KEPT_EVENTS:])
    for pattern, code, summary, advice in _REFUSALS:
        match = re.search(pattern, message)
        if match:
            grace = CONFIG_GRACE_S if code == "CONFIG" and "webhook" not in pattern[:16] and started else None
            return Diagnosis(
                code=code, summary=summary.format(*match.groups()), detail=message, evidence=lines,
                resolution=advice.format(*match.groups()), fatal_after_s=grace,
            )  # fmt: skip
    return Diagnosis(code="CONFIG", summary="the API server refuses its pod", detail=message, evidence=lines,
                     resolution="the message says why; `aios jobs doctor` asks beforehand")  # fmt: skip
