"""Personal data becomes pseudonyms, the same in all texts of a record; found values stand nowhere in the output."""

from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import EnvironmentUnfit
from tests.ingest.helpers import run, write_lines

SECRETS = ["jane.doe@example.com", "+1 212-555-0188", "4111 1111 1111 1111", "DE89370400440532013000", "192.168.17.4"]
presidio = pytest.mark.skipif(
    importlib.util.find_spec("presidio_analyzer") is None or importlib.util.find_spec("spacy") is None,
    reason="the extra `anonymize` is not installed",
)


def rows() -> list[dict[str, Any]]:
    """Return pairs full of personal data, some of it in two texts of one record and in the metadata."""
    return [
        {
            "prompt": f"My mail is {SECRETS[0]}, my phone {SECRETS[1]}: please answer number {i}",
            "chosen": f"I write to {SECRETS[0]} and pay by card {SECRETS[2]}",
            "rejected": f"Use the IBAN {SECRETS[3]} from the address {SECRETS[4]}",
            "note": {"who": [SECRETS[0]]},
        }
        for i in range(6)
    ]


@presidio
def test_personal_data_is_replaced_consistently_and_counted(tmp_path: Path) -> None:
    """The same mail has the same pseudonym in prompt and answer; no raw value is in any file."""
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows()), anonymize=True)
    everything = b"".join(path.read_bytes() for path in result.folder.iterdir()).decode()
    assert [secret for secret in SECRETS if secret in everything] == []
    row = result.kept[0][0]
    assert "<EMAIL_ADDRESS_1>" in row["prompt"]
    assert "<EMAIL_ADDRESS_1>" in row["chosen"]
    assert result.kept[0][1]["metadata"] == {"note": {"who": ["<EMAIL_ADDRESS_1>"]}}
    counts = result.report["pii"]["entities"]
    assert result.report["pii"]["anonymized"]
    assert counts["EMAIL_ADDRESS"] == 18
    assert {"CREDIT_CARD": 6, "IBAN_CODE": 6, "IP_ADDRESS": 6, "PHONE_NUMBER": 6}.items() <= counts.items()


@presidio
def test_two_workers_give_the_same_pseudonyms(tmp_path: Path) -> None:
    """Pseudonyms depend on the record alone."""
    path = write_lines(tmp_path / "x.jsonl", rows())
    first, second = (run(tmp_path / f"out{n}", path, anonymize=True, workers=n) for n in (1, 2))
    assert first.rows == second.rows


def test_missing_extra_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Presidio the command says what to install and writes nothing."""
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(("presidio", "spacy")):
            raise ImportError(f"No module named '{name}'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(EnvironmentUnfit, match="aios-alignment\\[anonymize\\]"):
        run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows()), anonymize=True)
    assert not (tmp_path / "out").exists()
