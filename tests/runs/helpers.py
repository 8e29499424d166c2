"""Real runs made small: commands in processes of their own, an empty workspace, waiting for what must come."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ONLY_FETCH = [f"--set=steps.{name}.enabled=false" for name in ("ingest", "rm", "dpo", "evaluation")]
FETCH = ["--set=steps.fetch-model.enabled=true", "--set=steps.fetch-model.args.model=models/source"]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail("waited in vain")


@dataclass
class Cli:
    """`aios` in a process of its own, in one workspace."""

    workspace: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *arguments],
            cwd=self.workspace,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int | None = 0) -> str:
        """Run a command to its end, expect its exit code (None: any), return what it printed on both channels."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert code in (None, process.returncode), f"exit {process.returncode}\n{out}\n{err}"
        return out + err

    def status(self, run: str) -> dict[str, Any]:
        """Return a run's status."""
        process = self.start("jobs", "status", run, "--json")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        document: dict[str, Any] = orjson.loads(out)
        return document

    def attempt(self, run: str, step: str, number: int = 1) -> Path:
        """Return an attempt's folder."""
        return self.workspace / "artifacts/runs" / run / "steps" / step / f"attempt-{number}"


def make_source(workspace: Path, size: int = 1 << 16) -> None:
    """Make a folder that fetch-model accepts as a model: the quickest real step that publishes something."""
    source = workspace / "models" / "source"
    source.mkdir(parents=True)
    (source / "config.json").write_text('{"model_type": "llama"}')
    (source / "tokenizer.json").write_text("{}")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(bytes(size))
