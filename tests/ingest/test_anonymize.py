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


@presidio
def test_ids_and_annotators_that_are_addresses_are_hidden(tmp_path: Path) -> None:
    """A mail address as record id or annotator becomes a hash, in splits, drops and report."""
    row = {
        "id": SECRETS[0], "prompt": "what is it?", "response_a": "this", "response_b": "that",
        "q.responses": ["response_a"], "q.responses.users": [SECRETS[0]], "q.responses.status": ["submitted"],
    }  # fmt: skip
    dropped = row | {"id": "other@example.com", "prompt": ""}
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row, dropped]), anonymize=True)
    everything = b"".join(path.read_bytes() for path in result.folder.iterdir()).decode()
    assert "@" not in everything
    (own_id,) = result.report["answers"]["by_annotator"]
    assert own_id == result.kept[0][1]["id"]
    assert result.drops[0]["id"] != own_id


@presidio
def test_messages_are_treated_with_their_extra_keys(tmp_path: Path) -> None:
    """A speaker's name or a tool's answer is text too; the same value has the same pseudonym in the metadata."""
    message = {"role": "user", "content": f"I am {SECRETS[0]}", "name": SECRETS[0]}
    row = {"prompt": [message], "chosen": "yes", "rejected": "no", "about": [SECRETS[4], SECRETS[0]]}
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]), anonymize=True)
    (pair, meta), *_ = result.kept
    assert pair["prompt"] == [{"role": "user", "content": "I am <EMAIL_ADDRESS_1>", "name": "<EMAIL_ADDRESS_1>"}]
    assert meta["metadata"] == {"about": ["<IP_ADDRESS_2>", "<EMAIL_ADDRESS_1>"]}


@presidio
def test_patterns_are_found_in_any_language(tmp_path: Path) -> None:
    """Presidio's own list for German has no card numbers; ours has all kinds."""
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows()), anonymize=True, anonymize_language="de")
    assert {"CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER"} == set(
        result.report["pii"]["entities"]
    )


@presidio
def test_language_that_spacy_does_not_know_is_said(tmp_path: Path) -> None:
    """One line, and nothing written."""
    with pytest.raises(EnvironmentUnfit, match="--anonymize-language qq"):
        run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows()), anonymize=True, anonymize_language="qq")


@presidio
def test_names_and_places_are_replaced_where_a_model_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spaCy pipeline that knows one person and one place, installed under the name of the usual model."""
    import spacy

    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada Byron"}, {"label": "GPE", "pattern": "Turin"}])
    (tmp_path / "site").mkdir()
    pipeline.to_disk(tmp_path / "site/en_core_web_sm")
    (tmp_path / "site/en_core_web_sm/__init__.py").write_text(
        "from pathlib import Path\nfrom spacy.util import load_model_from_path\n\n\n"
        "def load(**settings):\n    return load_model_from_path(Path(__file__).parent, **settings)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    row = {"prompt": "Where does Ada Byron live?", "chosen": "In Turin, like ADA BYRON.", "rejected": "Ada Byron? No."}
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]), anonymize=True)
    pair, _ = result.kept[0]
    assert pair["prompt"] == "Where does <PERSON_1> live?"
    assert pair["chosen"].startswith("In <LOCATION_2>")
    assert pair["rejected"] == "<PERSON_1>? No."
    assert result.report["pii"]["entities"] == {"LOCATION": 1, "PERSON": 2}


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
