"""What the models say: log-probabilities of the held-out answers, generations, rewards. No statistics here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config.evaluation import EvaluationConfig
from jobs.config.fields import identity
from jobs.contract.files import sha256_json
from jobs.evaluation.case import Case
from jobs.evaluation.endpoint import EndpointJudge, endpoint_card
from jobs.evaluation.generation import end_ids, generate_answers
from jobs.evaluation.generations import Generations, choose_prompts, keep_generations, read_generations
from jobs.evaluation.judge import Judgement, RewardJudge
from jobs.evaluation.models import answer_logps, policy_on_device, reward_on_device, score_sequences
from jobs.evaluation.pairs import TestSet, both_sides
from jobs.evaluation.policy import PairLogps
from jobs.evaluation.statistics import Floats
from jobs.training.encode import EncodedSplit, PairEncoder

Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(kw_only=True, slots=True)
class Measured:
    """Everything the report is computed from."""

    test: TestSet
    rewards: tuple[Floats, Floats] | None = None
    policy: PairLogps | None = None
    reference: PairLogps | None = None
    generations: Generations | None = None
    judgements: list[Judgement] | None = None
    judge: dict[str, Any] | None = None


def measure(case: Case, phase: Phase, *, work: Path, stop: Callable[[], bool]) -> Measured:
    """Load each model once and ask it everything; `work` keeps what a second attempt need not ask again."""
    measured = Measured(test=case.test)
    if "policy" in case.names:
        _ask_policies(case, measured, phase, work)
    if "reward_model" in case.names:
        with phase("Reward model"):
            _ask_reward_model(case, measured)
    if measured.generations is not None:
        if case.config.judge == "endpoint":
            with phase("Judge"):
                judge = EndpointJudge(config=case.config, log=work / "judgements.jsonl", stop=stop)
                measured.judgements = judge.compare(measured.generations)
        measured.judge = _judge_card(case, measured)
    return measured


def _ask_policies(case: Case, measured: Measured, phase: Phase, work: Path) -> None:
    """Ask the policy, then the reference: log-probabilities of the pairs, answers of their own."""
    config, encoder = case.config, case.encoder("policy")
    encoded, pad_id = case.test.encode(encoder), encoder.tokenizer.pad_token_id
    # An endpoint is paid by the request: its second attempt must ask about the very same answers.
    kept = work / "generations.json" if config.judge == "endpoint" else None
    key = sha256_json([case.inputs, identity(config), case.precision])
    generations = read_generations(kept, key) if kept else None
    fresh = _prompts(case) if config.num_generations and generations is None else None
    for role in ("policy", "reference"):
        with policy_on_device(case.names[role], encoder.tokenizer, case.precision) as model:
            with phase(f"Log-probabilities, {role}"):
                setattr(measured, role, _pair_logps(model, case.test, encoded, pad_id, config.batch_size))
            if fresh is not None:
                with phase(f"Generations, {role}"):
                    _generate(config, role, model, encoder, fresh)
    if fresh is not None and kept is not None:
        keep_generations(kept, key, fresh)
    measured.generations = generations or fresh


def _ask_reward_model(case: Case, measured: Measured) -> None:
    """Score both answers of every pair, and the generations where this model is their judge."""
    encoder = case.encoder("reward_model")
    pad_id = encoder.tokenizer.pad_token_id
    with reward_on_device(case.names["reward_model"], encoder.tokenizer, case.precision) as model:

        def score(sequences: list[tuple[list[int], list[int]]]) -> Floats:
            joined = [prompt + answer for prompt, answer in sequences]
            prompts = [tuple(prompt) for prompt, _ in sequences]
            return score_sequences(model, joined, prompts, pad_id, case.config.batch_size)

        encoded = case.test.encode(encoder)
        chosen, rejected = both_sides(encoded.pairs, score)
        measured.rewards = (case.test.spread(encoded, chosen), case.test.spread(encoded, rejected))
        if measured.generations is not None and case.config.judge == "reward":
            measured.judgements = RewardJudge(encoder, score).compare(measured.generations)


def _judge_card(case: Case, measured: Measured) -> dict[str, Any]:
    """Return who judged, and whether the judge learnt from the data that the policy learnt from."""
    if measured.judgements is None:
        return {"kind": "none", "label": "not judged", "self_judged": False}
    if case.config.judge == "endpoint":
        label = f"by {case.config.judge_model}, asked in both orders"
        return {"kind": "endpoint", "label": label, "self_judged": False} | endpoint_card(measured.judgements)
    reward, policy = (case.known[role].dataset_hash for role in ("reward_model", "policy"))
    same = reward is not None and reward == policy
    label = "by the reward model" + (", self-judged" if same else "")
    return {"kind": "reward", "label": label, "self_judged": same}


def _pair_logps(model: Any, test: TestSet, encoded: EncodedSplit, pad_id: int, batch_size: int) -> PairLogps:
    pairs = encoded.pairs
    sequences = [(p.prompt_ids, p.chosen_ids) for p in pairs] + [(p.prompt_ids, p.rejected_ids) for p in pairs]
    sums, tokens = answer_logps(model, sequences, pad_id, batch_size)
    half = len(pairs)
    parts = (sums[:half], sums[half:], tokens[:half], tokens[half:])
    chosen, rejected, chosen_tokens, rejected_tokens = (test.spread(encoded, part) for part in parts)
    return PairLogps(chosen=chosen, rejected=rejected, chosen_tokens=chosen_tokens, rejected_tokens=rejected_tokens)


def _prompts(case: Case) -> Generations:
    """Choose the prompts: the same for both models, and for every run with this seed."""
    numbers = choose_prompts(case.test.num_prompts, case.config.num_generations, case.config.seed)
    rows = [int(case.test.first_rows()[number]) for number in numbers]
    return Generations(rows=rows, prompts=[case.test.rows[row]["prompt"] for row in rows])


def _generate(config: EvaluationConfig, role: str, model: Any, encoder: PairEncoder, generations: Generations) -> None:
    """Let one model answer, and keep what the policy's answers cost each of the two, for the divergence."""
    tokenizer = encoder.tokenizer
    prompts = [encoder.encode_prompt(prompt) for prompt in generations.prompts]
    ids = generate_answers(
        model,
        tokenizer,
        prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        batch_size=config.batch_size,
    )
    ends = end_ids(model, tokenizer)
    generations.finished[role] = [bool(answer) and answer[-1] in ends for answer in ids]
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    if role == "policy":
        generations.policy, generations.policy_ids = texts, ids
    else:
        generations.reference = texts
    answered = list(zip(prompts, generations.policy_ids, strict=True))
    sums, _ = answer_logps(model, answered, tokenizer.pad_token_id, config.batch_size)
    if role == "policy":
        generations.policy_logps = np.asarray(sums)
    else:
        generations.reference_logps = np.asarray(sums)
