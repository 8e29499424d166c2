"""The step `evaluation`: splits, reward model, policy and reference -> a verdict with intervals.

    aios hrm-hf evaluate --dataset-dir training_data/curated_datasets/preferences --reward-model artifacts/rm/demo
        --policy-model artifacts/dpo/demo --output-dir artifacts/evaluation/demo

Only the test split is judged. One model is in memory at a time: policy, then reference, then reward model. Every
number of the report can be recomputed from `pairs.jsonl` and `generations.jsonl`, which hold each judged item.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from jobs.config.evaluation import EvaluationConfig
from jobs.config.fields import as_dict, identity
from jobs.contract.child import report_result
from jobs.contract.errors import GateFailed, Interrupted
from jobs.contract.files import remove_tree
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG, log_to_file
from jobs.contract.manifest import Manifest
from jobs.contract.metrics import MetricsWriter
from jobs.contract.publish import already_published, attempt_id, publish_into, recover, retire, staging
from jobs.options import config_options

if TYPE_CHECKING:
    from jobs.evaluation.case import Case
    from jobs.training.interrupt import StopFlag


@click.command("evaluate")
@config_options(EvaluationConfig)
def command(config: EvaluationConfig) -> None:
    """Judge a reward model and a policy on held-out pairs: what got better, by how much, how sure.

    Example: aios hrm-hf evaluate --dataset-dir training_data/curated_datasets/preferences
    --reward-model artifacts/rm/demo --policy-model artifacts/dpo/demo --output-dir artifacts/evaluation/demo
    """
    report, manifest, skipped = run(config)
    _show(report, config)
    failed = _failed_gates(report, config.gates())
    if failed:
        raise GateFailed(
            f"published to {config.output_dir}, but {' and '.join(failed)}",
            next_step="look at the report, or lower --fail-under",
        )
    report_result(exit_code=0, manifest_sha256=manifest.sha256, skipped=skipped)


@dataclass(kw_only=True, slots=True)
class _Clock:
    """Where the time went, by phase, and the line that says so while it runs."""

    metrics: MetricsWriter
    stop: StopFlag
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase and write it to metrics.jsonl; between phases is where a stop is heard."""
        if self.stop:
            raise Interrupted(f"asked to stop before '{name}'", next_step="the same command starts again")
        LOG.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self.metrics.write("phase", len(self.seconds), phase=name, elapsed_s=self.seconds[name])


def run(config: EvaluationConfig) -> tuple[dict[str, Any], Manifest, bool]:
    """Evaluate and publish; returns the report, its manifest, and whether it already stood there."""
    from jobs.training.libraries import quiet_libraries

    quiet_libraries()
    from jobs.evaluation.case import open_case
    from jobs.training.hardware import set_threads
    from jobs.training.interrupt import stop_on_signals

    case, output = open_case(config), Path(config.output_dir)
    set_threads()
    with FolderLock(output, attempt=attempt_id()) as lock, stop_on_signals() as stop:
        recover(output, lock)
        finished = already_published(output, inputs=case.inputs, config=identity(config), overwrite=config.overwrite)
        if finished is not None:
            LOG.info("%s already holds this report: nothing to do", output)
            return orjson.loads((output / "report.json").read_bytes()), finished, True
        retire(output, lock, keep=frozenset({"tmp", "logs"}))
        with log_to_file(output / "logs" / "evaluation.log"):
            report, manifest = _evaluate(case, output, lock, stop)
    return report, manifest, False


def _evaluate(case: Case, output: Path, lock: FolderLock, stop: StopFlag) -> tuple[dict[str, Any], Manifest]:
    """Measure, build the report, publish it."""
    from jobs.evaluation.measure import measure
    from jobs.evaluation.report import build, write_files

    metrics = MetricsWriter(output / "metrics.jsonl")
    try:
        clock = _Clock(metrics=metrics, stop=stop)
        measured = measure(case, clock.phase, work=output / "tmp", stop=lambda: bool(stop))
        with clock.phase("Report"):
            report = build(case, measured)
        report["timings_s"] = dict(clock.seconds)
        with staging(output, lock) as staged:
            write_files(staged, report, measured)
            manifest = publish_into(output, staged, _manifest(case, lock), lock)
        remove_tree(output / "tmp")
        metrics.write("summary", len(clock.seconds), **report["headline"])
    finally:
        metrics.close()
    return report, manifest


def _manifest(case: Case, lock: FolderLock) -> Manifest:
    packages = ("aios-alignment", "torch", "transformers", "numpy", "scipy")
    return Manifest(
        step="evaluation",
        attempt=lock.owner.attempt,
        inputs=case.inputs,
        config=identity(case.config),
        files=[],
        versions={name: _version(name) for name in packages},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def _failed_gates(report: dict[str, Any], gates: dict[str, float]) -> list[str]:
    """Return what the gates object to; a metric that was not measured does not pass."""
    failed = []
    for name, smallest in gates.items():
        value = report["headline"].get(name)
        if value is None or value < smallest:
            failed.append(f"{name} is {'not measured' if value is None else f'{value:.4g}'}, below {smallest:g}")
    return failed


def _show(report: dict[str, Any], config: EvaluationConfig) -> None:
    if config.json:
        click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        return
    from jobs.evaluation.terminal import show

    show(report, as_dict(config))
