"""Submit, stop, resume: what a person asks of a run on this machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from jobs.contract.errors import BadConfig
from jobs.contract.files import make_folder, remove_tree, write_json
from jobs.contract.lock import process_started
from k8s.conductor import Phase
from k8s.machine.driver import request_stop
from k8s.machine.observe import live, observe, view
from k8s.machine.spawn import detached
from k8s.machine.store import RUNS, Run, runs
from k8s.sharing import conflict
from k8s.values import Values, enabled_steps
from k8s.view import RunView

_PACKAGES = ("aios-alignment", "torch", "transformers", "trl", "datasets", "accelerate", "peft", "pyarrow")


def submit(values: Values, *, profile: str, root: Path = RUNS) -> Run:
    """Write the run down and start its conductor.

    Raises:
        BadConfig: a run of that name exists.
        FolderBusy: another live run uses a folder that this one would write.
    """
    name = values["run"]["name"]
    make_folder(root)
    with FileLock(root / ".submit.lock", timeout=30):
        run = Run(root / name)
        if run.folder.exists():
            raise BadConfig(
                f"a run named {name} exists", next_step=f"`aios jobs resume {name}`, or choose another --name"
            )
        _refuse_shared_folders(values, root)
        document = {"name": name, "profile": profile, "created": time.time(), "values": values, "lineage": {}}
        draft = root / f".{name}.draft"
        remove_tree(draft)
        draft.mkdir()
        write_json(draft / "run.json", document | provenance())
        draft.rename(run.folder)
        start_conductor(run)
    return run


def start_conductor(run: Run) -> None:
    """Start a detached conductor; where one lives already it leaves again by itself."""
    run.change_control(conductor_started_at=time.time(), conductor=None)
    arguments = [sys.executable, "-m", "k8s.machine.driver", str(run.folder)]
    process = detached(arguments, log=run.folder / "conductor.log", environment={})
    started = 0.0
    with contextlib.suppress(psutil.Error):  # it has ended already; its log says why
        started = process_started(process.pid)
    run.change_control(conductor={"pid": process.pid, "started": started})


def stop(run: Run) -> RunView:
    """Mark the run stopped, then ask active steps to save and end; works without a conductor as well."""
    seen = view(run)
    if seen.phase in ("succeeded", "failed"):
        return seen
    run.change_control(stopped=True)
    control = run.control()
    for name, step in enabled_steps(run.document()["values"]).items():
        request_stop(observe(run, name, step, control))
    return view(run)


def resume(run: Run) -> RunView:
    """Go on from what is complete; failures so far are forgiven."""
    seen = view(run)
    if seen.phase == "succeeded" or (seen.phase == "running" and run.conducted()):
        return seen
    forgiven = dict(run.control()["forgiven"])
    for name, step in enabled_steps(run.document()["values"]).items():
        last = observe(run, name, step, run.control())
        if last.phase is not Phase.RUNNING:
            forgiven[name] = last.number
    run.change_control(stopped=False, forgiven=forgiven)
    start_conductor(run)
    return view(run)


def _refuse_shared_folders(values: Values, root: Path) -> None:
    for other in runs(root):
        if live(other):
            conflict(values, other.document()["values"])


def provenance() -> dict[str, Any]:
    """Return what made this run: versions, commit, machine."""
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "git": _git(),
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git() -> Mapping[str, Any]:
    """Return the commit of the checkout that this code runs from; empty where it is installed from a package."""
    here = Path(__file__).parent

    def ask(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "-uno"))} if commit else {}
    except (OSError, subprocess.TimeoutExpired):
        return {}
