"""`aios jobs doctor|upload|download|lineage`: what concerns the place and its files rather than one run's course."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from jobs.contract.errors import ExitCode
from k8s import lineage
from k8s.backends import Cluster
from k8s.options import (
    RUN,
    backend,
    chosen,
    claim_of,
    compose,
    composition_options,
    place_options,
    print_json,
    show_progress,
)


@click.command()
@composition_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def doctor(as_json: bool, namespace: str | None, context: str | None, **composition: Any) -> int:
    """Tell whether a run could work here, and what to do where it could not.

    \b
    Example:
      aios jobs doctor --profile gpu -n training
    """
    composition["name"] = composition["name"] or "doctor"
    composition["settings"] = ("steps.ingest.args.input=[]", *composition["settings"])
    values = compose(**composition)
    place = backend(values["backend"], namespace, context)
    if isinstance(place, Cluster):
        from k8s.cluster import doctor as cluster_doctor

        found = list(cluster_doctor.examine(place.api, values))
    else:
        from k8s.machine import doctor as local_doctor

        found = list(local_doctor.examine(values))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.level:8} {finding.what}{remedy}")
    return int(ExitCode.ENVIRONMENT) if any(finding.level == "problem" for finding in found) else 0


@click.command()
@place_options
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", required=False)
def upload(source: Path, target: str | None, **where: Any) -> None:
    """Send a file or folder to the workspace of a cluster; an interrupted one goes on where it was.

    \b
    Example:
      aios jobs upload export.jsonl training_data/export.jsonl --profile gpu
    """
    from k8s.cluster import files

    place, values = claim_of(**where)
    target = target or f"training_data/{source.name}"
    sent = files.upload(place.api, values, source, target, show_progress)
    click.echo(f"{sent} files sent to {target}" if sent else f"{target} is there already, byte for byte", err=True)


@click.command()
@place_options
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path), default=Path())
def download(source: str, target: Path, **where: Any) -> None:
    """Fetch a file or folder from the workspace of a cluster, checked by its hash.

    \b
    Example:
      aios jobs download artifacts/dpo/demo artifacts/dpo/demo --profile gpu
    """
    from k8s.cluster import files

    place, values = claim_of(**where)
    came = files.download(place.api, values, source, target, show_progress)
    click.echo(f"{came} files fetched to {target}" if came else f"{target} is up to date", err=True)


@click.command(name="lineage")
@RUN
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def lineage_command(name: str | None, as_json: bool, **where: Any) -> int:
    """Show what a run's results were made from, and which link no longer matches the disk (exit 66).

    \b
    Example:
      aios jobs lineage demo
    """
    from k8s.machine import store

    if isinstance(chosen(**where), Cluster):
        return _lineage_there(name, as_json, **where)
    document = store.find(name).document()
    found = lineage.links(document)
    if as_json:
        print_json([asdict(link) for link in found])
    else:
        click.echo(lineage.tree(document, found))
    return int(ExitCode.UPSTREAM if any(link.problem for link in found) else ExitCode.DONE)


def _lineage_there(name: str | None, as_json: bool, **where: Any) -> int:
    """Let a pod that mounts the claim check the links: the results are there, not here."""
    from k8s.cluster import files

    place, values = claim_of(**where)
    code, said = files.lineage(place.api, values, name or place.find(None), as_json=as_json)
    click.echo(said, nl=False, err=code not in (0, int(ExitCode.UPSTREAM)))
    return code
