"""Train a reward model on preference pairs.

train.jsonl, eval.jsonl -> artifacts/rm/NAME: a sequence classifier with one output.

    aios hrm-hf rm-train --base-model MODEL --dataset-dir DIR --output-dir artifacts/rm/NAME

Loss: -log sigmoid(r(prompt, chosen) - r(prompt, rejected)) (Bradley-Terry; Ouyang et al. 2022, eq. 1 for two answers),
by TRL's RewardTrainer. Ours: rows are encoded and cut by `jobs.training.encode`, since TRL drops long pairs in
silence, and every evaluation also reports the AUC over all chosen (1) and rejected (0) answers.
"""

from __future__ import annotations

from typing import Any

from jobs.config.rm import RMConfig
from jobs.training.start import started


def run(config: RMConfig) -> None:
    """Train, evaluate and publish; a finished folder of the same inputs and settings is left as it is."""
    with started(config, step="rm", models={"base_model": config.base_model}) as session:
        if session is None:
            return
        from datasets import Dataset
        from transformers import set_seed
        from trl import RewardConfig

        from jobs.models.load import load_reward
        from jobs.rm.trainer import RMTrainer
        from jobs.training import adapters
        from jobs.training.arguments import trainer_arguments
        from jobs.training.fast import takes_half, takes_packed
        from jobs.training.publication import publish

        # Data: every row is encoded once and accounted for.
        encoded = session.encode()

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
        model = load_reward(config.base_model, session.materials.tokenizer, **session.load_options())
        adapters.check_targets(model, config)
        model = adapters.prepare(model, config)

        # Learning.
        trainer = RMTrainer(
            model=model,
            args=RewardConfig(
                **trainer_arguments(config, precision=session.precision, fresh=session.checkpoint is None),
                center_rewards_coefficient=config.center_rewards,
            ),
            train_dataset=as_dataset("train"),
            eval_dataset=as_dataset("eval"),
            processing_class=session.materials.tokenizer,
            callbacks=session.callbacks(),
            peft_config=adapters.lora(config, "rm"),
        )
        if config.fast:
            trainer.make_fast(
                half=takes_half(config, session.precision, session.world.size), packed=takes_packed(config)
            )
        session.learn(trainer)
        publish(session, trainer)
