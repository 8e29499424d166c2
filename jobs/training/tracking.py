"""Weights & Biases beside metrics.jsonl: only with --wandb, the same keys, one run however often it is restarted.

OUTPUT/wandb/run.json tells others which run it is: {"id", "project", "url"}, the url null while offline.
"""

from __future__ import annotations

import importlib
import netrc
import os
import uuid
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import EnvironmentUnfit, NotAuthorised, ServiceDown
from jobs.contract.files import write_json
from jobs.contract.log import LOG

TAG = "pf-001"


class WandbRun:
    """A run at Weights & Biases that a restarted training continues."""

    def __init__(self, project: str, *, folder: Path, step: str, settings: dict[str, Any]) -> None:
        wandb = _import()
        self._check_access()
        note = folder / "wandb" / "run.json"
        # The id is kept before the run exists, so that an attempt which dies in between is continued as well.
        known = {"id": _run_id(note), "project": project, "url": None}
        write_json(note, known)
        try:
            self.run = wandb.init(
                project=project,
                name=folder.name,
                id=known["id"],
                resume="allow",
                tags=[TAG, step],
                job_type=step,
                config=settings,
                dir=str(folder),
                # Our metrics and settings, and nothing else of this machine: no code, no console, no git remote.
                settings=wandb.Settings(
                    disable_git=True,
                    save_code=False,
                    disable_code=True,
                    console="off",
                    silent=True,
                    x_disable_stats=True,
                ),
            )
        except wandb.errors.AuthenticationError as exc:
            raise NotAuthorised(
                f"Weights & Biases refused the key ({exc})", next_step="set WANDB_API_KEY to a valid one"
            ) from exc
        except (wandb.errors.CommError, wandb.errors.UsageError) as exc:
            raise ServiceDown(
                f"Weights & Biases does not answer ({exc})",
                next_step="try again, or set WANDB_MODE=offline and `wandb sync` later",
            ) from exc
        write_json(note, known | {"url": self.run.url or None})
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        LOG.info("Weights & Biases: %s", self.run.url or f"offline, in {folder / 'wandb'}")

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Send one line of metrics; the kinds stand apart as train/loss, eval/eval_loss."""
        figures = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        self.run.log(figures | {"step": step})

    def finish(self, *, failed: bool) -> None:
        """Close the run; one that was interrupted stays open for its continuation."""
        self.run.finish(exit_code=int(failed))

    @staticmethod
    def _check_access() -> None:
        """Fail before wandb would ask for a key on a terminal, or hang without one."""
        if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
            return
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
        try:
            known = netrc.netrc().authenticators(host)
        except (OSError, netrc.NetrcParseError):
            known = None
        if known is None:
            raise NotAuthorised(
                "--wandb without a key",
                needed="WANDB_API_KEY",
                next_step="set it, run `wandb login`, or set WANDB_MODE=offline to keep the metrics here",
            )


def _import() -> Any:
    try:
        return importlib.import_module("wandb")
    except ModuleNotFoundError:
        raise  # the command line names the extra to install
    except ImportError as exc:
        raise EnvironmentUnfit(f"wandb cannot be imported ({exc})", next_step="reinstall it, or drop --wandb") from exc


def _run_id(note: Path) -> str:
    """Return the id of the run that this folder's training belongs to; retiring the folder begins a new one."""
    try:
        return str(orjson.loads(note.read_bytes())["id"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        note.parent.mkdir(parents=True, exist_ok=True)
        return uuid.uuid4().hex[:16]
