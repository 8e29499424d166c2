"""Links that lead out of the workspace, planted on the volume by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract.errors import BadConfig
from jobs.contract.places import check_folder, check_place
from tests import tiny

pytestmark = pytest.mark.skipif(not hasattr(Path, "symlink_to"), reason="links")


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody else, with a file that must be neither read nor changed."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "theirs.jsonl").write_text('{"prompt": "the content outside", "chosen": "a", "rejected": "b"}\n')
    return folder


def refused(capsys: pytest.CaptureFixture[str], outside: Path) -> str:
    """Return the one line that a command ended with; nothing outside was touched or told."""
    said = capsys.readouterr().err.strip().splitlines()
    assert [path.name for path in outside.iterdir()] == ["theirs.jsonl"]
    assert "content outside" not in "\n".join(said)
    errors = [line for line in said if line.startswith("Error:")]
    assert len(errors) == 1
    return errors[0]


@pytest.fixture
def data(workspace: Path, tiny_model: Path) -> Path:
    """A workspace with a model and a data set."""
    tiny.make_splits(workspace / "data")
    (workspace / "tiny").symlink_to(tiny_model)
    return workspace


TRAIN = ("hrm-hf", "rm-train", "--base-model", "tiny", "--dataset-dir", "data", "--max-steps", 1)


def test_a_writer_refuses_an_output_folder_that_is_a_link_to_elsewhere(
    data: Path, outside: Path, aios: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder planted as a link: one line, a code that is never retried, nothing written outside."""
    (data / "tiny").unlink()
    tiny.make_model(data / "tiny")
    (data / "artifacts/rm").mkdir(parents=True)
    (data / "artifacts/rm/x").symlink_to(outside)
    assert aios(*TRAIN, "--output-dir", "artifacts/rm/x") == 66  # asked first whether it is finished
    assert "artifacts/rm/x/_SUCCESS.json leads out of the workspace" in refused(capsys, outside)


def test_a_writer_refuses_a_link_inside_its_folder(
    data: Path, outside: Path, aios: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """training.log planted as a link to a file of somebody else is not appended to."""
    (data / "tiny").unlink()
    tiny.make_model(data / "tiny")
    (data / "artifacts/rm/x").mkdir(parents=True)
    (data / "artifacts/rm/x/training.log").symlink_to(outside / "theirs.jsonl")
    assert aios(*TRAIN, "--output-dir", "artifacts/rm/x") == 64
    assert "training.log leads out of the workspace" in refused(capsys, outside)


def test_a_reader_refuses_a_model_or_a_data_set_that_is_a_link_to_elsewhere(
    data: Path, outside: Path, aios: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Upstream folders that lead out of the workspace are code 66."""
    assert aios(*TRAIN, "--output-dir", "artifacts/rm/x") == 66
    assert "tiny leads out of the workspace" in refused(capsys, outside)
    (data / "tiny").unlink()
    tiny.make_model(data / "tiny")
    (data / "linked").symlink_to(outside)
    assert aios(*TRAIN, "--output-dir", "artifacts/rm/x", "--dataset-dir", "linked") == 66
    assert "linked/_SUCCESS.json leads out of the workspace" in refused(capsys, outside)


def test_ingestion_refuses_an_export_that_is_a_link_to_elsewhere(
    workspace: Path, outside: Path, aios: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """An export planted as a link would carry a file of somebody else into the data set, or into an error."""
    (workspace / "training_data").mkdir()
    (workspace / "training_data/export.jsonl").symlink_to(outside / "theirs.jsonl")
    assert aios("data", "argilla-export", "--input", "training_data/*.jsonl", "--output", "out") == 65
    assert "export.jsonl leads out of the workspace" in refused(capsys, outside)
    assert not (workspace / "out").exists()


def test_links_inside_the_workspace_and_places_named_outright_are_fine(workspace: Path, outside: Path) -> None:
    """A link that stays inside, and a folder that the user names elsewhere, are nobody's attack."""
    (workspace / "real").mkdir()
    (workspace / "alias").symlink_to("real")
    check_folder(workspace / "alias")
    check_folder(outside)


def test_in_a_pod_nothing_outside_the_workspace_may_be_named(
    workspace: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AIOS_WORKSPACE set, `..` and absolute paths are refused like links."""
    monkeypatch.setenv("AIOS_WORKSPACE", str(workspace))
    check_place(Path("artifacts/rm/x"))
    for place in (outside, Path("../elsewhere"), Path("artifacts/../../elsewhere")):
        with pytest.raises(BadConfig, match="outside the workspace"):
            check_place(place)


def test_links_can_be_vouched_for(workspace: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person whose artifacts are a link to a larger disk says so once."""
    (workspace / "artifacts").symlink_to(outside)
    with pytest.raises(BadConfig, match="AIOS_FOLLOW_LINKS=1"):
        check_folder(Path("artifacts/rm/x"))
    monkeypatch.setenv("AIOS_FOLLOW_LINKS", "1")
    check_folder(Path("artifacts/rm/x"))
