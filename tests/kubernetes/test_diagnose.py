"""Each way in which a step can fail or hang has its own name, evidence and advice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from k8s.cluster.observe import Surroundings, observe
from k8s.conductor import Phase
from k8s.diagnose import diagnose

Object = dict[str, Any]


def job(*conditions: tuple[str, str, str], suspend: bool = False, **annotations: str) -> Object:
    """Return a Job with true conditions (type, reason, message)."""
    return {
        "metadata": {"name": "demo-rm", "annotations": annotations, "resourceVersion": "1"},
        "spec": {"suspend": suspend},
        "status": {
            "conditions": [dict(zip(("type", "reason", "message"), c, strict=True), status="True") for c in conditions]
        },
    }


def pod(
    phase: str = "Running", *, state: Object | None = None, conditions: list[Object] | None = None, **status: str
) -> Object:
    """Return the Job's pod."""
    containers = [{"name": "step", "state": state}] if state else []
    return {
        "metadata": {"name": "demo-rm-abcde", "creationTimestamp": "2026-11-22T20:00:00Z"},
        "spec": {
            "nodeName": "gpu-7",
            "containers": [{"image": "registry/rm:1", "resources": {"limits": {"memory": "6Gi"}}}],
        },
        "status": {"phase": phase, "conditions": conditions or [], "containerStatuses": containers} | status,
    }


def ended(code: int, reason: str = "Error", **said: Any) -> Object:
    """Return a terminated state with the supervisor's message."""
    return {"terminated": {"exitCode": code, "reason": reason, "message": json.dumps(said) if said else ""}}


def waiting(reason: str, message: str) -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def disrupted(reason: str) -> list[Object]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "why"}]


CASES = [
    (pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
         "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]), "UNSCHEDULABLE", "nvidia.com/gpu"),
    (pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
         "message": 'persistentvolumeclaim "aios-workspace" not found'}]), "CONFIG", "make the claim"),
    (pod("Pending", state=waiting("ErrImagePull", "manifest unknown")), "IMAGE_PERMANENT", "registry/rm:1"),
    (pod("Pending", state=waiting("ErrImagePull", "401 Unauthorized")), "IMAGE_PERMANENT", "pullSecrets"),
    (pod("Pending", state=waiting("InvalidImageName", "could not parse")), "IMAGE_PERMANENT", "registry/rm:1"),
    (pod("Pending", state=waiting("ErrImageNeverPull", "not present")), "IMAGE_PERMANENT", "images-load"),
    (pod("Pending", state=waiting("ImagePullBackOff", "i/o timeout")), "IMAGE_TRANSIENT", "i/o timeout"),
    (pod("Pending", state=waiting("CreateContainerConfigError", 'secret "hub" not found')), "CONFIG", "hub"),
    (pod("Failed", state=ended(137, "OOMKilled")), "OOM_CONTAINER", "6Gi"),
    (pod("Failed", state=ended(71, message="out of memory: limit 6 GiB, peak 6 GiB")), "OOM_CONTAINER", "batch_size"),
    (pod("Failed", state=ended(71, message="CUDA out of memory")), "OOM_GPU", "CUDA out of memory"),
    (pod("Failed", state=ended(64, message="the ratios add up to 2")), "APP_CONFIG", "the ratios"),
    (pod("Failed", state=ended(65, message="no rows")), "APP_DATA", "no rows"),
    (pod("Failed", state=ended(66, message="no manifest")), "APP_UPSTREAM", "no manifest"),
    (pod("Failed", state=ended(74, message="the disk is full")), "APP_VOLUME", "fsGroup"),
    (pod("Failed", state=ended(77, message="401 from the hub")), "APP_AUTH", "Secret"),
    (pod("Failed", state=ended(78, message="no CUDA")), "APP_ENVIRONMENT", "no CUDA"),
    (pod("Failed", state=ended(139)), "APP_139", "exit code 139"),
    (pod("Failed", state=ended(75, message="stopped")), "INTERRUPTED_SAVED", "checkpoint"),
    (pod("Failed", conditions=disrupted("PreemptionByScheduler")), "PREEMPTED", "more important"),
    (pod("Failed", conditions=disrupted("EvictionByEvictionAPI")), "DRAINED", "drained"),
    (pod("Failed", conditions=disrupted("DeletionByTaintManager")), "NODE_LOST", "tainted"),
    (pod("Failed", conditions=disrupted("DeletionByPodGC")), "NODE_LOST", "gone"),
    (pod("Failed", conditions=disrupted("TerminationByKubelet")), "EVICTED", "ran out"),
    (pod("Failed", reason="UnexpectedAdmissionError", message="no healthy devices"), "GPU_NODE_BAD", "gpu-7"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "code", "said"), CASES, ids=[f"{c[1]}-{i}" for i, c in enumerate(CASES)])
def test_every_cause_is_named(found: Object, code: str, said: str) -> None:
    """Summary, detail and resolution carry the evidence."""
    diagnosis = diagnose(job(), [found])
    assert diagnosis is not None
    assert diagnosis.code == code
    assert said in f"{diagnosis.summary} {diagnosis.detail} {diagnosis.resolution}"


def test_a_permanent_image_error_is_given_up_soon_a_transient_one_never() -> None:
    """A registry that hiccups is waited for; a tag that does not exist is not."""
    permanent = diagnose(job(), [pod("Pending", state=waiting("ErrImagePull", "not found"))])
    transient = diagnose(job(), [pod("Pending", state=waiting("ErrImagePull", "connection reset"))])
    assert permanent
    assert permanent.fatal_after_s == 120
    assert transient
    assert transient.fatal_after_s is None


def test_nothing_is_wrong_with_a_pod_that_runs() -> None:
    """Silence when right."""
    assert diagnose(job(), [pod(state={"running": {}})]) is None


PROOF = ended(0, "Completed", state="succeeded", manifest_sha256="a" * 64)


@pytest.mark.parametrize(
    ("given", "pods", "phase"),
    [
        (job(suspend=True), [], Phase.WAITING),
        (job(), [pod()], Phase.RUNNING),
        (job(("Complete", "", "")), [pod("Succeeded", state=PROOF)], Phase.SUCCEEDED),
        # Its pods are gone and nobody saw their last words: an evicted pod that trapped SIGTERM leaves just this.
        (job(("Complete", "", "")), [], Phase.FAILED),
        # An evicted pod that traps SIGTERM and exits with 0 is reported as complete.
        (job(("Complete", "", "")), [pod("Succeeded", state=ended(0, "Completed"))], Phase.FAILED),
        # The Job's end arrived before the pod's: wait for the proof.
        (job(("Complete", "", "")), [pod("Running", state={"running": {}})], Phase.RUNNING),
        (job(("Failed", "BackoffLimitExceeded", "")), [pod("Failed", state=ended(70))], Phase.FAILED),
        (job(suspend=True, **{"aios-alignment/skipped": "x"}), [], Phase.SKIPPED),
    ],
)
def test_success_needs_proof(given: Object, pods: list[Object], phase: Phase) -> None:
    """Complete is not enough: the pod says what it published, or is gone."""
    assert observe(given, pods).phase is phase


@pytest.mark.parametrize(
    "said",
    [
        {"state": "failed", "manifest_sha256": "a" * 64},
        {"state": "interrupted", "manifest_sha256": "a" * 64},
        {"state": "succeeded", "manifest_sha256": None},
        {"state": "succeeded", "exit_code": 70, "manifest_sha256": "a" * 64},
        {},
    ],
)
def test_a_message_that_is_no_proof(said: dict[str, Any]) -> None:
    """Success is said by a supervisor that saw this attempt's manifest; anything else beside exit 0 is none."""
    seen = observe(job(("Complete", "", "")), [pod("Succeeded", state=ended(0, "Completed", **said))])
    assert seen.phase is Phase.FAILED
    assert seen.diagnosis
    assert seen.diagnosis.code == "APP_UNPROVEN"


def test_proof_is_remembered_after_the_pods_are_gone() -> None:
    """What the conductor recorded of a pod counts; a pod that was seen deleted counts by its last words."""
    complete, proof = job(("Complete", "", "")), pod("Succeeded", state=PROOF)
    attempt = {"pod": "demo-rm-abcde", "exit_code": 0, "manifest_sha256": "a" * 64}
    assert observe(complete, [], "running", [attempt]).phase is Phase.SUCCEEDED
    assert observe(complete, [], "succeeded").phase is Phase.SUCCEEDED
    assert observe(complete, [], "running", [], Surroundings(gone=[proof])).phase is Phase.SUCCEEDED
    evicted = pod("Succeeded", state=ended(0, "Completed"), conditions=disrupted("EvictionByEvictionAPI"))
    seen = observe(complete, [], "running", [], Surroundings(gone=[evicted]))
    assert seen.phase is Phase.FAILED
    assert seen.diagnosis
    assert seen.diagnosis.code == "DRAINED"
    assert "no success" in seen.diagnosis.summary


def test_a_step_that_others_read_is_judged_by_them() -> None:
    """Pods gone and nobody saw them end: the next step verifies what it reads; after the last one nobody does."""
    complete = job(("Complete", "", ""))
    assert observe(complete, [], checked_later=True).phase is Phase.SUCCEEDED
    assert observe(complete, [], checked_later=False).phase is Phase.FAILED
    lying = pod("Succeeded", state=ended(0, "Completed"))
    assert observe(complete, [lying], checked_later=True).phase is Phase.FAILED


def test_a_job_that_was_cleaned_up_after_success_stays_succeeded() -> None:
    """The status remembers what the API has forgotten."""
    assert observe(None, [], "succeeded").phase is Phase.SUCCEEDED
    assert observe(None, []).phase is Phase.WAITING
