"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny

# Two workers on two cores: a second thread of a matrix product would wait for its turn at every operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The commands do this themselves; a test that imports a library first must not call home either.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of genuine exports beside the checkout; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("AIOS_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the genuine exports are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a chat template."""
    return tiny.make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def aios(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """Run the command line in this process, in an empty working directory; returns the exit code."""
    from jobs.cli import run

    def call(*arguments: object) -> int:
        return run([str(argument) for argument in arguments])

    return call
