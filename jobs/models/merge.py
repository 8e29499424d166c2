"""Fold low-rank adapters into the model that they were trained on.

A folder with adapter_model.safetensors -> a folder with a whole model, its tokenizer, card and manifest.

    aios hrm-hf merge --model artifacts/dpo/NAME --output-dir artifacts/dpo/NAME-merged

What the training recorded in config.json (`alignment`) goes along, so that scoring and evaluation apply the same
template and length.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import click
import orjson

from jobs.config.fields import identity
from jobs.config.models import MergeConfig
from jobs.contract.child import report_result
from jobs.contract.errors import BadConfig, UpstreamMissing
from jobs.contract.files import sha256_file, to_json
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG
from jobs.contract.manifest import Manifest, read_manifest, verify
from jobs.contract.publish import already_published, attempt_id, publish_whole, recover, staging
from jobs.models.load import load_causal, load_reward, load_tokenizer, model_identity, model_source
from jobs.options import config_options
from jobs.training.libraries import library_versions, quiet_libraries

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@click.command("merge")
@config_options(MergeConfig)
def command(config: MergeConfig) -> None:
    """Fold LoRA adapters into their base: one whole model, ready to serve.

    \b
    Examples:
      aios hrm-hf merge --model artifacts/dpo/demo --output-dir artifacts/dpo/demo-merged --dtype bf16
      aios hrm-hf merge --model artifacts/rm/demo/checkpoints/checkpoint-200 --output-dir artifacts/rm/early
    """
    run(config)


def run(config: MergeConfig) -> None:
    """Merge and publish; a finished folder of the same model is left as it is."""
    quiet_libraries()
    source, folder = Path(config.model), Path(config.output_dir)
    adapters = read_adapters(source)
    base = choose_base(config, source, adapters)
    inputs = {"adapters": sha256_file(source / WEIGHTS), "base": model_identity(model_source(base))}
    with FolderLock(folder, attempt=attempt_id()) as lock:
        recover(folder, lock)
        finished = already_published(folder, inputs=inputs, config=identity(config), overwrite=config.overwrite)
        if finished is not None:
            LOG.info("%s is already there: nothing to do", folder)
            report_result(exit_code=0, message="already there", manifest_sha256=finished.sha256, skipped=True)
            return
        with staging(folder, lock) as staged:
            merge(config, base, adapters["task_type"], staged)
            # The step of the training: readers ask a folder whether it is a reward model or a policy.
            step = "rm" if adapters["task_type"] == "SEQ_CLS" else "dpo"
            manifest = Manifest(
                step=step, attempt=attempt_id(), inputs=inputs, config=identity(config), files=[],
                versions=library_versions(),
            )  # fmt: skip
            manifest = publish_whole(folder, staged, manifest, lock)
    report_result(exit_code=0, message="published", manifest_sha256=manifest.sha256, skipped=False)
    LOG.info("Published %s", folder)
    click.echo(folder.as_posix())


def read_adapters(source: Path) -> dict[str, Any]:
    """Return the adapters' own settings, after checking that they are whole.

    Raises:
        UpstreamMissing: the folder holds no adapters, or is damaged.
    """
    if read_manifest(source) is not None:
        verify(source)
    if not (source / WEIGHTS).is_file() or not (source / SETTINGS).is_file():
        whole = any(source.glob("*.safetensors"))
        raise UpstreamMissing(
            f"{source} holds no adapters" + (", its model is whole already" if whole else ""),
            needed=f"{WEIGHTS} and {SETTINGS}, as a training with --lora-rank and --no-lora-merge publishes them",
        )
    adapters: dict[str, Any] = orjson.loads((source / SETTINGS).read_bytes())
    return adapters


def choose_base(config: MergeConfig, source: Path, adapters: dict[str, Any]) -> str:
    """Return the model to fold the adapters into.

    Raises:
        BadConfig: it is quantized, is not the one they were trained on, or is not known.
    """
    own = _settings(source)
    if config.base_model is not None:
        _check_same(config.base_model, own)
        return config.base_model
    if own and "quantization_config" in own:
        raise BadConfig(
            f"the base in {source} is quantized",
            needed="the model it was made from, since sums of rounded weights lose what was learnt",
            next_step="name it with --base-model",
        )
    named = str(config.model if own else adapters.get("base_model_name_or_path") or "")
    if not named:
        raise BadConfig(f"{source} does not say what its base is", next_step="name it with --base-model")
    return named


def merge(config: MergeConfig, base: str, task: str, staged: Path) -> None:
    """Write the merged model, tokenizer and card into a folder."""
    import torch
    from peft import PeftModel

    source = Path(config.model)
    tokenizer = load_tokenizer(config.model if _settings(source) else base)  # a checkpoint has no config.json
    load = load_reward if task == "SEQ_CLS" else load_causal
    alone = _without_adapters(source, staged / "base") if base == config.model else None
    # In fp32, whatever is stored: a small change added to a bf16 weight is mostly rounded away.
    model = PeftModel.from_pretrained(load(str(alone or base), tokenizer), source).merge_and_unload()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.dtype]
    model.to(dtype).save_pretrained(staged)
    if alone is not None:
        shutil.rmtree(alone)
    tokenizer.save_pretrained(staged)
    tokenizer.save_pretrained(staged / "tokenizer")
    path = staged / "config.json"
    recorded = (_settings(source) or {}).get("alignment")
    if recorded:
        path.write_bytes(to_json(orjson.loads(path.read_bytes()) | {"alignment": recorded}))
    (staged / "README.md").write_text(_card(source, base, config), encoding="utf-8", newline="\n")


def _without_adapters(source: Path, target: Path) -> Path:
    """Link the base's files into a folder of their own: beside adapters, `from_pretrained` would load those too."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith("adapter_") and path.suffix in {".json", ".safetensors"}:
            try:
                os.link(path, target / path.name)
            except OSError:  # a file system without links
                shutil.copyfile(path, target / path.name)
    (target / "_SUCCESS.json").unlink(missing_ok=True)
    return target


def _settings(source: Path) -> dict[str, Any] | None:
    """Return config.json of the base in the same folder; None where there are adapters alone."""
    path = source / "config.json"
    if not path.is_file():
        return None
    settings: dict[str, Any] = orjson.loads(path.read_bytes())
    return settings


def _check_same(base: str, own: dict[str, Any] | None) -> None:
    """Refuse another base than the one that the training recorded."""
    inputs = ((own or {}).get("alignment") or {}).get("inputs") or {}
    trained_on = inputs.get("base_model") or inputs.get("policy_model")
    if trained_on and model_identity(model_source(base)) != trained_on:
        raise BadConfig(
            f"{base} is not the model that the adapters were trained on",
            needed=f"the one with hash {trained_on[:12]}",
            next_step="name it, or leave --base-model out where the folder holds its base",
        )


def _card(source: Path, base: str, config: MergeConfig) -> str:
    """Return the training's card with a note in the place of its section on adapters."""
    note = f"""## Merged

Adapters of `{source.as_posix()}` folded into `{Path(base).as_posix()}` by `aios hrm-hf merge`; stored in
{config.dtype}.
"""
    if read_manifest(source) is None:
        return f"# {Path(config.output_dir).name}\n\n{note}"
    card = (source / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"## Adapters\n.*?(?=\n## )", lambda _: note, card, count=1, flags=re.DOTALL)
    return re.sub(r'^FOLDER = ".*"$', f'FOLDER = "{Path(config.output_dir).as_posix()}"', card, flags=re.MULTILINE)
