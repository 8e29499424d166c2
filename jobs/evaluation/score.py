"""`aios hrm-hf rm-score`: rows of any number -> the same rows with rewards; the signals that HRM may consume.

    aios hrm-hf rm-score --model artifacts/rm/demo --input answers.jsonl --output scores.jsonl

Columns: docs/evaluation.md. In fp32 the scores are those of the training's own evaluation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import orjson

from jobs.config.scoring import RMScoreConfig
from jobs.contract.child import report_result
from jobs.options import config_options

if TYPE_CHECKING:
    from jobs.evaluation.parts import Chunk, Work

TEXTS = ("id", "prompt", "response", "chosen", "rejected")


@click.command("rm-score")
@config_options(RMScoreConfig)
def command(config: RMScoreConfig) -> None:
    """Score answers with a reward model, in files of any size.

    \b
    Example:
      aios hrm-hf rm-score --model artifacts/rm/demo --input answers.jsonl --output scores.parquet
    """
    summary = run(config)
    click.echo(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())
    said = f"scored {summary['done']} rows"
    report_result(exit_code=0, message=said, skipped=summary["skipped"], manifest_sha256=summary["sha256"])


def run(config: RMScoreConfig) -> dict[str, Any]:
    """Score and publish; returns the summary."""
    from jobs.training.libraries import quiet_libraries

    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # whole chunks are encoded at once, and nothing forks here
    quiet_libraries()
    from jobs.evaluation.models import encoder_for, reward_on_device
    from jobs.evaluation.parts import Parts
    from jobs.evaluation.recorded import recorded
    from jobs.models.load import model_identity, model_source
    from jobs.training.hardware import resolve_precision, set_threads

    known = recorded(model_source(config.model))
    precision = resolve_precision(config.precision)

    @contextmanager
    def opened() -> Iterator[Work]:
        set_threads()
        encoder = encoder_for(config.model, known, config.max_length)
        with reward_on_device(config.model, encoder.tokenizer, precision) as model:
            yield lambda chunk: _score(config, chunk, model, encoder)

    parts = Parts(config=config, columns=[*TEXTS, *config.keep], model_sha256=model_identity(config.model))
    return parts.run(opened)


def _score(config: RMScoreConfig, chunk: Chunk, model: Any, encoder: Any) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the output rows of a chunk in their order; a row that cannot be scored says why."""
    from jobs.evaluation.scoring import problem_of, score_rows

    problems = [problem_of(row) for _, row in chunk]
    good = [row for (_, row), problem in zip(chunk, problems, strict=True) if problem is None]
    added = iter(score_rows(model, encoder, good, batch_size=config.batch_size) if good else [])
    wanted = [*TEXTS, *config.keep]
    scored = []
    for (number, row), problem in zip(chunk, problems, strict=True):
        columns = next(added) if problem is None else {"truncated": False}
        kept = {name: row[name] for name in wanted if row.get(name) is not None}
        scored.append({"row": number} | kept | columns | {"error": problem})
    return scored, Counter(problem for problem in problems if problem is not None)
