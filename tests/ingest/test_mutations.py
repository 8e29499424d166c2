"""Ten thousand random mutations of genuine exports: nothing crashes, nothing is lost, no prompt is in two splits."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.splits import SPLITS
from tests.ingest.helpers import Result, lines, run, write_lines
from tests.ingest.test_splits import digest

EXPORTS = [
    ("v2/label_pref.datasets.jsonl", {}),
    ("v2/label_pref.to_list_nested.jsonl", {"assume_submitted": True}),
    ("v2/rank_ui.record_model_dump.jsonl", {}),
    ("v2/rating_pref.datasets.jsonl", {}),
    ("v2/chat_pref.datasets.jsonl", {}),
    ("v1/ranking.format_as.jsonl", {}),
    ("v1/ranking.record_json.jsonl", {}),
    ("v1/rating_label.format_as.jsonl", {"question": ("choice",)}),
    ("conventions/dpo_mix_7k_shape.jsonl", {}),
    ("conventions/ultrafeedback_binarized_cleaned_shape.jsonl", {}),
]
ROUNDS, RECORDS = 4, 250
"""10 exports x 4 rounds x 250 records = 10,000 mutations."""
JUNK: list[Any] = [
    None, "", " \n", "x", 0, -1, 3.5, True, [], {}, [None], [{}], ["response_a"], {"value": None}, "submitted",
    "🙂" * 3, "a\x00b", "\u2028", [{"role": "user", "content": None}], [[["deep"]]], 10**25, "null",
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return container and key of every value inside a record."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        found.append((value, key))
        found += places(inner)
    return found


def mutated(row: dict[str, Any], others: list[dict[str, Any]], source: random.Random) -> Any:
    """Return a record with one thing changed: removed, replaced, repeated, swapped with another record's."""
    row = copy.deepcopy(row)
    container, key = source.choice(places(row))
    match source.randrange(6):
        case 0:
            del container[key]
        case 1 | 2:
            container[key] = copy.deepcopy(source.choice(JUNK))
        case 3:
            container[key] = [container[key], copy.deepcopy(container[key])]
        case 4:
            donor, other = source.choice(places(source.choice(others)))
            container[key] = copy.deepcopy(donor[other])
        case _:
            return copy.deepcopy(source.choice([row, source.choice(others), source.choice(JUNK)]))
    return row


def broken_line(line: bytes, source: random.Random) -> bytes:
    """Return a line with a piece cut out, a byte changed, or as it is."""
    kind, at = source.randrange(12), source.randrange(1, max(2, len(line)))
    if kind == 0:
        return line[:at]
    if kind == 1:
        return line[:at] + bytes([source.choice((0, 0x22, 0x5C, 0x80, 0xED, 0xFF))]) + line[at:]
    return line


@pytest.mark.parametrize(("name", "settings"), EXPORTS)
def test_mutated_records_are_kept_or_counted(shared: Path, tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """Records in = records with pairs + drops; pairs in = pairs out + duplicates; every id is accounted for."""
    rows = lines(shared / "data/argilla" / name)
    for seed in range(ROUNDS):
        source = random.Random(f"{name}{seed}")
        # A hundred whole records keep the export recognisable; what becomes of the mutated ones is the question.
        damaged = [mutated(source.choice(rows), rows, source) for _ in range(RECORDS)]
        content = b"".join(orjson.dumps(row) + b"\n" for row in rows[:100])
        content += b"".join(broken_line(_dump(row), source).replace(b"\n", b" ") + b"\n" for row in damaged)
        path = tmp_path / f"{seed}.jsonl"
        path.write_bytes(content)
        result = run(tmp_path / f"out{seed}", path, on_bad_line="skip", **settings)
        assert_nothing_lost(result, content)


def _dump(row: Any) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError:  # numbers beyond 64 bits
        import json

        return json.dumps(row).encode()


def assert_nothing_lost(result: Result, content: bytes) -> None:
    totals = result.report["totals"]
    assert totals["records"] == sum(1 for line in content.split(b"\n") if line.strip())
    across = result.counts.get("duplicate", 0) + result.counts.get("conflicting_duplicate", 0)
    assert totals["records"] == totals["records_with_pairs"] + sum(result.counts.values()) - across
    assert totals["pairs_made"] == totals["pairs"] + across
    assert totals["pairs"] == len(result.kept)
    prompts = [{orjson.dumps(row["prompt"]) for row in result.rows[name]} for name in SPLITS]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    for row, meta in result.kept:
        assert row.keys() == {"prompt", "chosen", "rejected"}
        assert meta.keys() == {"id", "server_id", "votes", "agreement", "chosen_first", "source", "metadata"}
        assert row["chosen"] != row["rejected"]
    kinds = {type(value) for row, _ in result.kept for value in row.values()}
    assert len(kinds) <= 1


@pytest.mark.parametrize(("name", "settings"), EXPORTS[:3])
def test_mutated_exports_give_the_same_bytes_on_two_workers(
    shared: Path, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """Damage does not make the result depend on who read what."""
    rows = lines(shared / "data/argilla" / name)
    source = random.Random(name)
    damaged = rows * 40 + [mutated(source.choice(rows), rows, source) for _ in range(1000)]
    source.shuffle(damaged)
    path = write_lines(tmp_path / "x.jsonl", [row for row in damaged if _fits(row)])
    for workers in (1, 2):
        run(tmp_path / f"out{workers}", path, workers=workers, **settings)
    assert digest(tmp_path / "out1") == digest(tmp_path / "out2")


def _fits(row: Any) -> bool:
    try:
        orjson.dumps(row)
    except TypeError:
        return False
    return True
