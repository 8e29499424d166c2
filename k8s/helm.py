"""The only place that runs helm."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.contract.errors import AiosError, BadConfig, EnvironmentUnfit
from k8s.chart import chart_folder
from k8s.values import Values, to_yaml


def program() -> str:
    """Return helm's path, on PATH or beside the Python that runs us."""
    found = shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))
    if found is None:
        raise EnvironmentUnfit(
            "helm is not installed", needed="helm 3.17 or newer", next_step="see helm.sh, or `python -m k8s.tools DIR`"
        )
    return found


def run(arguments: list[str], *, context: str = "", namespace: str = "", timeout_s: float = 120) -> str:
    """Run helm and return what it printed.

    Raises:
        AiosError: it failed; the message is its own last line.
    """
    where = (["--kube-context", context] if context else []) + (["--namespace", namespace] if namespace else [])
    try:
        done = subprocess.run(
            [program(), *arguments, *where], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AiosError(f"helm {arguments[0]} did not end within {timeout_s:.0f} s") from exc
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("level=")]
        raise AiosError(f"helm {arguments[0]} failed: {' '.join(lines)[-600:]}")
    return done.stdout


def version() -> str:
    """Return helm's version, such as v4.1.0."""
    return run(["version", "--short"]).split("+")[0].strip()


def install(release: str, values: Values, *, context: str, namespace: str) -> str:
    """Install a run."""
    try:
        return _with_values("install", release, values, context=context, namespace=namespace)
    except AiosError as exc:
        if "cannot re-use a name" in str(exc) or "cannot reuse a name" in str(exc):
            raise BadConfig(
                f"a run named {release} exists in {namespace}",
                next_step=f"`aios jobs resume {release}`, or choose another --name",
            ) from exc
        raise


def template(release: str, values: Values, *, namespace: str = "") -> str:
    """Return the objects of a run as YAML; no cluster is asked."""
    return _with_values("template", release, values, namespace=namespace)


def _with_values(verb: str, release: str, values: Values, *, context: str = "", namespace: str = "") -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "values.yaml"
        path.write_text(to_yaml(values), encoding="utf-8")
        return run([verb, release, str(chart_folder()), "--values", str(path)], context=context, namespace=namespace)


def uninstall(release: str, *, context: str, namespace: str) -> None:
    """Remove a run's objects; the volume stays."""
    run(["uninstall", release, "--ignore-not-found"], context=context, namespace=namespace)
