"""Settings of the step `evaluation` (`aios hrm-hf evaluate`) and of its companions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option
from jobs.contract.errors import BadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """From a reward model, a policy and its reference to a verdict on held-out pairs."""

    dataset_dir: str = option(metavar="DIR", identity=False)
    """Folder of splits that `aios data argilla-export` made; only test.jsonl is judged."""

    output_dir: str = option(metavar="DIR", identity=False)
    """Folder to publish to, usually artifacts/evaluation/NAME."""

    reward_model: str | None = option(None, metavar="MODEL", identity=False)
    """Reward model to examine, usually artifacts/rm/NAME; it also judges the generations. Without one the verdict is
    on the policy alone."""

    policy_model: str | None = option(None, metavar="MODEL", identity=False)
    """Policy to examine, usually artifacts/dpo/NAME. Without one the verdict is on the reward model alone."""

    ref_model: str | None = option(None, metavar="MODEL", identity=False)
    """Model that the policy shall beat, with the same tokenizer. The default is the one it was trained against."""

    batch_size: int = option(32, min=1)
    """Sequences per forward pass, sorted by length; changes the speed, not what is measured."""

    max_length: int | None = option(None, min=8)
    """Longest prompt plus answer, in tokens. The default is what each model's training recorded, else 1024."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", flags={"--bf16": "bf16", "--fp16": "fp16"})
    """Arithmetic of the forward pass. auto is bf16 where the hardware multiplies it fast, else fp32."""

    num_generations: int = option(64, min=0)
    """Held-out prompts that policy and reference answer, for the generation win-rate; 0 leaves it out."""

    max_new_tokens: int = option(64, min=1)
    """Longest generated answer, in tokens."""

    temperature: float = option(0.7, min=0)
    """Sampling temperature of the generations; 0 always takes the likeliest token."""

    seed: int = 42
    """Seed of the bootstrap, of the choice of prompts and of the sampling."""

    slice_by: tuple[str, ...] = option((), metavar="FIELD")
    """Metadata field whose values get an accuracy of their own; repeat for several."""

    disagreements: int = option(50, min=0)
    """Export so many of the pairs on which model and people disagree most, ready for re-annotation."""

    judge: Literal["reward", "endpoint", "none"] = "reward"
    """Who compares the generations: the reward model, an OpenAI-compatible endpoint, or nobody."""

    judge_url: str | None = option(None, metavar="URL")
    """Base URL of the endpoint, such as http://localhost:8000/v1; requests go to URL/chat/completions."""

    judge_model: str | None = option(None, metavar="NAME")
    """Name of the model at the endpoint."""

    judge_key_env: str = option("OPENAI_API_KEY", metavar="VARIABLE", identity=False)
    """Environment variable that holds the endpoint's key; the key itself is never an option nor written anywhere."""

    judge_timeout_s: float = option(60.0, min=0.1, identity=False)
    """Give up on a request after so many seconds."""

    judge_retries: int = option(4, min=0, identity=False)
    """Ask again so many times after a time-out, a rate limit, a server error or an answer without a verdict."""

    judge_concurrency: int = option(4, min=1, identity=False)
    """Requests in flight at once."""

    judge_max_missing: float = option(0.1, min=0, max=1, identity=False)
    """Publish although up to this share of the items has no verdict; above it stop with 69 and resume when run
    again."""

    judge_price: float | None = option(None, min=0, identity=False)
    """Price of a million tokens, to show the cost before it starts; without it the tokens alone are shown."""

    fail_under: tuple[str, ...] = option((), metavar="METRIC=NUMBER", identity=False)
    """Exit with 3, after publishing, when a metric is below a number: gain, gain_low, auc, accuracy, win_rate,
    generation_win_rate, generation_win_rate_low, length_controlled_win_rate, validity; repeat for several."""

    json: bool = option(False, identity=False)
    """Print report.json instead of the tables."""

    overwrite: bool = option(False, identity=False)
    """Replace a finished report of other inputs or settings in the output folder."""

    def __post_init__(self) -> None:
        if self.reward_model is None and self.policy_model is None:
            raise BadConfig(
                "there is nothing to evaluate",
                needed="--reward-model, --policy-model or both",
                next_step="name the folders that rm-train and dpo-train made",
            )
        if self.judge == "endpoint" and not (self.judge_url and self.judge_model):
            raise BadConfig("--judge endpoint without an endpoint", needed="--judge-url and --judge-model")
        self.gates()

    def gates(self) -> dict[str, float]:
        """Return the gates as {metric: smallest value that passes}.

        Raises:
            BadConfig: one is not METRIC=NUMBER, or the metric does not exist.
        """
        gates = {}
        for text in self.fail_under:
            name, _, number = text.partition("=")
            if name not in GATE_METRICS:
                raise BadConfig(f"--fail-under {text}: no such metric", needed=f"one of {', '.join(GATE_METRICS)}")
            try:
                gates[name] = float(number)
            except ValueError:
                raise BadConfig(f"--fail-under {text} has no number", needed=f"such as {name}=0.05") from None
        return gates


GATE_METRICS = (
    "gain",
    "gain_low",
    "auc",
    "accuracy",
    "win_rate",
    "generation_win_rate",
    "generation_win_rate_low",
    "length_controlled_win_rate",
    "validity",
)
"""Numbers of a report that a gate can be set on; `_low` is the lower end of the 95 % interval."""
