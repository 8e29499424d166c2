"""Trainings of a two-layer model, in this process or in processes that share one import of the heavy libraries."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from jobs.contract.manifest import verify
from jobs.contract.metrics import TIME_KEYS, read_metrics

PRELOADED = [
    "datasets",
    "jobs.dpo.trainer",
    "jobs.rm.trainer",
    "jobs.training.callbacks",
    "jobs.training.publication",
    "jobs.training.session",
    "matplotlib.backends.backend_agg",
    "peft",
    "tests.training.study",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
]
"""What every training imports; `transformers` and `trl` alone would load next to nothing."""

COMMON = ("--batch-size", "4", "--eval-steps", "4", "--lr", "1e-3")


def arguments(step: str, output: str, *more: object, dataset: str = "data", model: str = "tiny") -> list[str]:
    """Return the command line of a small training; later flags win over earlier ones."""
    flag = "--base-model" if step == "rm" else "--policy-model"
    precision = () if {"--bf16", "--fp16"} & set(more) else ("--precision", "fp32")
    line = [
        "hrm-hf",
        f"{step}-train",
        flag,
        model,
        "--dataset-dir",
        dataset,
        "--output-dir",
        output,
        *COMMON,
        *precision,
    ]
    return [*line, *(str(argument) for argument in more)]


@dataclass(frozen=True)
class Study:
    """A workspace with a model and two folders of splits."""

    root: Path

    def train(self, step: str, output: str, *more: object, **settings: Any) -> int:
        """Train in this process; returns the exit code."""
        from jobs.cli import run

        with contextlib.chdir(self.root):
            return run(arguments(step, output, *more, **settings))

    def start(self, step: str, output: str, *more: object, env: dict[str, str] | None = None) -> BaseProcess:
        """Train in a process of its own, which starts in no time: the libraries are imported in its parent."""
        log = self.root / f"{output.replace('/', '-')}.log"
        process = _server().Process(
            target=run_here, args=(str(self.root), arguments(step, output, *more), str(log), env or {})
        )
        process.start()
        return process

    def metrics(self, output: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return a run's metrics without what differs between two equal runs."""
        lines = read_metrics(self.root / output / "metrics.jsonl")
        return [
            {key: value for key, value in line.items() if key not in TIME_KEYS}
            for line in lines
            if kind in (None, line["kind"])
        ]

    def losses(self, output: str) -> list[float]:
        """Return the training losses of a run, step by step."""
        return [line["loss"] for line in self.metrics(output, "train")]

    def published(self, output: str) -> dict[str, str]:
        """Return the hash of each published file that holds weights or tokens."""
        manifest = verify(self.root / output)
        return {f.path: f.sha256 for f in manifest.files if f.path.endswith((".safetensors", "tokenizer.json"))}

    def log(self, output: str) -> str:
        """Return what a process of its own has printed."""
        return (self.root / f"{output.replace('/', '-')}.log").read_text(encoding="utf-8")


def run_here(root: str, line: list[str], log: str, env: dict[str, str]) -> None:
    """Run one command in this process, as `aios` would, and end it with the command's exit code."""
    from jobs.cli import run

    limit = int(env.pop("LIMIT_FILE_BYTES", "0"))
    os.environ.update(env)
    os.chdir(root)
    with Path(log).open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        if limit:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = run(line)
        sys.stderr.flush()
        os._exit(code)


def _server() -> Any:
    """Return a way to start processes: forked from one that has imported everything, where there is fork."""
    context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        context.set_forkserver_preload(PRELOADED)
    return context


def wait_until(condition: Callable[[], bool], process: BaseProcess, timeout_s: float = 60) -> None:
    """Wait for something that a running process does."""
    import time

    end = time.monotonic() + timeout_s
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.005)
