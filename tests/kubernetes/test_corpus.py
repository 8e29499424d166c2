"""Every case of the corpus, recorded on a real cluster or built by hand in the shapes of its API, gets its code."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from k8s.diagnose import Diagnosis, diagnose

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.json"))
SETTLED = ("FAILED", "DISRUPTED")
"""Codes that say nothing: no case may end in one."""


def read(path: Path) -> tuple[dict[str, Any], Diagnosis | None]:
    """Return a case and what is made of it."""
    case = json.loads(path.read_text())
    given = {key: case[key] for key in ("events", "nodes", "claims", "workloads", "recorded", "now") if key in case}
    return case, diagnose(case["job"], case.get("pods", []), **given)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_case_gets_its_code(path: Path) -> None:
    """Code, and the words that a person needs, from the objects alone."""
    case, found = read(path)
    assert (found.code if found else "") == case["code"]
    if found:
        told = f"{found.summary} {found.detail} {found.resolution}"
        assert found.summary
        assert found.resolution
        assert [text for text in case.get("says", []) if text not in told] == []
        assert len(json.dumps(found.to_json())) < 8000


def test_the_corpus_is_large_and_mostly_real() -> None:
    """At least 60 cases, more recorded than built by hand, each of which says which it is."""
    sources = Counter(json.loads(path.read_text())["source"].split()[0] for path in CORPUS)
    assert sum(sources.values()) >= 60
    assert set(sources) == {"recorded", "built"}
    assert sources["recorded"] > sources["built"]


def test_a_diagnosis_survives_the_status() -> None:
    """What the ConfigMap holds is what was found."""
    for path in CORPUS:
        _, found = read(path)
        if found:
            assert Diagnosis.from_json(json.loads(json.dumps(found.to_json()))) == found


def thinned(thing: Any, chance: random.Random) -> Any:
    """Return a copy in which some fields are absent or null, as optional ones may be."""
    if isinstance(thing, dict):
        kept = {key: thinned(value, chance) for key, value in thing.items() if chance.random() > 0.04}
        spared = ("metadata", "spec", "status", "template")
        return {k: None if k not in spared and chance.random() < 0.02 else v for k, v in kept.items()}
    return [thinned(item, chance) for item in thing if chance.random() > 0.03] if isinstance(thing, list) else thing


def test_absent_and_null_fields_break_no_diagnosis() -> None:
    """Whatever optional field a server leaves out, something or nothing is said; nothing is raised."""
    chance = random.Random(9)
    for path in CORPUS:
        case = json.loads(path.read_text())
        for _ in range(20):
            kinds = ("events", "nodes", "claims", "workloads", "recorded")
            given = {key: thinned(case[key], chance) for key in kinds if key in case}
            pods = thinned(case.get("pods", []), chance)
            diagnose(thinned(case["job"], chance), pods, now=case["now"], **given)
