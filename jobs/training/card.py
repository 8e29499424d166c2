"""The model card that is published beside a model: what it is, what it was made from, how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.config.fields import identity
from jobs.training.report import LABELS, readable

if TYPE_CHECKING:
    from jobs.training.session import TrainingSession

_USE = {
    "rm": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

FOLDER = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
text = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Hi"}}, {{"role": "assistant", "content": "Hello!"}}], tokenize=False)
reward = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0].item()""",
    "dpo": """from transformers import pipeline

FOLDER = "{folder}"
print(pipeline("text-generation", model=FOLDER)([{{"role": "user", "content": "Hi"}}], max_new_tokens=64))""",
}
_SERVE = {
    "rm": "`aios hrm-hf rm-score` scores rows of {prompt, response} with the template and length of the training;\n"
    "a serving system (`vllm serve FOLDER --runner pooling`) must apply the same, or its scores differ.",
    "dpo": "`aios hrm-hf generate` answers prompts here; any server of the transformers format serves the folder,\n"
    "such as `vllm serve FOLDER`.",
}
_MERGE = """
## Adapters

This folder holds a base model and low-rank adapters (`adapter_model.safetensors`); `from_pretrained` puts them
together. To fold them in for good, for servers that want one whole model:

    aios hrm-hf merge --model {folder} --output-dir {folder}-merged{base}

With `peft` alone:

```python
import shutil

from peft import PeftModel
from transformers import {auto}

shutil.copytree(FOLDER, "base", ignore=shutil.ignore_patterns("adapter_*", "checkpoints"))
base = {auto}.from_pretrained("base")
PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained("merged")
```
"""
_TITLE = {"rm": "Reward model", "dpo": "DPO policy"}
_LIMITS = {
    "rm": "Scores rank answers to the same prompt; they have no unit and do not compare between prompts or models.\n"
    "The model knows the preferences of these annotators on these kinds of prompts, and no others.",
    "dpo": "The policy was moved towards answers that these annotators preferred. Whether it got better, and by how\n"
    "much, is what `aios hrm-hf evaluate` measures; a lower loss does not say so.",
}


def model_card(session: TrainingSession, facts: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Return the card in Markdown."""
    step, config, rows = session.step, session.config, facts["rows"]
    adapters = bool(config.lora_rank) and not (config.lora_merge and config.quantize == "none")
    merge = ""
    if adapters:
        merge = _MERGE.format(
            auto="AutoModelForSequenceClassification" if step == "rm" else "AutoModelForCausalLM",
            folder=session.folder.as_posix(),
            base=f" --base-model {next(iter(session.models.values()))}" if config.quantize != "none" else "",
        )
    use = _USE[step].format(folder=session.folder.as_posix())
    figures = {LABELS.get(key, key): readable(key, value) for key, value in metrics.items()}
    made_from = {"dataset": config.dataset_dir} | session.models
    made = "\n".join(f"| {name} | {made_from[name]} | `{sha256}` |" for name, sha256 in session.inputs.items())
    settings = identity(config) | {"precision": session.precision, "processes": facts["processes"]}
    template = "applied to plain text too" if facts["chat_template"] else "not used"
    dropped = ", ".join(f"{n} {key[8:]}" for key, n in rows.items() if key.startswith("dropped_")) or "none"
    return f"""---
library_name: transformers
tags: [trl, {"reward-trainer" if step == "rm" else "dpo"}, aios-alignment]
---
# {_TITLE[step]} {session.folder.name}

Trained by `aios hrm-hf {step}-train` from `{next(iter(session.models.values()))}` on {rows["rows_used"]} pairs:
{rows["rows_read"]} rows read, dropped: {dropped}; {rows["rows_truncated"]} shortened to {config.max_length} tokens.
The chat template was {template}.

## Figures on eval.jsonl

{_table(figures)}

Curves: `curves.png`; every step: `metrics.jsonl`.

## Use

```python
{use}
```

{_SERVE[step]}
{merge}
## Limits

{_LIMITS[step]}

## Made from

| input | from | sha256 of its content |
| --- | --- | --- |
{made}

## Settings

{_table({name: value for name, value in settings.items() if value is not None})}
"""


def _table(values: dict[str, Any]) -> str:
    return "\n".join(["| | |", "| --- | --- |"] + [f"| {key} | {value} |" for key, value in values.items()])
