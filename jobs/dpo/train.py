"""Train a policy by direct preference optimisation.

train.jsonl, eval.jsonl -> artifacts/dpo/NAME: a causal language model.

    aios hrm-hf dpo-train --policy-model MODEL --ref-model MODEL --dataset-dir DIR --output-dir artifacts/dpo/NAME

Loss: Rafailov et al. 2023, eq. 7, by TRL's DPOTrainer. Ours: rows are encoded and cut by `jobs.training.encode`, and
the reference model is not kept beside the policy: its log-probabilities are computed once and cached on the volume.
"""

from __future__ import annotations

from typing import Any

from jobs.config.dpo import DPOConfig
from jobs.training.encode import EncodedPair
from jobs.training.start import started


def run(config: DPOConfig) -> None:
    """Train, evaluate and publish; a finished folder of the same inputs and settings is left as it is."""
    reference = config.ref_model or config.policy_model
    models = {"policy_model": config.policy_model, "ref_model": reference}
    with started(config, step="dpo", models=models) as session:
        if session is None:
            return
        from transformers import set_seed
        from trl import DPOConfig as TRLConfig

        from jobs.dpo.reference import References
        from jobs.dpo.trainer import PolicyTrainer
        from jobs.models.load import load_causal
        from jobs.training import adapters
        from jobs.training.arguments import trainer_arguments
        from jobs.training.fast import half as half_copy
        from jobs.training.fast import takes_half, takes_packed, unsupported
        from jobs.training.packing import use_shared_start
        from jobs.training.publication import publish

        # Data: every row is encoded once and accounted for.
        encoded = session.encode()
        tokenizer = session.materials.tokenizer

        # Models: the reference is needed for one pass over the data only; where it is the policy, none is loaded, and
        # with adapters the policy still is its reference, since they come later.
        set_seed(config.seed)
        model = load_causal(config.policy_model, tokenizer, **session.load_options())
        adapters.check_targets(model, config)
        packed = takes_packed(config) and not unsupported(model)
        if packed:
            use_shared_start(model)
        half = takes_half(config, session.precision, session.world.size) and not unsupported(model)
        # Where a copy does the passes it is the reference until the first step's weights reach it.
        late = half and session.checkpoint is None

        def load_reference() -> Any:
            if late and reference == config.policy_model:
                assert trainer.half is not None
                return trainer.half.base()
            chosen = model
            if reference != config.policy_model:
                chosen = load_causal(reference, tokenizer, **session.load_options())
                if packed:
                    use_shared_start(chosen)
            if half:  # the policy's arithmetic, to the rounding: else its first margins would be noise, not 0
                return half_copy(chosen)
            # bitsandbytes places by itself
            return chosen.to(session.device()) if config.quantize == "none" else chosen

        references = References(session, load_reference, variant="half" if half else config.quantize)
        if not late:
            references.complete()

        # Learning.
        trainer = PolicyTrainer(
            model=adapters.prepare(model, config),
            args=TRLConfig(
                **trainer_arguments(config, precision=session.precision, fresh=session.checkpoint is None),
                beta=config.beta,
                label_smoothing=config.label_smoothing,
                loss_type=[config.loss_type],
                precompute_ref_log_probs=True,
            ),
            train_dataset=_as_dataset(encoded["train"].pairs),
            eval_dataset=_as_dataset(encoded["eval"].pairs),
            processing_class=tokenizer,
            callbacks=session.callbacks(),
            peft_config=adapters.lora(config, "dpo"),
            references=references,
        )
        if config.fast:
            trainer.make_fast(half=half, packed=packed)
        session.learn(trainer)
        publish(session, trainer)


def _as_dataset(pairs: list[EncodedPair]) -> Any:
    """Return pairs as TRL wants them, numbered."""
    from datasets import Dataset

    columns = {key: [getattr(p, key) for p in pairs] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
    return Dataset.from_dict(columns | {"pair": list(range(len(pairs)))})
