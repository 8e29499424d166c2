"""Fixtures of the training tests."""

from __future__ import annotations

import os
from pathlib import Path

# One thread each: the model is tiny, and threads of several processes on few cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from jobs.training.libraries import quiet_libraries
from tests import tiny
from tests.training.study import Study

quiet_libraries()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A workspace that the tests of this folder share; each writes to folders of its own."""
    root: Path = tmp_path_factory.mktemp("study")
    tiny.make_model(root / "tiny")
    tiny.make_splits(root / "data", train=24, held_out=8)
    tiny.make_splits(root / "chat", train=24, held_out=8, chat=True)
    return Study(root)
