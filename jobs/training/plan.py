"""--dry-run: what a training would do, what it would take, and whether this machine can; nothing is written."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from jobs.config.fields import as_dict
from jobs.config.training import TrainingConfig
from jobs.contract.errors import BadConfig
from jobs.contract.log import LOG
from jobs.training.adapters import check_attention, check_quantization
from jobs.training.encode import EncodedSplit, encode_split
from jobs.training.hardware import describe_device, resolve_precision, set_threads
from jobs.training.materials import gather, read_inputs
from jobs.training.memory import GIB, available_memory, check_fits, needed_memory, pair_tokens, parameters_in
from jobs.training.report import print_plan
from jobs.training.session import make_encoder
from jobs.training.world import join_world


def print_plan_of(config: TrainingConfig, *, step: str, models: dict[str, str]) -> None:
    """Print the plan of a training on stdout.

    Raises:
        EnvironmentUnfit: the model cannot fit into this machine.
    """
    splits, inputs = read_inputs(config, models)
    world = join_world(config.processes)
    check_quantization(config)
    check_attention(config)
    set_threads()
    precision = resolve_precision(config.precision)
    materials = gather(config, models, splits, inputs)
    encoder = make_encoder(config, materials)
    encoded = {name: encode_split(encoder, split.rows) for name, split in splits.items()}
    if not encoded["train"].pairs:
        raise BadConfig("no pair of train.jsonl is usable", next_step="raise --max-length")
    batch: int = config.batch_size  # type: ignore[attr-defined]
    steps = _steps(config, len(encoded["train"].pairs), batch * config.gradient_accumulation * world.size)
    sections: dict[str, dict[str, Any]] = {
        "settings": as_dict(config) | {"precision": precision},
        "machine": {"device": describe_device(), "processes": world.size},
        "tokens": {
            "chat template": "applied" if encoder.templated else "none",
            "pad": f"{materials.tokenizer.pad_token} ({materials.tokenizer.pad_token_id})",
            "end of text": f"{materials.tokenizer.eos_token} ({materials.tokenizer.eos_token_id})",
        },
        "rows": {f"{name}, {key}": n for name, split in encoded.items() for key, n in split.accounting().items()},
        "estimate": {"steps": steps},
    }
    model = next(iter(models.values()))
    parameters = parameters_in(Path(model))
    if parameters is None:
        sections["estimate"]["memory and time"] = "unknown until the model is here (`aios hrm-hf fetch-model`)"
        print_plan(sections)
        return
    need = needed_memory(config, model, encoded, parameters, precision)
    sections["estimate"] |= {"parameters": f"{parameters:,}"} | need.table()
    sections["estimate"]["memory, free here"] = f"{available_memory() / GIB:.2f} GiB"
    sections["estimate"]["time"] = _time(config, step, model, encoded, steps, parameters, precision)
    print_plan(sections)
    check_fits(config, need, available_memory(), describe_device())


def _steps(config: TrainingConfig, pairs: int, per_step: int) -> int:
    """Return the optimizer steps, counted as transformers does."""
    return config.max_steps or max(1, math.ceil(config.epochs * math.ceil(pairs / per_step)))


def _time(
    config: TrainingConfig, step: str, model: str, encoded: dict[str, EncodedSplit], steps: int, parameters: int,
    precision: str,
) -> str:  # fmt: skip
    """Return the time for people; a model whose layers cannot be run apart has none."""
    from jobs.models.load import load_config
    from jobs.training.duration import estimate_seconds, measure

    shape = load_config(model).get_text_config()
    try:
        speed = measure(config, shape, parameters=parameters, precision=precision, tokens=pair_tokens(encoded["train"]))
    except Exception as exc:  # an architecture of its own kind: the plan is worth having without the time
        LOG.debug("No estimate of the time", exc_info=exc)
        return "unknown for this architecture"
    seconds = estimate_seconds(config, step, encoded, speed=speed, steps=steps, parameters=parameters)
    return f"about {datetime.timedelta(seconds=math.ceil(seconds))}"
