"""The `aios` command: a table of names and where their code is. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from jobs.contract.child import report_result, show_stacks_on_signal
from jobs.contract.errors import AiosError, ExitCode, Interrupted, from_os_error
from jobs.contract.redact import guard_output

_LOG = logging.getLogger("aios")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: name -> ("module:command", short help)."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, name = self.table[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(
    cls=LazyGroup,
    context_settings=_SETTINGS,
    table={
        "data": ("jobs.cli:data", "Human feedback in: exports to validated splits"),
        "hrm-hf": ("jobs.cli:hrm_hf", "Models: reward model, DPO policy, verdict"),
        "artifacts": ("jobs.artifacts:artifacts", "What is on the volume, and making room on it"),
        "jobs": ("k8s.cli:jobs", "Runs of the whole pipeline: submit, watch, stop, resume"),
        "gui": ("k8s.gui.command:command", "The Alignment panel: data, runs, curves, verdicts in a browser"),
    },
)
@click.version_option(package_name="aios-alignment", prog_name="aios")
def aios() -> None:
    """Human preferences in, an aligned model with an honest verdict out.

    \b
    aios data argilla-export   Argilla export -> train/eval/test splits + report
    aios hrm-hf rm-train       splits -> reward model
    aios hrm-hf dpo-train      splits -> DPO policy
    aios hrm-hf evaluate       is the policy better than its reference?
    aios jobs submit           all of it, here or on Kubernetes
    """


@click.group(
    cls=LazyGroup,
    context_settings=_SETTINGS,
    table={
        "argilla-export": (
            "jobs.ingest.command:command",
            "Turn an Argilla export into train/eval/test splits",
        ),
        "argilla-pull": ("jobs.ingest.pull:command", "Fetch a dataset from an Argilla server, nothing lost"),
        "argilla-push": ("jobs.ingest.push:command", "Send pairs to an Argilla server for people to judge"),
        "report": ("jobs.ingest.report_command:command", "Show the report of a data folder again, with plots"),
    },
)
def data() -> None:
    """Human feedback in: exports to validated splits."""


@click.group(
    name="hrm-hf",
    cls=LazyGroup,
    context_settings=_SETTINGS,
    table={
        "fetch-model": ("jobs.models.fetch:command", "Put a base model on the volume"),
        "rm-train": ("jobs.rm.command:command", "Train a reward model on preference pairs"),
        "dpo-train": ("jobs.dpo.command:command", "Train a policy by direct preference optimisation"),
        "merge": ("jobs.models.merge:command", "Fold LoRA adapters into their base: one whole model"),
        "evaluate": ("jobs.evaluation.command:command", "Judge policy and reward model on held-out pairs"),
        "compare": ("jobs.evaluation.compare:command", "Put several evaluations side by side"),
        "rm-score": ("jobs.evaluation.score:command", "Score answers with a reward model, any number of them"),
        "generate": ("jobs.evaluation.generate:command", "Answer prompts with a policy"),
    },
)
def hrm_hf() -> None:
    """Models: reward model, DPO policy, verdict."""


def main() -> None:
    """Run the command line: errors become one line and their exit code, the traceback goes to the log."""
    guard_output()
    show_stacks_on_signal()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        result = aios.main(args=arguments, prog_name="aios", standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        hint = f" (`{exc.ctx.command_path} --help`)" if isinstance(exc, click.UsageError) and exc.ctx else ""
        return _fail(ExitCode.USAGE, exc.format_message() + hint, None)
    except (KeyboardInterrupt, click.Abort):
        return _fail(ExitCode.INTERRUPTED, "interrupted", None)
    except BrokenPipeError:
        # The reader of our output (`| head`) is gone: not an error of ours, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except AiosError as exc:
        return _fail(exc.exit_code, str(exc), exc)
    except OSError as exc:
        error = from_os_error(exc)
        return _fail(error.exit_code, str(error), exc)
    except ImportError as exc:
        return _fail(ExitCode.ENVIRONMENT, _missing_package(exc), exc)
    except Exception as exc:
        return _fail(ExitCode.INTERNAL, f"{type(exc).__name__}: {' '.join(str(exc).split())}", exc)


def _fail(code: ExitCode, message: str, exc: BaseException | None) -> int:
    if exc is not None:
        _LOG.debug("exit %d: %s", code, message, exc_info=exc)
    prefix = "Stopped" if isinstance(exc, Interrupted) else "Error"
    click.echo(f"{prefix}: {message}", err=True)
    report_result(exit_code=int(code), message=message)
    return int(code)


_EXTRAS = {
    "pyarrow": "data", "zstandard": "data", "torch": "train", "transformers": "train", "trl": "train",
    "datasets": "train", "peft": "train", "sklearn": "train", "accelerate": "train", "matplotlib": "train",
    "pandas": "train", "deepspeed": "deepspeed", "wandb": "wandb", "bitsandbytes": "quant",
    "presidio_analyzer": "anonymize", "presidio_anonymizer": "anonymize", "spacy": "anonymize", "argilla": "argilla",
    "kubernetes": "k8s", "nicegui": "gui",
}  # fmt: skip


def _missing_package(exc: ImportError) -> str:
    extra = _EXTRAS.get((exc.name or "").split(".")[0])
    if extra is None:
        return f"cannot import {exc.name or exc}; reinstall the package"
    return f"the package '{exc.name}' is not installed; run `pip install 'aios-alignment[{extra}]'`"


if __name__ == "__main__":
    main()
