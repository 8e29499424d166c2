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
from typing import Any

import click
import orjson

from jobs.config.evaluation import EvaluationConfig
from jobs.config.fields import as_dict, identity
from jobs.contract.child import report_result
from jobs.contract.errors import BadConfig, GateFailed, UpstreamMissing
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG, log_to_file
from jobs.contract.manifest import Manifest
from jobs.contract.metrics import MetricsWriter
from jobs.contract.publish import already_published, attempt_id, publish_into, staging
from jobs.contract.splits import read_splits
from jobs.options import config_options


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
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase and write it to metrics.jsonl."""
        LOG.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self.metrics.write("phase", len(self.seconds), phase=name, elapsed_s=self.seconds[name])


def run(config: EvaluationConfig) -> tuple[dict[str, Any], Manifest, bool]:
    """Evaluate and publish; returns the report, its manifest, and whether it already stood there."""
    from jobs.evaluation.models import encoder_for
    from jobs.evaluation.pairs import TestSet
    from jobs.evaluation.recorded import recorded
    from jobs.models.load import model_identity, model_source, same_tokenizer
    from jobs.training.hardware import resolve_precision, set_threads

    # What goes in, checked before anything heavy happens.
    data_dir, output = Path(config.dataset_dir), Path(config.output_dir)
    data, splits = read_splits(data_dir, ("test",))
    names = _models(config)
    known = {role: recorded(model_source(name)) for role, name in names.items()}
    inputs = {"dataset": data.content_sha256} | {role: model_identity(name) for role, name in names.items()}
    finished = already_published(output, inputs=inputs, config=identity(config), overwrite=config.overwrite)
    if finished is not None:
        LOG.info("%s already holds this report", output)
        return orjson.loads((output / "report.json").read_bytes()), finished, True
    test = TestSet.of(splits["test"], f"{data_dir / 'test.jsonl'}")
    encoders = {role: encoder_for(name, known[role], config.max_length) for role, name in names.items()}
    if "policy" in names:
        difference = same_tokenizer(encoders["policy"].tokenizer, encoders["reference"].tokenizer)
        if difference:
            raise BadConfig(
                f"policy {names['policy']} and reference {names['reference']} cannot be compared: {difference}",
                needed="two models with the same tokenizer",
                next_step="choose the reference that the policy was trained from",
            )
        encoders["reference"] = encoders["policy"]  # one template and one length for both, or the gain compares formats
    precision, _ = resolve_precision(config.precision), set_threads()

    output.parent.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(output, attempt=attempt_id())
    with lock, log_to_file(output / "logs" / "evaluation.log"):
        from jobs.evaluation.measure import measure
        from jobs.evaluation.report import build, write_files

        metrics = MetricsWriter(output / "metrics.jsonl")
        clock = _Clock(metrics=metrics)
        measured = measure(config, test, names, known, encoders, precision, clock.phase, output)
        with clock.phase("Report"):
            report = build(config, test, names, known, inputs, measured, precision)
        report["timings_s"] = dict(clock.seconds)
        with staging(output, lock) as staged:
            write_files(staged, report, measured)
            manifest = publish_into(output, staged, _manifest(config, inputs, lock), lock)
        metrics.write("summary", len(clock.seconds), **report["headline"])
        metrics.close()
    return report, manifest, False


def _models(config: EvaluationConfig) -> dict[str, str]:
    """Return the models by role; the reference is found where it was not named."""
    names = {}
    if config.reward_model is not None:
        names["reward_model"] = config.reward_model
    if config.policy_model is not None:
        names["policy"] = config.policy_model
        names["reference"] = config.ref_model or _trained_against(config.policy_model)
    return names


def _trained_against(policy: str) -> str:
    """Return the reference that a policy's training recorded."""
    from jobs.evaluation.recorded import recorded

    settings = recorded(policy).settings
    reference = settings.get("ref_model") or settings.get("policy_model")
    if not reference:
        raise UpstreamMissing(
            f"{policy} does not say what it was trained against", next_step="name it: --ref-model MODEL"
        )
    return str(reference)


def _manifest(config: EvaluationConfig, inputs: dict[str, str], lock: FolderLock) -> Manifest:
    packages = ("aios-alignment", "torch", "transformers", "numpy", "scipy")
    return Manifest(
        step="evaluation",
        attempt=lock.owner.attempt,
        inputs=inputs,
        config=identity(config),
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
