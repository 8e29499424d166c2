"""The generation card: whose answers to held-out prompts does a judge prefer, and how far has the policy moved?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jobs.contract.files import write_atomic
from jobs.evaluation import statistics
from jobs.evaluation.policy import conclusion
from jobs.evaluation.statistics import Floats


@dataclass(kw_only=True, slots=True)
class Generations:
    """Answers of policy and reference to the same prompts, and what is known of them.

    Log-probabilities are those of the policy's own answers, in nats, under both models.
    """

    rows: list[int]
    prompts: list[Any]
    policy: list[str] = field(default_factory=list)
    reference: list[str] = field(default_factory=list)
    policy_ids: list[list[int]] = field(default_factory=list)
    policy_logps: Floats = field(default_factory=lambda: np.empty(0))
    reference_logps: Floats = field(default_factory=lambda: np.empty(0))
    finished: dict[str, list[bool]] = field(default_factory=dict)


def choose_prompts(num_prompts: int, count: int, seed: int) -> list[int]:
    """Return the numbers of `count` prompts, the same ones for every model under the same seed."""
    order = np.random.default_rng(seed).permutation(num_prompts)
    return [int(i) for i in sorted(order[:count])]


def keep_generations(path: Path, key: str, generations: Generations) -> None:
    """Write generations down for a second attempt; `key` says what they were made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"key": key} | asdict(generations)
    write_atomic(path, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))


def read_generations(path: Path, key: str) -> Generations | None:
    """Return the generations that an earlier attempt made from the same inputs; None where there are none."""
    try:
        document = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    if document.pop("key", None) != key:
        return None
    for name in ("policy_logps", "reference_logps"):
        document[name] = np.array(document[name])
    return Generations(**document)


def generation_card(generations: Generations, outcomes: list[float | None], *, seed: int) -> dict[str, Any]:
    """Return win-rates from the judge's outcomes: 1 policy, 0 reference, 0.5 tie, None no verdict."""
    judged = [i for i, outcome in enumerate(outcomes) if outcome is not None]
    card: dict[str, Any] = {
        "prompts": len(generations.rows),
        "judged": len(judged),
        "missing": len(outcomes) - len(judged),
        "kl": kl_card(generations, seed),
        "length": {
            "policy_chars": float(np.mean([len(text) for text in generations.policy])),
            "reference_chars": float(np.mean([len(text) for text in generations.reference])),
            "policy_finished": float(np.mean(generations.finished["policy"])),
            "reference_finished": float(np.mean(generations.finished["reference"])),
        },
        "win_rate": None,
        "length_controlled_win_rate": None,
        "conclusion": "not judged",
    }
    if judged:
        wins = np.array([outcomes[i] for i in judged], dtype=np.float64)
        gaps = [len(generations.policy[i]) - len(generations.reference[i]) for i in judged]
        clusters = np.arange(len(judged))
        rate = statistics.mean_estimate(wins, clusters, seed=seed)
        p = statistics.sign_p(wins - 0.5)
        controlled = statistics.length_controlled_estimate(wins, gaps, clusters, seed=seed)
        card |= {
            "win_rate": rate.as_dict(),
            "length_controlled_win_rate": controlled.as_dict(),
            "ties": int((wins == 0.5).sum()),
            "sign_test_p": p,
            "conclusion": conclusion(rate, p, no_effect=0.5),
        }
    return card


def kl_card(generations: Generations, seed: int) -> dict[str, Any]:
    """Return the Monte Carlo estimate of KL(policy || reference) from the policy's own answers, in nats.

    It is exact in expectation at temperature 1; below, it is the divergence on the answers that were sampled.
    """
    gaps = generations.policy_logps - generations.reference_logps
    clusters = np.arange(len(gaps))
    tokens = sum(len(ids) for ids in generations.policy_ids)
    return {
        "per_answer": statistics.mean_estimate(gaps, clusters, seed=seed).as_dict(),
        "per_token": float(gaps.sum() / tokens) if tokens else 0.0,
    }
