"""Secrets in what a step prints, logs and reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract.redact import redact, secret_values
from tests import tiny
from tests.conftest import REPOSITORY

CANARY = "canary/9f8e7d6c+5b4a"


def test_values_of_secret_variables_are_hidden() -> None:
    """By name or by AIOS_SECRETS, longest first, also as they look inside a URL; words of every log are no secrets."""
    environ = {
        "HF_TOKEN": "hf_abcdef",
        "LOG_LEVEL": "verbose",
        "API_KEY": "true",
        "OTHER": CANARY,
        "AIOS_SECRETS": "OTHER",
        "HF_TOKEN_PATH": "/some/where",
        "TOKENIZERS_PARALLELISM": "falsehood",
    }
    assert secret_values(environ) == ("canary%2F9f8e7d6c%2B5b4a", CANARY, "hf_abcdef")
    text = redact(f"GET /?key=canary%2F9f8e7d6c%2B5b4a with {CANARY} and hf_abcdef", secret_values(environ))
    assert text == "GET /?key=[hidden] with [hidden] and [hidden]"


def test_passwords_in_urls_are_hidden() -> None:
    """Whoever they belong to."""
    assert redact("proxy http://me:pass@host:8080/x failed", ()) == "proxy http://[hidden]@host:8080/x failed"
    assert redact("see https://host:443/a@b", ()) == "see https://host:443/a@b"


@pytest.mark.parametrize(
    "how",
    [
        "print(value)",
        "import sys; sys.stderr.write(value)",
        "import sys; sys.stdout.buffer.write(value.encode())",
        "import click; click.echo(value.encode())",
        "import os; os.write(1, value.encode())",
        "raise RuntimeError(value)",
    ],
)
def test_a_canary_that_a_step_prints_appears_nowhere(tmp_path: Path, how: str) -> None:
    """Whatever way it is printed: not in the echo, the log, the status, the events nor the termination message."""
    log = tmp_path / "termination-log"
    log.touch()
    own = {
        "AIOS_RUN": "r",
        "AIOS_STEP": "s",
        "PYTHONPATH": str(REPOSITORY),
        "MY_CANARY": CANARY,
        "AIOS_SECRETS": "MY_CANARY",
        "AIOS_TERMINATION_LOG": str(log),
    }
    code = f"import os, sys; value = 'it is ' + os.environ['MY_CANARY']\n{how}\nsys.exit(65)"
    command = [sys.executable, "-m", "jobs.supervisor", "--", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, timeout=60)
    assert b"it is [hidden]" in done.stdout
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert b"it is [hidden]" in b"".join(kept)
    assert CANARY.encode() not in b"".join([done.stdout, done.stderr, *kept])


@pytest.mark.train
def test_a_canary_in_the_environment_of_a_training_is_in_none_of_its_files(tmp_path: Path) -> None:
    """A whole training, with an error that quotes the secret before it: nothing that it leaves holds the secret."""
    tiny.make_model(tmp_path / "tiny")
    tiny.make_splits(tmp_path / "data")
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_TOKEN": CANARY, "WANDB_API_KEY": CANARY}
    line = [sys.executable, "-m", "jobs.cli", "hrm-hf", "rm-train", "--base-model", "tiny", "--dataset-dir", "data"]
    wrong = subprocess.run(
        [*line, "--output-dir", f"o/{CANARY}", "--resume", CANARY, "--max-steps", "1"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        timeout=240,
    )
    assert wrong.returncode
    assert b"[hidden]" in wrong.stderr
    right = subprocess.run(
        [*line, "--output-dir", "out", "--max-steps", "1"], cwd=tmp_path, env=environ, capture_output=True, timeout=240
    )
    assert right.returncode == 0
    kept = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert CANARY.encode() not in b"".join([wrong.stdout, wrong.stderr, right.stdout, right.stderr, *kept])
