"""schema_report.json is a contract: it fits its schema, its sums add up, and its statistics are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jsonschema
import orjson
import pytest

import jobs.ingest
from jobs.contract.manifest import read_manifest
from jobs.ingest.agreement import agreement
from jobs.ingest.reasons import REASONS
from tests.ingest.helpers import run, write_lines

SCHEMA = orjson.loads((Path(jobs.ingest.__file__).parent / "schema_report.schema.json").read_bytes())
Aios = Callable[..., int]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("v2/label_pref.datasets.jsonl", {}),
        ("v2/chat_pref.datasets.parquet", {}),
        ("v2/suggestions_only.to_json.json", {"use_suggestions": True}),
        ("v1/ranking.record_json.jsonl", {}),
        ("conventions/hh_rlhf_shape.jsonl", {}),
        ("broken/wrong_types.jsonl", {}),
    ],
)
def test_every_report_fits_the_schema(shared: Path, tmp_path: Path, name: str, settings: dict[str, bool]) -> None:
    """Annotated exports, ready pairs, suggestions and an export without a single pair."""
    report = run(tmp_path / "out", shared / "data/argilla" / name, **settings).report
    jsonschema.Draft202012Validator(SCHEMA).validate(orjson.loads(orjson.dumps(report)))


def test_schema_knows_every_reason() -> None:
    """A new drop reason has to be added to the schema."""
    assert SCHEMA["properties"]["drops"]["propertyNames"]["enum"] == list(REASONS)


def test_report_lists_the_hashes_that_the_manifest_lists(tmp_path: Path) -> None:
    """Report and manifest agree on the files."""
    rows = [{"prompt": f"prompt {i}", "chosen": "yes", "rejected": "no"} for i in range(30)]
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows))
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    listed = {entry.path: entry.sha256 for entry in manifest.files if entry.path != "schema_report.json"}
    assert result.report["outputs"] == listed


def test_krippendorffs_alpha_is_that_of_his_own_example() -> None:
    """Nominal data of 'Computing Krippendorff's Alpha-Reliability' (2011), part C cut to three values by hand."""
    tallies = Counter({(2, 0, 0): 4, (0, 2, 0): 3, (1, 1, 0): 2, (1, 0, 0): 5})
    # o = 4 off-diagonal of n = 18 values; expected off-diagonal 2 * 10 * 8 / 17.
    assert agreement(tallies) == {
        "records": 9,
        "pairwise": round(7 / 9, 6),
        "krippendorff_alpha": round(1 - 4 / (160 / 17), 6),
    }


def test_full_agreement_on_one_option_has_no_alpha() -> None:
    """Where nobody ever disagrees and only one value occurs, chance cannot be told from agreement."""
    assert agreement(Counter({(3, 0, 0): 4}))["krippendorff_alpha"] is None


def test_gates_fail_after_publishing(aios: Aios, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--fail-under and --fail-on exit 3; the splits are there nevertheless, and a second run says the same."""
    rows = [{"prompt": f"prompt {i}", "chosen": "yes", "rejected": "no"} for i in range(8)]
    rows += [{"prompt": f"prompt {i}", "chosen": "same", "rejected": "same"} for i in range(2)]
    path = write_lines(tmp_path / "x.jsonl", rows)
    command = ("data", "argilla-export", "--input", path, "--output", "out", "--min-prompt-toks", "0")
    assert aios(*command) == 0
    captured = capsys.readouterr()
    assert "Warning: only 80.0% of the records are valid" in captured.err
    assert aios(*command, "--fail-under", "0.9") == 3
    assert "80.0% of the records are valid" in capsys.readouterr().err
    assert aios(*command, "--fail-on", "identical_responses=0.1") == 3
    assert aios(*command, "--fail-on", "identical_responses=0.2", "--fail-under", "0.8") == 0


def test_report_command_shows_it_again_and_draws(
    aios: Aios, tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: Path
) -> None:
    """`aios data report DIR` prints the summary, the JSON, and plots in both formats."""
    result = run(tmp_path / "out", shared / "data/argilla/v2/label_pref.datasets.jsonl")
    assert aios("data", "report", tmp_path / "out") == 0
    assert "155 pairs out" in capsys.readouterr().out
    assert aios("data", "report", tmp_path / "out", "--json") == 0
    assert orjson.loads(capsys.readouterr().out) == result.report
    for kind in ("png", "svg"):
        assert aios("data", "report", tmp_path / "out", "--plots", tmp_path / "plots", "--plot-format", kind) == 0
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert drawn == {f"{n}.{k}" for n in ("drops", "lengths", "verdicts", "annotators") for k in ("png", "svg")}
    assert aios("data", "report", tmp_path / "plots") == 66
