"""Files that commands name by default (`config/deepspeed_zero2.json`): the workspace's copy, else the packaged one."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]


def resource(relative: str) -> Path:
    """Return the path of a file below `config/`, preferring the working directory's own."""
    local = Path(relative)
    if local.is_file():
        return local
    name = Path(relative).relative_to("config") if relative.startswith("config") else Path(relative)
    for folder in (_HERE / "config_files", _HERE.parent / "config"):
        if (folder / name).is_file():
            return folder / name
    return local
