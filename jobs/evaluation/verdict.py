"""From the cards to one sentence, the numbers that gates compare, and the findings a reader must not miss."""

from __future__ import annotations

from typing import Any

from jobs.evaluation.acceptance import NEEDED_GAIN, points
from jobs.evaluation.recorded import Recorded

SELF_JUDGED = "self-judged: the reward model learnt from the same data as the policy, so its praise is no proof"


def headline(report: dict[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a report that gates and comparisons use, by name; None where not measured."""
    reward, policy, generation = report["reward"], report["policy"], report["generation"]

    def value(card: dict[str, Any] | None, *path: str) -> float | None:
        node: Any = card
        for key in path:
            node = None if node is None else node.get(key)
        return node if isinstance(node, int | float) else None

    return {
        "auc": value(reward, "auc", "value"),
        "accuracy": value(reward, "accuracy", "value"),
        "win_rate": value(policy, "by_mean", "policy", "value"),
        "reference_win_rate": value(policy, "by_mean", "reference", "value"),
        "gain": value(policy, "by_mean", "gain", "value"),
        "gain_low": value(policy, "by_mean", "gain", "low"),
        "gain_high": value(policy, "by_mean", "gain", "high"),
        "generation_win_rate": value(generation, "win_rate", "value"),
        "generation_win_rate_low": value(generation, "win_rate", "low"),
        "length_controlled_win_rate": value(generation, "length_controlled_win_rate", "value"),
        "kl_per_answer": value(generation, "kl", "per_answer", "value"),
        "validity": report["inputs"]["dataset"].get("validity"),
    }


def verdict(report: dict[str, Any]) -> dict[str, str]:
    """Return the answer in a word and a sentence: about the policy where there is one, else the reward model."""
    policy, reward = report["policy"], report["reward"]
    if policy is not None:
        return _policy_verdict(policy["by_mean"], report["generation"])
    auc, accuracy = reward["auc"], reward["accuracy"]
    useful = auc["low"] > 0.5
    return {
        "answer": "better" if useful else "no difference",
        "sentence": f"The reward model {'orders' if useful else 'does not order'} held-out answers better than chance: "
        f"AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}], "
        f"it agrees with people on {accuracy['value']:.1%} of {accuracy['n']} pairs.",
    }


def _policy_verdict(rates: dict[str, Any], generation: dict[str, Any] | None) -> dict[str, str]:
    answer, gain = rates["conclusion"], rates["gain"]
    numbers = (
        f"it prefers what people preferred on {rates['policy']['value']:.1%} of {gain['n']} held-out pairs, "
        f"its reference on {rates['reference']['value']:.1%}: {points(gain)}, p = {rates['mcnemar_p']:.2g}"
    )
    sentence = {
        "better": f"The policy is better than its reference: {numbers}.",
        "worse": f"The policy is WORSE than its reference: {numbers}.",
        "no difference": f"No gain is shown: the interval of the difference does not exclude chance; {numbers}.",
    }[answer]
    if generation is not None and generation["win_rate"] is not None:
        rate = generation["win_rate"]
        sentence += (
            f" Its own answers win {rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] of {rate['n']} "
            f"comparisons ({generation['judge']['label']})."
        )
    return {"answer": answer, "sentence": sentence}


def findings(report: dict[str, Any], known: dict[str, Recorded], inputs: dict[str, str]) -> list[dict[str, str]]:
    """Return what a reader should know before trusting the numbers; `warning` or `note`."""
    found = _data_findings(known, inputs)
    if report["reward"] is not None:
        found += _reward_findings(report["reward"])
    if report["policy"] is not None:
        found += _policy_findings(report["policy"])
    if report["generation"] is not None:
        found += _generation_findings(report["generation"])
    return [{"severity": severity, "code": code, "text": text} for severity, code, text in found]


Finding = tuple[str, str, str]


def _data_findings(known: dict[str, Recorded], inputs: dict[str, str]) -> list[Finding]:
    found: list[Finding] = [
        (
            "warning",
            "other_training_data",
            (
                f"The {role.replace('_', ' ')} was trained on another publication of the data than the one judged "
                "here: held-out rows may have been seen in its training."
            ),
        )
        for role, model in known.items()
        if model.dataset_hash not in (None, inputs["dataset"])
    ]
    if "policy" in known and known["policy"].references.get("ref_model") not in (None, inputs["reference"]):
        text = "The reference is not the model that the policy was trained against."
        found.append(("note", "other_reference", text))
    return found


def _reward_findings(card: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    longer = card["baselines"]["longer_wins"]["value"]
    length, beyond = card["length"], card["baselines"]["accuracy_minus_longer_wins"]
    if length["learnt_only_length"]:
        share = length["scores_the_longer_higher"]["value"]
        what, follows = ("longer", share) if share > 0.5 else ("shorter", 1 - share)
        found.append(
            (
                "warning",
                "learnt_only_length",
                (
                    f"This reward model has learnt length: the {what} answer scores higher in {follows:.0%} of "
                    "the pairs, and shows no skill where length does not help."
                ),
            )
        )
    if card["auc"]["low"] <= 0.5 <= card["auc"]["high"]:
        found.append(("warning", "chance", "The AUC's interval holds 0.5: the reward model may be guessing."))
    elif card["auc"]["high"] < 0.5:
        found.append(("warning", "inverted", "The AUC lies below 0.5: the scores are upside down."))
    if beyond["low"] <= 0 and not length["learnt_only_length"]:
        found.append(
            (
                "note",
                "no_better_than_length",
                (
                    f"Always taking the longer answer is right in {longer:.0%} of the "
                    "pairs; the reward model is not surely better than that."
                ),
            )
        )
    if card["calibration_error"] > 0.1:
        found.append(
            (
                "note",
                "miscalibrated",
                (
                    f"Confidence and accuracy differ by {card['calibration_error']:.2f} on average: use the scores for "
                    "order, not as probabilities."
                ),
            )
        )
    return found


def _policy_findings(card: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    gain, by_sum = card["by_mean"]["gain"], card["by_sum"]
    if gain["value"] > 0 and card["by_mean"]["conclusion"] == "no difference":
        found.append(("note", "gain_not_shown", f"The gain, {points(gain)}, is within what chance gives."))
    elif card["by_mean"]["conclusion"] == "better" and gain["value"] < NEEDED_GAIN:
        found.append(("note", "small_gain", f"The gain is real but below {100 * NEEDED_GAIN:.0f} points."))
    if {card["by_mean"]["conclusion"], by_sum["conclusion"]} == {"better", "worse"}:
        found.append(("warning", "mean_and_sum_disagree", "By summed log-probability the sign of the gain turns."))
    if card["change_of_logp"]["chosen"]["high"] < 0:
        found.append(
            (
                "note",
                "chosen_fell",
                (
                    "The chosen answers became less likely too (the rejected ones more so): usual for DPO, "
                    "a reason to look at the generations."
                ),
            )
        )
    return found


def _generation_findings(card: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    if card["judge"]["self_judged"]:
        found.append(("warning", "self_judged", SELF_JUDGED[0].upper() + SELF_JUDGED[1:] + "."))
    if card["missing"]:
        found.append(
            (
                "warning",
                "missing_judgements",
                f"{card['missing']} of {card['missing'] + card['judged']} items have no verdict of the judge.",
            )
        )
    rate, controlled = card["win_rate"], card["length_controlled_win_rate"]
    if rate and controlled and (rate["value"] - 0.5) * (controlled["value"] - 0.5) < 0:
        found.append(
            ("warning", "wins_by_length", "With lengths made equal the win-rate changes sides: length did the winning.")
        )
    return found
