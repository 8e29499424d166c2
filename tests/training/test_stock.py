"""The losses are those of a stock TRL 1.16 script, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from jobs.models.load import load_tokenizer
from tests.training.study import Study

STEPS = 5


def stock_losses(study: Study, step: str, dataset: str, output: Path) -> list[float]:
    """Train as TRL's documentation does, with the settings that differ from its defaults spelled out."""
    rows = [orjson.loads(line) for line in (study.root / dataset / "train.jsonl").read_bytes().splitlines()]
    model_name = str(study.root / "tiny")
    tokenizer = load_tokenizer(model_name)
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.01,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "seed": 42,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    set_seed(42)
    trainer: Any
    if step == "rm":
        model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=1)
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**arguments),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    else:
        # A reference model of its own, asked at every step: nothing is computed ahead.
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model_name),
            ref_model=AutoModelForCausalLM.from_pretrained(model_name),
            args=DPOConfig(**arguments),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("fast", ["--fast", "--no-fast"])
@pytest.mark.parametrize("dataset", ["data", "chat"])
@pytest.mark.parametrize("step", ["rm", "dpo"])
def test_losses_equal_those_of_a_stock_script(study: Study, tmp_path: Path, step: str, dataset: str, fast: str) -> None:
    """The same data, seed and order give the same loss at each step to 1e-4, for strings and for chats."""
    output = f"artifacts/{step}/stock-{dataset}-{fast.strip('-')}"
    # TRL joins plain strings as they are: so must we, to be compared.
    template = "none" if dataset == "data" else "auto"
    more = ("--max-steps", STEPS, "--chat-template", template, fast)
    assert study.train(step, output, *more, dataset=dataset) == 0
    assert study.losses(output) == pytest.approx(stock_losses(study, step, dataset, tmp_path), abs=1e-4)
