"""`schema_report.json`: what went in, what came out, why the rest did not, and how far to trust it.

Its JSON Schema is `schema_report.schema.json` beside this file; a test holds the two together.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from jobs.config.fields import identity
from jobs.config.ingest import IngestConfig
from jobs.contract.splits import SPLITS
from jobs.ingest.agreement import agreement
from jobs.ingest.chunk import FIRST_KNOWN, FIRST_WON, LONGER_WON, SAME_LENGTH, SAMPLE_IDS
from jobs.ingest.reasons import INVALID, REASONS
from jobs.ingest.stats import Totals

REPORT_VERSION = 1
WARN_BELOW = 0.95
_HISTOGRAM_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def build_report(
    config: IngestConfig, totals: Totals, inputs: dict[str, str], paths: list[Path], outputs: dict[str, str]
) -> dict[str, Any]:
    """Return the report as a JSON document."""
    invalid = sum(totals.drops[reason] for reason in INVALID)
    validity = 1 - invalid / totals.records if totals.records else 0.0
    return {
        "report_version": REPORT_VERSION,
        "totals": {
            "records": totals.records,
            "records_with_pairs": totals.with_pairs,
            "pairs_made": totals.pairs,
            "pairs": totals.kept,
            "dropped": sum(totals.drops.values()),
            "prompts": totals.prompts,
        },
        "validity": round(validity, 6),
        "warnings": _warnings(totals, validity),
        "drops": _drops(totals),
        "decision": totals.plan.describe(),
        "splits": {name: {"pairs": totals.splits[name], "prompts": totals.split_prompts[name]} for name in SPLITS},
        "answers": {
            "by_status": _by_status(totals),
            "annotators": len(totals.statuses),
            "by_annotator": {
                str(user): dict(sorted(c.items())) for user, c in sorted(totals.statuses.items(), key=_name)
            },
            "pairs_by_source": dict(sorted(totals.sources.items())),
        },
        "verdicts": _verdicts(totals),
        "agreement": agreement(totals.tallies),
        "bias": _bias(totals),
        "lengths": {
            "unit": "tokens",
            "exact": config.tokenizer is not None,
            "tokenizer": config.tokenizer,
            "prompt": length_statistics(totals.lengths[0]),
            "chosen": length_statistics(totals.lengths[1]),
            "rejected": length_statistics(totals.lengths[2]),
        },
        "pii": {"anonymized": config.anonymize, "entities": dict(sorted(totals.pii.items()))},
        "inputs": [
            {"file": path.name, "sha256": digest, "bytes": path.stat().st_size}
            for path, digest in zip(paths, inputs.values(), strict=True)
        ],
        "outputs": outputs,
        "settings": identity(config),
        "versions": versions(),
    }


def _name(item: tuple[Any, Any]) -> str:
    return str(item[0])


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that the result may depend on."""
    found = {"python": platform.python_version()}
    for package in ("aios-alignment", "orjson", "pyarrow"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _drops(totals: Totals) -> dict[str, Any]:
    named = {
        reason: [own_id for _, _, own_id in sorted(found, key=lambda n: n[:2])[:SAMPLE_IDS]]
        for reason, found in totals.across.items()
    }
    samples = totals.samples | named
    return {
        reason: {"count": totals.drops[reason], "sample_ids": samples.get(reason, [])[:SAMPLE_IDS]}
        for reason in REASONS
        if totals.drops[reason]
    }


def _warnings(totals: Totals, validity: float) -> list[str]:
    found = list(totals.plan.warnings)
    if validity < WARN_BELOW:
        found.append(f"only {validity:.1%} of the records are valid (less than {WARN_BELOW:.0%})")
    if not totals.kept:
        found.append("not one pair is left")
    elif not all(totals.splits[name] for name in SPLITS):
        empty = [name for name in SPLITS if not totals.splits[name]]
        found.append(f"no pairs in {', '.join(empty)}")
    first = _bias(totals)["first_option_wins"]
    if first is not None and totals.kept >= 50 and not 0.2 <= first <= 0.8:
        found.append(f"the first option wins {first:.0%} of the pairs: lost ranks, or a strong position bias")
    return found


def _by_status(totals: Totals) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for counts in totals.statuses.values():
        sums.update(counts)
    return dict(sorted(sums.items()))


def _verdicts(totals: Totals) -> dict[str, int]:
    votes = [sum(tally[i] * count for tally, count in totals.tallies.items()) for i in range(3)]
    known = sum(count for flags, count in totals.flags.items() if flags & FIRST_KNOWN)
    won = sum(count for flags, count in totals.flags.items() if flags & FIRST_WON)
    return {
        "votes_first": votes[0],
        "votes_second": votes[1],
        "votes_tie": votes[2],
        "pairs_won_by_first": won,
        "pairs_won_by_second": known - won,
    }


def _bias(totals: Totals) -> dict[str, Any]:
    def count(flag: int) -> int:
        return sum(number for flags, number in totals.flags.items() if flags & flag)

    known, same = count(FIRST_KNOWN), count(SAME_LENGTH)
    unequal = totals.kept - same
    return {
        "first_option_wins": round(count(FIRST_WON) / known, 6) if known else None,
        "longer_wins": round(count(LONGER_WON) / unequal, 6) if unequal else None,
        "same_length": same,
    }


def length_statistics(counts: Counter[int]) -> dict[str, Any]:
    """Return mean, quantiles and a histogram of lengths given as length -> number."""
    total = sum(counts.values())
    if not total:
        return {"count": 0}
    ordered = sorted(counts.items())
    wanted = {"min": 0.0, "p5": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    found: dict[str, Any] = {"count": total, "mean": round(sum(k * v for k, v in ordered) / total, 2)}
    for name, share in wanted.items():
        target, passed = max(1, round(share * total)), 0
        for length, number in ordered:
            passed += number
            if passed >= target:
                found[name] = length
                break
    bins = [0] * len(_HISTOGRAM_EDGES)
    for length, number in ordered:
        bins[max(i for i, edge in enumerate(_HISTOGRAM_EDGES) if edge <= length)] += number
    found["histogram"] = {"edges": list(_HISTOGRAM_EDGES), "counts": bins}
    return found


def gate_failures(report: dict[str, Any], config: IngestConfig) -> list[str]:
    """Return which gates of --fail-under and --fail-on the report does not pass."""
    failed = []
    if config.fail_under is not None and report["validity"] < config.fail_under:
        failed.append(f"{report['validity']:.1%} of the records are valid (--fail-under {config.fail_under:g})")
    records = report["totals"]["records"] or 1
    for reason, limit in config.drop_limits().items():
        share = report["drops"].get(reason, {"count": 0})["count"] / records
        if share > limit:
            failed.append(f"{share:.1%} of the records are dropped as {reason} (--fail-on {reason}={limit:g})")
    return failed
