"""The command line: help, laziness, errors, and that the docs speak of commands that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psutil
import pytest

from jobs.cli import LazyGroup, run
from jobs.cli import aios as root
from tests.conftest import REPOSITORY

Aios = Callable[..., int]
DOCS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` and `-h` of every command work and say what it does."""
    assert run([*path, "--help"]) == 0
    long = capsys.readouterr().out
    assert run([*path, "-h"]) == 0
    assert capsys.readouterr().out == long
    assert long.startswith("Usage: aios")


def test_every_command_in_the_docs_exists() -> None:
    """Each `aios ...` in README and docs names a command, and each flag after it is one of its options."""
    known = set(commands())
    for page in DOCS:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ").replace("`\n", " ")
        for call in re.findall(r"(?:^ *|[`>$] ?|&& )aios ((?:[a-z][a-z-]*)(?:[^`\n|#]*))", text, flags=re.MULTILINE):
            words = call.split()
            path = max((known_path for known_path in known if tuple(words[: len(known_path)]) == known_path), key=len)
            group = root if not path else _find(path)
            assert path, f"{page.name}: no command `aios {words[0]}`"
            flags = {option for param in group.params for option in [*param.opts, *param.secondary_opts]}
            used = {word.split("=")[0] for word in words if word.startswith("--") and len(word) > 2}
            assert used <= flags | {"--help", "--version"}, f"{page.name}: `aios {call}`"


def _find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = root
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


def test_help_is_quick_and_light() -> None:
    """`aios --help` loads no numerical library and no Kubernetes client, and needs under 0.2 s of processor time."""
    code = "import sys, jobs.cli; jobs.cli.run(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.split(".")[0] for module in result.stderr.split()}
    assert not loaded & {"torch", "transformers", "trl", "kubernetes", "numpy", "pyarrow", "datasets", "pandas"}
    times = []
    for _ in range(5):
        # Processor time: with other tests beside it, the clock would measure those as well.
        process = psutil.Popen([sys.executable, "-m", "jobs.cli", "--help"], stdout=subprocess.DEVNULL)
        before = os.times()
        assert process.wait() == 0
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.2


def test_tables_name_existing_commands() -> None:
    """Every entry of the lazy groups can be imported and has a short help."""
    for path in commands():
        group = _find(path)
        if isinstance(group, LazyGroup):
            assert all(text for _, text in group.table.values())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "argilla-export", "--output", "o"], 2, "Missing option '--input'"),
        (["hrm-hf", "rm-train", "--nope"], 2, "No such option"),
        (["nope"], 2, "No such command 'nope'"),
        (["hrm-hf", "rm-train", "--base-model", "m", "--dataset-dir", "d", "--output-dir", "o", "--bf16", "--fp16"], 2,
         "--bf16 and --fp16 contradict each other"),
        (["hrm-hf", "dpo-train", "--policy-model", "m", "--dataset-dir", "d", "--output-dir", "o"], 66,
         "d does not exist; needed: a published folder"),
        (["data", "argilla-export", "--input", "x.jsonl", "--output", "o"], 65, "x.jsonl"),
        (["data", "argilla-export", "--input", "x.jsonl", "--output", "o", "--train-ratio", "0.5"], 64,
         "the ratios add up to 0.6"),
        (["artifacts", "prune"], 64, "nothing to prune was named"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_its_code(
    aios: Aios, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str, workspace: Path
) -> None:
    """A mistake ends in one line on stderr, the right exit code, and nothing written."""
    assert aios(*arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("Error: ")
    assert not captured.out
    assert [path for path in workspace.rglob("*") if path.is_file()] == []
