"""Train a policy by direct preference optimisation.

train.jsonl, eval.jsonl -> artifacts/dpo/NAME: a causal language model.

    aios hrm-hf dpo-train --policy-model MODEL --ref-model MODEL --dataset-dir DIR --output-dir artifacts/dpo/NAME

Loss: Rafailov et al. 2023, eq. 7, by TRL's DPOTrainer. Ours: rows are encoded and cut by `jobs.training.encode`, and
the reference model is not kept beside the policy: its log-probabilities are computed once and cached on the volume.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jobs.config.dpo import DPOConfig
from jobs.training.session import TrainingSession
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

        from jobs.dpo.trainer import PolicyTrainer
        from jobs.models.load import load_causal
        from jobs.training import adapters
        from jobs.training.arguments import trainer_arguments
        from jobs.training.fast import takes_half, takes_packed, unsupported
        from jobs.training.packing import use_shared_start
        from jobs.training.publication import publish

        # Data: every row is encoded once and accounted for.
        session.encode()
        tokenizer = session.materials.tokenizer

        # Models: the reference is needed for one pass over the data only; where it is the policy, none is loaded, and
        # with adapters the policy still is its reference, since they come later.
        set_seed(config.seed)
        model = load_causal(config.policy_model, tokenizer, **session.load_options())
        adapters.check_targets(model, config)

        def placed(model: Any) -> Any:
            return model.to(session.device()) if config.quantize == "none" else model  # bitsandbytes places by itself

        packed = takes_packed(config) and not unsupported(model)
        if packed:
            use_shared_start(model)

        @functools.cache
        def load_reference() -> Any:
            if reference == config.policy_model:
                return placed(model)
            other = placed(load_causal(reference, tokenizer, **session.load_options()))
            if packed:
                use_shared_start(other)
            return other

        half = takes_half(config, session.precision, session.world.size) and not unsupported(model)

        train, evaluation = (
            _with_reference(session, name, load_reference, variant="half" if half else config.quantize)
            for name in ("train", "eval")
        )
        load_reference.cache_clear()  # from here on the policy is the only model in memory

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
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=tokenizer,
            callbacks=session.callbacks(),
            peft_config=adapters.lora(config, "dpo"),
        )
        if config.fast:
            trainer.make_fast(half=half, packed=packed)
        session.learn(trainer)
        publish(session, trainer)


def _with_reference(session: TrainingSession, name: str, load: Callable[[], Any], *, variant: str) -> Any:
    """Return a split as TRL wants it, each pair with the reference's log-probabilities."""
    from datasets import Dataset

    from jobs.dpo.reference import reached_pairs, reference_logps

    config, pairs = session.config, session.encoded[name].pairs
    draws = config.max_steps and config.max_steps * session.pairs_per_step()
    chosen, rejected, computed = reference_logps(
        load,
        pairs,
        reached=reached_pairs(len(pairs), wanted=draws, seed=config.seed) if name == "train" else None,
        model_sha256=session.inputs["ref_model"],
        precision=session.precision,
        variant=variant,
        pad_id=session.materials.tokenizer.pad_token_id,
        world=session.world,
        stop=session.stop,
    )
    session.once("reference", split=name, reference_pairs_computed=computed)
    columns = {key: [getattr(p, key) for p in pairs] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
    return Dataset.from_dict(columns | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
