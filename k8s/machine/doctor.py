"""Whether a run can work on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from k8s.findings import Finding, ok, problem, warning
from k8s.values import Values, enabled_steps

_NEEDS = {"ingest": ("pyarrow",), "rm": ("torch", "trl"), "dpo": ("torch", "trl"), "evaluation": ("torch", "sklearn")}
_FREE_GB = 5


def examine(values: Values) -> Iterator[Finding]:
    """Yield findings about packages, disk, memory, inputs."""
    steps = enabled_steps(values)
    wanted = {package for step in steps for package in _NEEDS.get(step, ())}
    missing = sorted(package for package in wanted if importlib.util.find_spec(package) is None)
    if missing:
        yield problem(f"not installed: {', '.join(missing)}", "pip install 'aios-alignment[train]'")
    else:
        yield ok("all packages that the steps need are installed")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    text = f"{free:.0f} GB of disk are free in {Path.cwd()}"
    yield ok(text) if free > _FREE_GB else warning(text, "free some: `aios artifacts prune`")
    if not os.access(Path.cwd(), os.W_OK):
        yield problem(f"{Path.cwd()} is not writable", "run this in a folder of your own")
    memory = psutil.virtual_memory().available / 2**30
    text = f"{memory:.1f} GiB of memory are free, {os.cpu_count()} CPUs"
    yield ok(text) if memory > 4 else warning(text, "a 135M model trains in about 4 GiB; close other programs")
    for name in steps["ingest"]["args"].get("input", []) if "ingest" in steps else []:
        if not any(Path().glob(name) if not Path(name).is_absolute() else [Path(name)]):
            yield problem(f"the export {name} is not there", "correct --input")
