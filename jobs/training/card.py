"""The model card that is published beside a model: what it is, what it was made from, how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.config.fields import identity

if TYPE_CHECKING:
    from jobs.config.training import TrainingConfig
    from jobs.training.session import TrainingSession

_USE = {
    "rm": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], tokenize=False)
reward = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0].item()""",
    "dpo": """from transformers import pipeline

print(pipeline("text-generation", model=FOLDER)([{"role": "user", "content": "Hi"}], max_new_tokens=64))""",
}
_TITLE = {"rm": "Reward model", "dpo": "DPO policy"}
_LIMITS = {
    "rm": "Scores rank answers to the same prompt; they have no unit and do not compare between prompts or models. The "
    "model knows the preferences of these annotators on these kinds of prompts, and no others.",
    "dpo": "The policy was moved towards answers that these annotators preferred. Whether it got better, and by how "
    "much, is what `aios hrm-hf evaluate` measures; a lower loss does not say so.",
}


def model_card(step: str, config: TrainingConfig, session: TrainingSession, facts: dict[str, Any]) -> str:
    """Return the card in Markdown."""

    def table(values: dict[str, Any]) -> str:
        return "\n".join(["| | |", "| --- | --- |"] + [f"| {key} | {value} |" for key, value in values.items()])

    metrics = {k: v for k, v in session.summary.items() if not k.endswith("_s")}
    return f"""---
library_name: transformers
tags: [trl, {"reward-trainer" if step == "rm" else "dpo"}, aios-alignment]
---
# {_TITLE[step]} {session.folder.name}

Trained by `aios hrm-hf {step}-train` on {facts["rows"]["rows_used"]} preference pairs.

## Figures on eval.jsonl

{table(metrics)}

## Use

```python
FOLDER = "{session.folder.as_posix()}"
{_USE[step]}
```

## Limits

{_LIMITS[step]}

## Made from

{table(session.inputs)}

## Settings

{table(identity(config))}
"""
