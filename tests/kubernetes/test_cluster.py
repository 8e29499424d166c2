"""The charts and images on a real cluster (KUBECONFIG), in namespaces that enforce `restricted`."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.manifest import verify
from k8s import values as run_values
from tests.kubernetes.cluster import Space, Timeline, ended, kubectl, new_space, until
from tests.kubernetes.rendering import helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

TWO_QUICK_STEPS = [
    "steps.fetch-model.enabled=true", "steps.fetch-model.args.model=artifacts/base/tiny",
    "steps.fetch-model.args.source=null", "steps.ingest.needs=[]", "steps.fetch-model.needs=[ingest]",
    "steps.rm.enabled=false", "steps.dpo.enabled=false", "steps.evaluation.enabled=false",
]  # fmt: skip


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


def quick(name: str) -> list[str]:
    """Return the settings of a run of two steps that take a second each, into folders of its own."""
    return [*TWO_QUICK_STEPS, f"steps.fetch-model.args.output_dir=artifacts/base/{name}"]


def test_the_whole_pipeline_runs_in_pods(space: Space) -> None:
    """From the export on the volume to the verdict, with `helm install` alone; every step left its proof."""
    space.install("whole")
    assert space.wait("whole") == "succeeded"
    for step, folder in {
        "ingest": "training_data/curated_datasets/whole",
        "rm": "artifacts/rm/whole",
        "dpo": "artifacts/dpo/whole",
        "evaluation": "artifacts/evaluation/whole",
    }.items():
        manifest = verify(space.folder / folder, step=step)
        attempt = space.state("whole")["steps"][step]["attempts"][-1]
        assert attempt["manifest_sha256"] == manifest.sha256
        status = orjson.loads((space.folder / f"artifacts/runs/whole/steps/{step}/attempt-1/status.json").read_bytes())
        assert (status["state"], status["attempt_id"]) == ("succeeded", manifest.attempt)
    values = run_values.read_values(space.values_folder / "whole.yaml")
    for step, given in run_values.enabled_steps(values).items():
        container = space.job(f"whole-{step}")["spec"]["template"]["spec"]["containers"][0]
        assert container["args"] == run_values.command(step, given)


def test_a_failed_step_ends_the_run_with_its_reason(space: Space) -> None:
    """A step that cannot work is tried once, what follows is skipped, the conductor fails, the status says why."""
    space.install("bad", "steps.ingest.args.input=[nowhere.jsonl]")
    assert space.wait("bad") == "failed"
    steps = space.state("bad")["steps"]
    assert [steps[name]["phase"] for name in ("ingest", "rm", "dpo", "evaluation")] == ["failed", *["skipped"] * 3]
    assert "nowhere.jsonl" in steps["ingest"]["message"]
    assert len(steps["ingest"]["attempts"]) == 1


def test_the_gap_between_two_steps_is_short(space: Space) -> None:
    """From the end of a step's Job to the next step's pod: at most 2 s at the 95th percentile over 30 runs."""
    jobs, pods = Timeline(space, "jobs"), Timeline(space, "pods")
    names = [f"gap-{i}" for i in range(int(os.environ.get("AIOS_TEST_GAP_RUNS", "30")))]
    gaps = []
    for name in names:
        space.install(name, *quick(name))

        def created(name: str = name) -> list[float]:
            return [at for pod, at in list(pods.seen.items()) if pod.startswith(f"{name}-fetch-model-")]

        first = min(until(created, 300))
        gaps.append(first - jobs.seen[f"{name}-ingest Complete"])
        helm("uninstall", name, "--namespace", space.namespace)  # the next one has the node to itself
    p95 = statistics.quantiles(gaps, n=20)[18]
    print(
        f"\ngap over {len(gaps)} runs: median {statistics.median(gaps):.3f} s, p95 {p95:.3f} s, max {max(gaps):.3f} s"
    )
    assert p95 <= 2.0


TRANSITIONS = (
    "installed",
    "ingest pod",
    "ingest running",
    "ingest complete",
    "fetch-model pod",
    "fetch-model running",
)


def reached(space: Space, name: str, transition: str) -> bool:
    """Tell whether a run has come to a transition."""
    step, _, what = transition.rpartition(" ")
    if transition == "installed":
        return True
    if what == "complete":
        return bool(space.job(f"{name}-{step}").get("status", {}).get("succeeded"))
    found = space.pods(f"app.kubernetes.io/instance={name},aios-alignment/step={step}")
    return bool(found) and (what == "pod" or found[0]["status"]["phase"] != "Pending")


def kill_conductor(space: Space, name: str) -> int | None:
    """Kill a run's conductor at once; returns how many pods died, None where there is none to kill yet."""
    found = space.pods(f"app.kubernetes.io/instance={name},app.kubernetes.io/component=conductor")
    living = [pod for pod in found if pod["status"]["phase"] in ("Pending", "Running")]
    if not living and not ended(space.job(f"{name}-conductor")):
        return None
    for pod in living:
        kubectl("-n", space.namespace, "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    return len(living)


def test_the_conductor_is_killed_at_every_transition(space: Space) -> None:
    """Killed at each transition, 20 times in all and more: every run finishes and no step runs twice."""
    kills: Counter[str] = Counter()
    for batch in range(int(os.environ.get("AIOS_TEST_KILL_BATCHES", "4"))):
        runs = {f"kill-{batch}-{number}": transition for number, transition in enumerate(TRANSITIONS)}
        for name in runs:
            space.install(name, *quick(name))
        to_kill = dict(runs)
        while to_kill:
            for name, transition in list(to_kill.items()):
                if reached(space, name, transition) and (died := kill_conductor(space, name)) is not None:
                    kills[transition] += died
                    del to_kill[name]
        for name in runs:
            assert space.wait(name, 900) == "succeeded"
            for step in ("fetch-model", "ingest"):
                assert len(space.pods(f"app.kubernetes.io/instance={name},aios-alignment/step={step}")) == 1
                attempts = sorted((space.folder / f"artifacts/runs/{name}/steps/{step}").iterdir())
                assert [path.name for path in attempts] == ["attempt-1"]
    print(f"\n{kills.total()} kills in {len(TRANSITIONS) * (batch + 1)} runs: {dict(kills)}")
    assert set(kills) == set(TRANSITIONS)
    assert kills.total() >= 20


def delete_pod_at(space: Space, run: str, step: str, training_step: int) -> None:
    """Delete the pod of a training step once it has logged so many steps."""
    metrics = space.folder / "artifacts" / step / run / "metrics.jsonl"
    mark = b'"step":%d' % training_step
    until(lambda: metrics.exists() and mark in metrics.read_bytes(), 600, 0.05)
    pod = space.pods(f"app.kubernetes.io/instance={run},aios-alignment/step={step}")[-1]["metadata"]["name"]
    space.api.delete(space.api.path("pods", pod))  # at once: kubectl takes a second to start


@pytest.mark.parametrize("steps", [("rm",), ("rm", "dpo")], ids=["rm", "to-the-verdict"])
def test_a_deleted_pod_resumes_from_its_checkpoint(space: Space, steps: tuple[str, ...]) -> None:
    """Pods deleted amid rm and dpo are replaced and go on from their checkpoints: same losses, weights, verdict."""
    training = [f"steps.{step}.args.{setting}" for step in steps
                for setting in ("max_steps=120", "save_steps=10", "batch_size=2")]  # fmt: skip
    if "dpo" not in steps:
        training += ["steps.dpo.enabled=false", "steps.evaluation.enabled=false"]
    space.install("calm", *training, "run.dataset=one")
    assert space.wait("calm", 1200) == "succeeded"
    space.install("cut", *training, "run.dataset=one", "steps.ingest.enabled=false")
    for step in steps:
        delete_pod_at(space, "cut", step, 15)
    assert space.wait("cut", 1200) == "succeeded"
    for step in steps:
        attempts = space.folder / "artifacts/runs/cut/steps" / step
        codes = [orjson.loads((attempts / f"attempt-{n}" / "status.json").read_bytes())["exit_code"] for n in (1, 2)]
        assert codes == [75, 0]
        assert losses(space, "cut", step) == losses(space, "calm", step)
        assert weights(space, "cut", step) == weights(space, "calm", step)
    if "dpo" in steps:
        assert verdict(space, "cut") == verdict(space, "calm")


def losses(space: Space, run: str, step: str) -> list[tuple[int, float]]:
    """Return the training losses of a run, in order."""
    lines = (space.folder / "artifacts" / step / run / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines) if row["kind"] == "train"]


def weights(space: Space, run: str, step: str) -> dict[str, str]:
    """Return the hashes of a run's published weights."""
    folder = space.folder / "artifacts" / step / run
    return {f.path: f.sha256 for f in verify(folder).files if f.path.endswith(".safetensors")}


def verdict(space: Space, run: str) -> dict[str, Any]:
    """Return every number of a run's report; its checklists name the run's folders, here all alike."""
    text = (space.folder / "artifacts/evaluation" / run / "report.json").read_bytes()
    report = orjson.loads(text.replace(b'/%s"' % run.encode(), b'/RUN"'))
    return {key: report[key] for key in ("acceptance", "headline", "policy", "reward", "generation", "verdict")}
