"""Train a policy by direct preference optimisation.

train.jsonl, eval.jsonl -> artifacts/dpo/NAME: a causal language model.

    aios hrm-hf dpo-train --policy-model MODEL --ref-model MODEL --dataset-dir DIR --output-dir artifacts/dpo/NAME

Loss: Rafailov et al. 2023, eq. 7, by TRL's DPOTrainer. Ours: rows are encoded and cut by `jobs.training.encode`, and
the reference model is not kept beside the policy: its log-probabilities are computed once and cached on the volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.config.dpo import DPOConfig
from jobs.contract.errors import BadConfig
from jobs.contract.splits import read_splits
from jobs.training.session import quiet_libraries, training_session


def run(config: DPOConfig) -> None:
    """Train, evaluate and publish; a finished folder of the same inputs and settings is left as it is."""
    quiet_libraries()
    from datasets import Dataset
    from transformers import set_seed
    from trl import DPOConfig as TRLConfig

    from jobs.dpo.reference import reference_logps
    from jobs.dpo.trainer import EncodedDPOTrainer
    from jobs.models.load import load_causal, load_tokenizer, model_identity, same_tokenizer
    from jobs.training.callbacks import CheckpointCallback, MetricsCallback, ProgressCallback, StopCallback
    from jobs.training.card import model_card
    from jobs.training.encode import PairEncoder, encode_split

    reference = config.ref_model or config.policy_model
    data, splits = read_splits(Path(config.dataset_dir), ("train", "eval"))
    tokenizer = load_tokenizer(config.policy_model)
    if reference != config.policy_model:
        difference = same_tokenizer(tokenizer, load_tokenizer(reference))
        if difference:
            raise BadConfig(
                f"policy {config.policy_model} and reference {reference} have different tokenizers: {difference}",
                needed="two models of one family",
                next_step="choose another --ref-model",
            )
    inputs = {
        "dataset": data.content_sha256,
        "policy_model": model_identity(config.policy_model),
        "ref_model": model_identity(reference),
    }

    with training_session(config, step="dpo", inputs=inputs) as session:
        if session is None:
            return

        # Data: every row is encoded once and accounted for.
        encoder = PairEncoder(
            tokenizer, chat_template=config.chat_template, max_length=config.max_length, truncation=config.truncation
        )
        encoded = {name: encode_split(encoder, split.rows) for name, split in splits.items()}
        session.account(encoded)

        # Models: the reference is needed for one pass over the data only; where it is the policy, none is loaded.
        set_seed(config.seed)
        model = load_causal(config.policy_model, tokenizer)
        device = session.device()
        model.to(device)

        def with_reference(name: str) -> Any:
            pairs = encoded[name].pairs
            chosen, rejected, computed = reference_logps(
                lambda: model if reference == config.policy_model else load_causal(reference, tokenizer).to(device),
                pairs,
                model_sha256=inputs["ref_model"],
                precision=session.precision,
                batch_size=config.batch_size,
                pad_id=tokenizer.pad_token_id,
            )
            session.count_reference(name, len(pairs) if computed else 0)
            columns = {key: [getattr(p, key) for p in pairs] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
            return Dataset.from_dict(columns | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected})

        # Learning.
        train, evaluation = with_reference("train"), with_reference("eval")
        trainer = EncodedDPOTrainer(
            model=model,
            args=TRLConfig(
                **session.arguments(),
                beta=config.beta,
                label_smoothing=config.label_smoothing,
                precompute_ref_log_probs=True,
            ),
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=tokenizer,
            callbacks=[
                MetricsCallback(session.metrics),
                StopCallback(session.stop),
                CheckpointCallback(),
                ProgressCallback("dpo"),
            ],
        )
        session.learn(trainer)

        # Publication.
        facts = {"chat_template": encoder.templated, "rows": encoded["train"].accounting()}
        session.publish(trainer, tokenizer, card=model_card("dpo", config, session, facts), facts=facts)
