"""`aios hrm-hf generate`: prompts of any number -> answers of a policy.

    aios hrm-hf generate --model artifacts/dpo/demo --input prompts.jsonl --output answers.jsonl

An answer depends on the seed and on its row, so shards and resumed runs give the answers of one uninterrupted run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import orjson

from jobs.config.scoring import GenerateConfig
from jobs.contract.child import report_result
from jobs.options import config_options

if TYPE_CHECKING:
    from jobs.evaluation.parts import Chunk, Work


@click.command("generate")
@config_options(GenerateConfig)
def command(config: GenerateConfig) -> None:
    """Answer prompts with a policy; the output is ready for rm-score.

    \b
    Example:
      aios hrm-hf generate --model artifacts/dpo/demo --input prompts.jsonl --output answers.jsonl
    """
    summary = run(config)
    click.echo(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())
    report_result(exit_code=0, message=f"answered {summary['done']} prompts", skipped=summary["skipped"])


def run(config: GenerateConfig) -> dict[str, Any]:
    """Generate and publish; returns the summary."""
    from jobs.training.libraries import quiet_libraries

    quiet_libraries()
    from jobs.evaluation.models import encoder_for, policy_on_device
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
        with policy_on_device(config.model, encoder.tokenizer, precision) as model:
            yield lambda chunk: _answer(config, chunk, model, encoder)

    columns = ["id", "prompt", *config.keep]
    return Parts(config=config, columns=columns, model_sha256=model_identity(config.model)).run(opened)


def _answer(
    config: GenerateConfig, chunk: Chunk, model: Any, encoder: Any
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return one output row per sample, in the order of the input; a row without a prompt says so."""
    from jobs.evaluation.generation import end_ids, generate_answers
    from jobs.evaluation.scoring import problem_with

    problems = {number: problem_with(row, "prompt") for number, row in chunk}
    asked = [(number, row, i) for number, row in chunk if problems[number] is None for i in range(config.samples)]
    ids = generate_answers(
        model,
        encoder.tokenizer,
        [encoder.encode_prompt(row["prompt"]) for _, row, _ in asked],
        numbers=[number * config.samples + sample for number, _, sample in asked],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        batch_size=config.batch_size,
    )
    texts = encoder.tokenizer.batch_decode(ids, skip_special_tokens=True) if ids else []
    ends, answered = end_ids(model, encoder.tokenizer), iter(zip(texts, ids, strict=True))
    rows = []
    for number, row in chunk:
        kept = {name: row[name] for name in ("id", "prompt", *config.keep) if row.get(name) is not None}
        if problems[number] is not None:
            rows.append({"row": number} | kept | {"error": problems[number]})
            continue
        for sample in range(config.samples):
            text, tokens = next(answered)
            answer = {"sample": sample, "response": text.strip(), "tokens": len(tokens), "finished": tokens[-1] in ends}
            rows.append({"row": number} | kept | answer | {"error": None})
    return rows, Counter(problem for problem in problems.values() if problem is not None)
