"""The case to judge: held-out pairs, models by role, and what their trainings recorded; checked before heavy work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config.evaluation import EvaluationConfig
from jobs.contract.errors import AiosError, BadConfig, UpstreamMissing
from jobs.contract.manifest import read_manifest
from jobs.contract.splits import read_splits
from jobs.evaluation.models import encoder_for
from jobs.evaluation.pairs import TestSet
from jobs.evaluation.recorded import Recorded, recorded
from jobs.models.load import model_identity, model_source, same_tokenizer
from jobs.training.encode import PairEncoder
from jobs.training.hardware import resolve_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is judged. Roles are `reward_model`, `policy` and `reference`; those not asked about are absent."""

    config: EvaluationConfig
    test: TestSet
    names: dict[str, str]
    known: dict[str, Recorded]
    encoders: dict[str, PairEncoder]
    inputs: dict[str, str]
    precision: str

    def encoder(self, role: str) -> PairEncoder:
        """Return how a role's rows are encoded; the reference reads what the policy reads, or formats are compared."""
        return self.encoders["policy" if role == "reference" else role]


def open_case(config: EvaluationConfig) -> Case:
    """Read what goes in.

    Raises:
        UpstreamMissing: data or a model is absent or unfinished.
        BadConfig: policy and reference do not share a tokenizer.
    """
    data, splits = read_splits(Path(config.dataset_dir), ("test",))
    names = _models(config)
    known = {role: recorded(model_source(name)) for role, name in names.items()}
    encoders = {role: encoder_for(name, known[role], config.max_length) for role, name in names.items()}
    if "policy" in names:
        _same_tokenizer(names, encoders)
    return Case(
        config=config,
        test=TestSet.of(splits["test"], str(Path(config.dataset_dir) / "test.jsonl")),
        names=names,
        known=known,
        encoders=encoders,
        inputs={"dataset": data.content_sha256} | {role: model_identity(name) for role, name in names.items()},
        precision=resolve_precision(config.precision),
    )


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
    """Return the folder of the reference that a policy's training recorded, found by the hash of its content."""
    sought = recorded(model_source(policy)).references.get("ref_model")
    for manifest_path in sorted(Path("artifacts").glob("*/*/_SUCCESS.json")) if sought else []:
        try:
            manifest: Any = read_manifest(manifest_path.parent)
        except AiosError:
            continue
        if manifest is not None and manifest.content_sha256 == sought:
            return str(manifest_path.parent)
    raise UpstreamMissing(
        f"the model that {policy} was trained against is not below artifacts/",
        next_step="name it: --ref-model MODEL",
    )


def _same_tokenizer(names: dict[str, str], encoders: dict[str, PairEncoder]) -> None:
    difference = same_tokenizer(encoders["policy"].tokenizer, encoders["reference"].tokenizer)
    if difference:
        raise BadConfig(
            f"policy {names['policy']} and reference {names['reference']} cannot be compared: {difference}",
            needed="two models with the same tokenizer",
            next_step="choose the reference that the policy was trained from",
        )
