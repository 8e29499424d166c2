"""What the commands of `aios jobs` share: options, the place that they name, JSON on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from jobs.contract.errors import BadConfig
from k8s import values as run_values
from k8s.backends import Backend, Cluster, Local

RUN = click.argument("name", metavar="[RUN]", required=False)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


place_options = _options(
    click.option(
        "--profile", default="local", show_default=True, envvar="AIOS_PROFILE", metavar="NAME|FILE",
        help="Where and how to run: local, kind-cpu, gpu, gpu-8, gpu-multinode, spot, kueue, or a values file",
    ),
    click.option("--namespace", "-n", help="Namespace of the cluster; the default is your kubeconfig's"),
    click.option("--context", help="Context of your kubeconfig"),
)  # fmt: skip
composition_options = _options(
    place_options,
    click.option(
        "--values", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
        help="Values laid over the profile; repeat for several files",
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="One value, such as steps.dpo.args.beta=0.2; wins over files",
    ),
    click.option("--input", "inputs", multiple=True, metavar="FILE", help="Export to ingest; repeat for several"),
    click.option("--grow-memory", is_flag=True, help="Where memory runs out, try once more with half as much again"),
    click.option("--name", help="Name of the run: a-z, 0-9 and hyphens, at most 40; generated when absent"),
)  # fmt: skip


def compose(
    profile: str,
    files: tuple[Path, ...],
    settings: tuple[str, ...],
    inputs: tuple[str, ...],
    name: str | None,
    grow_memory: bool = False,
) -> run_values.Values:
    """Return the values that the options describe."""
    if grow_memory:
        settings = (*settings, "conductor.growMemory=true")
    return run_values.compose(profile, files=files, settings=settings, name=name, inputs=inputs)


def chosen(profile: str, namespace: str | None, context: str | None) -> Backend:
    """Return the place that the options name: a namespace or context means a cluster."""
    kind = "kubernetes" if namespace or context else run_values.read_profile(profile).get("backend", "kubernetes")
    return backend(kind, namespace, context)


def backend(kind: str, namespace: str | None, context: str | None) -> Backend:
    return Local() if kind == "local" else Cluster(context, namespace)


def claim_of(**where: Any) -> tuple[Cluster, run_values.Values]:
    """Return the cluster and the values that name its claim and images."""
    place = chosen(**where)
    if not isinstance(place, Cluster):
        raise BadConfig(
            "on this machine files need no upload or download", next_step="--profile kind-cpu, or -n NAMESPACE"
        )
    profile = where["profile"] if where["profile"] != "local" else "kind-cpu"
    return place, run_values.layers(profile)


def show_progress(name: str, done: int, size: int) -> None:
    """Tell on a terminal how far a file is."""
    if sys.stderr.isatty():
        end = "\n" if done >= size else ""
        click.echo(f"\r{name}  {done / 1e6:.1f} of {size / 1e6:.1f} MB{end}", nl=False, err=True)


def print_json(document: Any) -> None:
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
