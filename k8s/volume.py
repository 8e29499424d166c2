"""What runs inside the short-lived pod that holds the claim: list, receive and send files. Standard library only.

python -m k8s.volume list PATH            JSON: relative path -> [size, sha256]
python -m k8s.volume size PATH            bytes of PATH that an interrupted upload has brought so far
python -m k8s.volume put PATH OFFSET      appends stdin to PATH's part file from OFFSET on
python -m k8s.volume commit PATH SHA256   checks the part file and renames it to PATH
python -m k8s.volume get PATH OFFSET      writes PATH from OFFSET on to stdout
python -m k8s.volume text PATH            the file's text, nothing where there is none
python -m k8s.volume lines FOLDER POD N   the log of the attempt that POD made, from line N on, until it has ended
python -m k8s.volume space                JSON: free and total bytes, whether we may write, who owns the folder
python -m k8s.volume reach URL [VAR=X..]  ok, or why the URL does not answer
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from jobs.contract.redact import redact_bytes, secret_values

_CHUNK = 1 << 20


def _inside(path: str) -> Path:
    """Return a path of the workspace; what leads out of it is refused."""
    root = Path.cwd().resolve()
    target = (root / path).resolve()
    if target != root and root not in target.parents:
        raise SystemExit(f"{path} is outside the workspace")
    return target


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(path: str) -> dict[str, list[object]]:
    """Return relative path -> size and sha256 of a file, or of all files of a folder."""
    root = _inside(path)
    files = (
        [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not p.name.endswith(".part"))
    )
    return {
        (file.relative_to(root).as_posix() if file != root else ""): [file.stat().st_size, _sha256(file)]
        for file in files
    }


def put(path: str, offset: int) -> None:
    """Append stdin to the part file, which must be `offset` long or is cut to it."""
    part = _part(_inside(path))
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(offset)
        file.seek(offset)
        shutil.copyfileobj(sys.stdin.buffer, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())


def commit(path: str, sha256: str) -> None:
    """Make the part file the file, if it is the one that was sent."""
    target = _inside(path)
    part = _part(target)
    found = _sha256(part)
    if found != sha256:
        part.unlink()
        raise SystemExit(f"{path} arrived damaged (sha256 {found[:12]}, not {sha256[:12]})")
    part.replace(target)


def get(path: str, offset: int) -> None:
    """Write a file to stdout."""
    with _inside(path).open("rb") as file:
        file.seek(offset)
        shutil.copyfileobj(file, sys.stdout.buffer, _CHUNK)
    sys.stdout.buffer.flush()


def lines(folder: str, pod: str, start: int) -> None:
    """Write the log of a pod's attempt to stdout from a line on, until the attempt has ended."""
    found = [path for path in _inside(folder).glob("attempt-*/status.json") if _status(path).get("host") == pod]
    if not found:
        raise SystemExit(f"{folder} has no attempt of {pod}")
    secrets = secret_values()
    with (found[0].parent / "stdout.log").open("rb") as file:
        for _ in range(start):
            file.readline()
        while True:
            over = _status(found[0]).get("state") not in ("starting", "running", None)
            while (line := file.readline()).endswith(b"\n") or (over and line):
                sys.stdout.buffer.write(redact_bytes(line.rstrip(b"\n") + b"\n", secrets))
            sys.stdout.buffer.flush()
            if over:
                return
            file.seek(-len(line), os.SEEK_CUR)
            time.sleep(0.1)


def _status(path: Path) -> dict[str, object]:
    try:
        document: dict[str, object] = json.loads(path.read_bytes())
    except (OSError, json.JSONDecodeError):
        return {}
    return document


def space() -> dict[str, object]:
    """Return what the file system under the workspace has left, and whether it takes a file, renamed, from us."""
    usage, root = shutil.disk_usage("."), Path().stat()
    probe, writable = Path(f".probe-{os.getpid()}"), True
    try:
        probe.write_bytes(b"probe")
        probe.replace(probe.with_suffix(".done"))
        probe.with_suffix(".done").unlink()
    except OSError:
        writable = False
    about = {"uid": os.getuid() if hasattr(os, "getuid") else -1, "owner": root.st_uid, "mode": oct(root.st_mode)[-3:]}
    return {"free": usage.free, "total": usage.total, "writable": writable, **about}


def reach(url: str, *settings: str) -> str:
    """Ask a URL for its head; any answer of a server will do."""
    os.environ.update((name, value) for name, _, value in (setting.partition("=") for setting in settings))
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310  the caller gives https
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return f"ok {answer.status}"
    except urllib.error.HTTPError as exc:
        return f"ok {exc.code}"
    except (OSError, ValueError) as exc:
        return f"{url}: {exc}"


def main(arguments: list[str]) -> int:
    """Run one of the commands above."""
    match arguments:
        case ["list", path]:
            sys.stdout.write(json.dumps(listing(path)))
        case ["size", path]:
            part = _part(_inside(path))
            sys.stdout.write(str(part.stat().st_size if part.exists() else 0))
        case ["put", path, offset]:
            put(path, int(offset))
        case ["commit", path, sha256]:
            commit(path, sha256)
        case ["get", path, offset]:
            get(path, int(offset))
        case ["text", path]:
            file = _inside(path)
            sys.stdout.write(file.read_text(encoding="utf-8") if file.is_file() else "")
        case ["lines", folder, pod, start]:
            lines(folder, pod, int(start))
        case ["space"]:
            sys.stdout.write(json.dumps(space()))
        case ["reach", url, *settings]:
            sys.stdout.write(reach(url, *settings))
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
