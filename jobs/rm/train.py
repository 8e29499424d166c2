"""Train a reward model on preference pairs.

train.jsonl, eval.jsonl -> artifacts/rm/NAME: a sequence classifier with one output.

    aios hrm-hf rm-train --base-model MODEL --dataset-dir DIR --output-dir artifacts/rm/NAME

Loss: -log sigmoid(r(prompt, chosen) - r(prompt, rejected)) (Bradley-Terry; Ouyang et al. 2022, eq. 1 for two answers),
by TRL's RewardTrainer. Ours: rows are encoded and cut by `jobs.training.encode`, since TRL drops long pairs in
silence, and every evaluation also reports the AUC over all chosen (1) and rejected (0) answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.config.rm import RMConfig
from jobs.contract.splits import read_splits
from jobs.training.session import quiet_libraries, training_session


def run(config: RMConfig) -> None:
    """Train, evaluate and publish; a finished folder of the same inputs and settings is left as it is."""
    quiet_libraries()
    from datasets import Dataset
    from transformers import set_seed
    from trl import RewardConfig

    from jobs.models.load import load_reward, load_tokenizer, model_identity
    from jobs.rm.trainer import AUCRewardTrainer
    from jobs.training.callbacks import CheckpointCallback, MetricsCallback, ProgressCallback, StopCallback
    from jobs.training.card import model_card
    from jobs.training.encode import PairEncoder, encode_split

    data, splits = read_splits(Path(config.dataset_dir), ("train", "eval"))
    tokenizer = load_tokenizer(config.base_model)
    inputs = {"dataset": data.content_sha256, "base_model": model_identity(config.base_model)}

    with training_session(config, step="rm", inputs=inputs) as session:
        if session is None:
            return

        # Data: every row is encoded once and accounted for.
        encoder = PairEncoder(
            tokenizer, chat_template=config.chat_template, max_length=config.max_length, truncation=config.truncation
        )
        encoded = {name: encode_split(encoder, split.rows) for name, split in splits.items()}
        session.account(encoded)

        def as_dataset(name: str) -> Any:
            pairs = encoded[name].pairs
            return Dataset.from_dict(
                {
                    "chosen_ids": [pair.prompt_ids + pair.chosen_ids for pair in pairs],
                    "rejected_ids": [pair.prompt_ids + pair.rejected_ids for pair in pairs],
                }
            )

        # Model: the head is new, so its seed comes first.
        set_seed(config.seed)
        model = load_reward(config.base_model, tokenizer)

        # Learning.
        trainer = AUCRewardTrainer(
            model=model,
            args=RewardConfig(**session.arguments()),
            train_dataset=as_dataset("train"),
            eval_dataset=as_dataset("eval"),
            processing_class=tokenizer,
            callbacks=[
                MetricsCallback(session.metrics),
                StopCallback(session.stop),
                CheckpointCallback(),
                ProgressCallback("rm"),
            ],
        )
        session.learn(trainer)

        # Publication.
        facts = {"chat_template": encoder.templated, "rows": encoded["train"].accounting()}
        session.publish(trainer, tokenizer, card=model_card("rm", config, session, facts), facts=facts)
