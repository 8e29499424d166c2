"""Broken and hostile files end in one clear line with file and place, or in a counted drop; never in a traceback."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from jobs.cli import run as aios
from jobs.contract.errors import BadData
from tests.ingest.helpers import run, write_lines

LABEL_PREF = {
    "conflicting_duplicate": 2,
    "duplicate": 2,
    "identical_responses": 2,
    "missing_prompt": 1,
    "missing_response": 4,
    "no_majority": 29,
    "no_response": 14,
    "no_submitted_response": 20,
    "tie": 16,
}


@pytest.mark.parametrize(
    "name",
    [
        "crlf_lines.jsonl",
        "bom_utf8.jsonl",
        "no_final_newline.jsonl",
        "parquet_named.jsonl",
        "label_pref.jsonl.gz",
        "gzip_named.jsonl",
        "label_pref.codec_zstd.parquet",
        "label_pref.codec_brotli.parquet",
        "label_pref.codec_lz4.parquet",
    ],
)
def test_odd_but_whole_files_give_the_usual_result(shared: Path, tmp_path: Path, name: str) -> None:
    """Line ends, byte-order marks, wrong names and compressions change nothing."""
    result = run(tmp_path / "out", shared / "data/argilla/broken" / name)
    assert (result.report["totals"]["records"], result.report["totals"]["pairs"]) == (245, 155)
    assert result.counts == LABEL_PREF


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated_midline.jsonl", "line 245"),
        ("json_array_not_jsonl.jsonl", "response_statuses_missing"),
        ("concatenated_no_newline.jsonl", "line 1"),
        ("utf16le_bom.jsonl", "UTF-16"),
        ("one_bad_byte_line_50.jsonl", "line 50"),
        ("empty_array.json", "no records"),
        ("single_quotes.jsonl", "line 1"),
        ("truncated.jsonl.gz", "cut off"),
        ("label_pref.zip", "zip"),
        ("missing_status_column.parquet", "response_statuses_missing"),
        ("bitflip.parquet", "damaged"),
        ("deep_nesting_5000.jsonl", "line 1"),
    ],
)
def test_broken_file_is_refused_in_one_line(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    """Exit 65, one line that names file, place and remedy, and nothing written."""
    out = tmp_path / "out"
    code = aios(["data", "argilla-export", "--input", str(shared / "data/argilla/broken" / name), "--output", str(out)])
    lines = capsys.readouterr().err.splitlines()
    assert code == 65
    assert len(lines) == 1
    assert name in lines[0]
    assert message in lines[0]
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock.guard")]


@pytest.mark.parametrize(
    ("name", "records", "pairs", "drops"),
    [
        ("truncated_midline.jsonl", 245, 155, {"invalid_json": 1}),
        ("one_bad_byte_line_50.jsonl", 245, 155, {"invalid_unicode": 1}),
        ("single_quotes.jsonl", 1, 0, {"invalid_json": 1}),
    ],
)
def test_bad_lines_are_counted_when_told_to_skip_them(
    shared: Path, tmp_path: Path, name: str, records: int, pairs: int, drops: dict[str, int]
) -> None:
    """--on-bad-line skip drops the line under its own reason and keeps the rest."""
    path = shared / "data/argilla/broken" / name
    if records == 1:
        (tmp_path / "mixed.jsonl").write_bytes(b'{"prompt":"p","chosen":"c","rejected":"r"}\n' + path.read_bytes())
        path, records, pairs = tmp_path / "mixed.jsonl", 2, 1
    result = run(tmp_path / "out", path, on_bad_line="skip")
    assert (result.report["totals"]["records"], result.report["totals"]["pairs"]) == (records, pairs)
    assert drops.items() <= result.counts.items()


@pytest.mark.parametrize(
    ("name", "records", "pairs"), [("u2028_in_text.jsonl", 1, 1), ("many_columns_2000.jsonl", 1, 1)]
)
def test_unusual_but_valid_content_is_kept(shared: Path, tmp_path: Path, name: str, records: int, pairs: int) -> None:
    """Only \\n ends a line, and two thousand columns are metadata."""
    result = run(tmp_path / "out", shared / "data/argilla/broken" / name)
    assert (result.report["totals"]["records"], result.report["totals"]["pairs"]) == (records, pairs)


def test_wrong_types_are_no_pairs(shared: Path, tmp_path: Path) -> None:
    """Numbers, lists of words, objects and messages without content are counted, each record once."""
    result = run(tmp_path / "out", shared / "data/argilla/broken/wrong_types.jsonl")
    assert (result.report["totals"]["records"], result.report["totals"]["pairs"]) == (6, 0)
    assert sum(result.counts.values()) == 6
    assert result.counts["wrong_type"] >= 4


def test_hand_edited_answers_get_their_own_reason(shared: Path, tmp_path: Path) -> None:
    """Lists of different lengths, labels and statuses that do not exist, one annotator twice, lists turned to text."""
    result = run(tmp_path / "out", shared / "data/argilla/broken/argilla_mismatched_lists.jsonl")
    assert {drop["id"]: drop["reason"] for drop in result.drops} == {
        "len": "malformed_responses",
        "unknown_label": "unknown_label",
        "unknown_status": "malformed_responses",
        "same_user_twice": "malformed_responses",
        "stringified_list": "malformed_responses",
        "scalar": "malformed_responses",
    }


def test_no_answers_at_all_are_no_pairs(shared: Path, tmp_path: Path) -> None:
    """An export with nothing but suggestions drops every record and warns."""
    result = run(tmp_path / "out", shared / "data/argilla/broken/no_responses_at_all.parquet")
    assert result.report["totals"]["pairs"] == 0
    assert "not one pair is left" in result.report["warnings"]


def test_duplicate_keys_are_reported(shared: Path, tmp_path: Path) -> None:
    """A key that stands twice in a record is a warning: the last one counts, as in every JSON parser."""
    result = run(tmp_path / "out", shared / "data/argilla/broken/duplicate_keys.jsonl")
    assert any("twice" in warning for warning in result.report["warnings"])


BAD_VALUES: list[Any] = [None, "", "  \n", 3, [], {}, ["x"], [{"role": "user"}], True]


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected"])
def test_any_value_in_any_field_is_a_counted_drop(tmp_path: Path, field: str, value: Any) -> None:
    """Whatever stands in a field, the record is kept or counted, and the good one beside it stays."""
    good = {"prompt": "what is it", "chosen": "this one", "rejected": "that one"}
    path = write_lines(tmp_path / "x.jsonl", [good] * 1 + [good | {field: value, "n": 1}])
    result = run(tmp_path / "out", path)
    assert result.report["totals"]["pairs"] == 1
    assert sum(result.counts.values()) == 1


PAIRS = [{"prompt": f"prompt number {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
LINES = b"".join(orjson.dumps(row) + b"\n" for row in PAIRS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("two_arrays.json", orjson.dumps(PAIRS) + b"\n" + orjson.dumps(PAIRS), "something follows the array"),
        ("cut_array.json", orjson.dumps(PAIRS)[:-30], "record 6 of the array"),
        ("cut.jsonl.zst", zstandard.compress(LINES)[:-4], "cut off"),
        ("cut.jsonl.bz2", bz2.compress(LINES)[:-4], "cut off"),
        ("cut.jsonl.gz", gzip.compress(LINES)[:-9], "cut off"),
        ("cr_only.jsonl", LINES.replace(b"\n", b"\r"), "line 1"),
        ("numbers.jsonl", b"1\n2\n", "no readable record"),
        ("blank.jsonl", b"\n \n", "no records"),
    ],
)
def test_nothing_is_lost_at_the_end_of_a_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """A second array, a frame or a member that was cut off: refused, since what is missing would not be counted."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=message):
        run(tmp_path / "out", tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("frames.zst", zstandard.compress(LINES[:70]) + zstandard.compress(LINES[70:])),
        ("members.gz", gzip.compress(LINES[:70]) + gzip.compress(LINES[70:])),
        ("streams.bz2", bz2.compress(LINES[:70]) + bz2.compress(LINES[70:])),
        ("wrapped.json", orjson.dumps({"data": PAIRS})),
        ("indented.json", orjson.dumps(PAIRS, option=orjson.OPT_INDENT_2)),
    ],
)
def test_files_of_several_pieces_are_read_whole(tmp_path: Path, name: str, content: bytes) -> None:
    """Files that were appended to after compression, and documents that wrap their records."""
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path / "out", tmp_path / name).report["totals"]["pairs"] == 6


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "cp1252"])
def test_encoding_is_believed_when_it_is_named(tmp_path: Path, encoding: str) -> None:
    """--encoding reads lines and arrays in other encodings, packed too; the wrong one is told in one line."""
    text = '{"prompt": "café olé, naïve", "chosen": "été", "rejected": "no"}'
    (tmp_path / "x.jsonl").write_bytes((text + "\n").encode(encoding))
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(f"[{text}]".encode(encoding)))
    for name in ("x.jsonl", "x.json.gz"):
        result = run(tmp_path / f"out-{name}", tmp_path / name, encoding=encoding)
        assert result.kept[0][0] == orjson.loads(text)
    with pytest.raises(BadData):
        run(tmp_path / "wrong", tmp_path / "x.jsonl", encoding="utf-8-sig" if encoding == "cp1252" else "ascii")
