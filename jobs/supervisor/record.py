"""What a run leaves on the volume about itself, written by the first supervisor that comes: `run.json`."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import Any

import yaml

from jobs.contract.errors import AiosError
from jobs.contract.files import write_atomic, write_json
from jobs.contract.manifest import read_manifest


def record_run(folder: Path) -> None:
    """Write run.json from the values that the chart mounts; at home `submit` has written it already.

    AIOS_VALUES names the values document, AIOS_RELEASE the release, AIOS_REVISION the commit that the image is made of.
    """
    values = os.environ.get("AIOS_VALUES")
    path = folder / "run.json"
    if not values or path.exists():
        return
    with contextlib.suppress(OSError, yaml.YAMLError):
        document = {
            "name": folder.name,
            "profile": "kubernetes",
            "release": os.environ.get("AIOS_RELEASE", ""),
            "created": time.time(),
            "values": yaml.safe_load(Path(values).read_text(encoding="utf-8")),
            "git": {"commit": os.environ.get("AIOS_REVISION", "")},
            "versions": {"python": platform.python_version()},
            "platform": {"system": platform.platform(), "machine": platform.machine()},
            "lineage": {},
        }
        write_json(path, document)


def record_status(folder: Path) -> None:
    """Copy what the conductor wrote about the run (attempts, diagnoses, events) from the mounted status to the volume.

    The conductor mounts no volume, and a release's objects go with it: what its pods died of shall outlive both.
    """
    values = os.environ.get("AIOS_VALUES")
    if not values or os.environ.get("PET_NODE_RANK", "0") != "0":
        return
    source, target = Path(values).with_name("state.json"), folder / "cluster.json"
    with contextlib.suppress(OSError):
        content = source.read_bytes()
        if not target.exists() or target.read_bytes() != content:
            write_atomic(target, content)


def lineage(output: Path | None) -> dict[str, Any]:
    """Return the hashes of what a step read and made, for its status; empty where it published nothing."""
    if output is None:
        return {}
    with contextlib.suppress(AiosError, OSError):
        manifest = read_manifest(output)
        if manifest is not None:
            return {
                "output": output.as_posix(),
                "inputs": manifest.inputs,
                "manifest_sha256": manifest.sha256,
                "content_sha256": manifest.content_sha256,
                "attempt_id": manifest.attempt,
            }
    return {}
