"""Settings of `aios hrm-hf rm-score`, `generate` and `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option
from jobs.contract.errors import BadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsConfig:
    """What commands share that read rows of any number and write rows."""

    input: str = option(metavar="FILE", identity=False)
    """Rows to read, .jsonl (also .gz) or .parquet."""

    output: str = option(metavar="FILE", identity=False)
    """File to publish to, .jsonl or .parquet; with --shard its name gets the shard before the suffix."""

    keep: tuple[str, ...] = option((), metavar="FIELD")
    """Field of the input to copy to the output beside the texts and the id; repeat for several."""

    shard: str = option("0/1", metavar="I/N")
    """Take only the rows whose number leaves I when divided by N, from 0: N parallel jobs share the work, such as
    --shard $(JOB_COMPLETION_INDEX)/8 in an Indexed Job."""

    batch_size: int = option(32, min=1, identity=False)
    """Sequences per forward pass, of similar length."""

    max_length: int | None = option(None, min=8)
    """Longest prompt plus answer, in tokens. The default is what training recorded, else 1024."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", flags={"--bf16": "bf16", "--fp16": "fp16"})
    """Arithmetic of the forward pass. auto is bf16 where the hardware multiplies it fast, else fp32."""

    chunk_rows: int = option(4096, min=1, identity=False)
    """Rows in memory at once; a chunk is sorted by length, and finished chunks survive a crash."""

    overwrite: bool = option(False, identity=False)
    """Replace a finished output of another input, model or settings."""

    def __post_init__(self) -> None:
        self.part()
        for name in (self.input.removesuffix(".gz"), self.output):
            if not name.endswith((".jsonl", ".parquet")):
                raise BadConfig(f"{name} is neither .jsonl nor .parquet", next_step="rename the file or convert it")

    def part(self) -> tuple[int, int]:
        """Return which part of how many this is.

        Raises:
            BadConfig: --shard is not I/N with I below N.
        """
        index, _, count = self.shard.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise BadConfig(f"--shard {self.shard}", needed="I/N with I from 0 to N-1, such as 0/4")
        return int(index), int(count)


@dataclass(frozen=True, kw_only=True, slots=True)
class RMScoreConfig(RowsConfig):
    """Score {prompt, response} or {prompt, chosen, rejected} rows as the evaluation of the training would."""

    model: str = option(metavar="MODEL", identity=False)
    """Reward model, usually artifacts/rm/NAME."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(RowsConfig):
    """Answer {prompt} rows with a policy."""

    model: str = option(metavar="MODEL", identity=False)
    """Policy, usually artifacts/dpo/NAME, or any causal language model."""

    max_new_tokens: int = option(256, min=1)
    """Longest answer, in tokens."""

    temperature: float = option(0.7, min=0)
    """Sampling temperature; 0 always takes the likeliest token."""

    samples: int = option(1, min=1)
    """Answers per prompt, each sampled with noise of its own."""

    seed: int = 42
    """Seed of the sampling; an answer depends on it and on the row, not on the batch or the shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """Put several evaluations in one table."""

    reports: tuple[str, ...] = option(metavar="DIR...", positional=True)
    """Folders of evaluations, artifacts/evaluation/NAME."""

    sort: str = option("gain", metavar="METRIC")
    """Number of the reports to sort by, best first."""

    output: str | None = option(None, metavar="FILE")
    """Also write the comparison to this .md, .html or .json file."""

    json: bool = False
    """Print JSON instead of the table."""
