"""`aios jobs`: runs of the whole pipeline."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console

from jobs.contract.errors import BadConfig, EnvironmentUnfit, ServiceDown
from k8s import values as run_values
from k8s import workspace
from k8s.backends import Backend, Cluster
from k8s.follow import follow as follow_run
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
)  # fmt: skip
from k8s.show import evidence, headline, plain, runs_table, steps_table
from k8s.view import RunView


@click.group()
def jobs() -> None:
    """Runs of the whole pipeline: submit, watch, stop, resume."""


@jobs.command()
@composition_options
@click.option("--follow", "-f", is_flag=True, help="Stay and watch; Ctrl-C detaches, the run goes on")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, in a cluster by its API server too, print the values, start nothing",
)
@click.option("--unchecked", is_flag=True, help="Start it whatever `aios jobs doctor` would say of the cluster")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON")
def submit(
    follow: bool,
    dry_run: bool,
    unchecked: bool,
    as_json: bool,
    namespace: str | None,
    context: str | None,
    **composition: Any,
) -> int:
    """Start a run of the pipeline.

    \b
    Example:
      aios jobs submit --input training_data/sample/export.jsonl --name demo --follow
    """
    values = compose(**composition)
    if dry_run:
        if values["backend"] != "local":
            _rehearse(values, namespace, context)
        click.echo(run_values.to_yaml(values), nl=False)
        return 0
    place = backend(values["backend"], namespace, context)
    if isinstance(place, Cluster):
        if not unchecked:
            _examine(place, values)
        values = _upload_inputs(place, values)
    name = place.submit(values, composition["profile"])
    click.echo(f"Started run {name} ({', '.join(run_values.enabled_steps(values))})", err=True)
    back = _come_back(name, composition["profile"], namespace, context)
    if follow:
        return _follow(place, name, back)
    if as_json:
        print_json(place.look(name)().to_json())
    else:
        click.echo(f"Watch it with: {back}", err=True)
    return 0


@jobs.command()
@composition_options
@click.option("--manifests", is_flag=True, help="Print the Kubernetes objects instead of the values")
def render(manifests: bool, namespace: str | None, context: str | None, **composition: Any) -> None:
    """Print the values of a run: exactly what `submit` starts and `helm install` takes.

    \b
    Example:
      aios jobs render --profile local --input export.jsonl --name demo > values.yaml
    """
    values = compose(**composition)
    if manifests:
        from k8s import helm

        click.echo(helm.template(values["run"]["name"], values), nl=False)
        return
    click.echo(run_values.to_yaml(values), nl=False)


@jobs.command(name="list")
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def list_runs(as_json: bool, **place: Any) -> None:
    """List the runs, the newest first.

    \b
    Example:
      aios jobs list
    """
    views = chosen(**place).runs()
    if as_json:
        print_json([view.to_json() for view in views])
    elif views:
        _console().print(runs_table(views))
    else:
        click.echo("No runs yet; start one with `aios jobs submit`", err=True)


@jobs.command()
@RUN
@place_options
@click.option("--watch", "-w", is_flag=True, help="Show changes until the run has ended")
@click.option("--wait", is_flag=True, help="Print nothing until the run has ended; exit with its code")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def status(name: str | None, watch: bool, wait: bool, as_json: bool, **where: Any) -> int:
    """Show where a run stands; without RUN the newest one.

    \b
    Example:
      aios jobs status demo --watch
    """
    place = chosen(**where)
    found = place.find(name)
    if watch and not as_json:
        return _follow(place, found, _come_back(found, **where))
    look = place.look(found)
    if watch:
        return _stream_json(look)
    view = follow_run(look, Console(quiet=True, force_terminal=False), "") if wait else look()
    if as_json:
        print_json(view.to_json())
    else:
        _show(view)
    return view.exit_code if wait else 0


@jobs.command(name="logs")
@RUN
@place_options
@click.option("--step", help="Only this step")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended")
def logs_command(name: str | None, step: str | None, follow: bool, **where: Any) -> None:
    """Print what the steps of a run have written, every attempt in order.

    \b
    Example:
      aios jobs logs demo -f --step rm
    """
    place = chosen(**where)
    found = place.find(name)
    steps = place.steps(found)
    if step is not None and step not in steps:
        raise BadConfig(f"the run {found} has no step {step!r}", needed=" or ".join(steps))
    try:
        for owner, attempt, line in place.logs(found, [step] if step else steps, follow=follow):
            label = owner if attempt == 1 else f"{owner}#{attempt}"
            click.echo(line if step else f"{label:12} | {line}")
    except KeyboardInterrupt:
        click.echo(f"Detached; come back with: aios jobs logs {found} -f", err=True)
        return
    for state in place.look(found)().steps:
        if state.message and step in (None, state.name):
            click.echo(f"{state.name}: {state.message}", err=True)  # also of pods that never came to print anything
    if isinstance(place, Cluster) and (gone := place.without_pods(found, [step] if step else steps)):
        whole = f"aios jobs download artifacts/runs/{found}/steps steps -n {place.api.namespace}"
        click.echo(
            f"Pods of {', '.join(gone)} are gone, these were their last lines; the whole logs: {whole}", err=True
        )


@jobs.command()
@RUN
@place_options
def stop(name: str | None, **where: Any) -> None:
    """Stop a run: active steps save a checkpoint and end.

    \b
    Example:
      aios jobs stop demo
    """
    place = chosen(**where)
    found = place.find(name)
    view = place.stop(found)
    if view.phase in ("succeeded", "failed"):
        click.echo(f"Run {found} has already ended: {view.phase}", err=True)
        return
    click.echo(f"Run {found} is {view.phase}; go on with: aios jobs resume {found}", err=True)


@jobs.command()
@RUN
@place_options
@click.option("--follow", "-f", is_flag=True, help="Stay and watch")
@click.option("--force", is_flag=True, help="Forget pods of nodes that vanished; only when those are surely off")
def resume(name: str | None, follow: bool, force: bool, **where: Any) -> int:
    """Go on with a run that was stopped, has failed, or lost its conductor.

    \b
    Example:
      aios jobs resume demo --follow
    """
    place = chosen(**where)
    if isinstance(place, Cluster) and name and not place.installed(name):
        found, view = name, place.restore(name, claim_of(**where)[1])
    else:
        found = place.find(name)
        for pod in place.forget_vanished(found) if force and isinstance(place, Cluster) else ():
            click.echo(f"Forgot the pod {pod}; its step is tried again", err=True)
        view = place.resume(found)
    click.echo(f"Run {found} is {view.phase}", err=True)
    return _follow(place, found, _come_back(found, **where)) if follow else 0


@jobs.command(hidden=True)
@click.argument("release")
def conduct(release: str) -> int:
    """Release the steps of an installed run one after the other; what the conductor's pod runs."""
    from k8s.cluster.conduct import main

    return main(release)


def _rehearse(values: run_values.Values, namespace: str | None, context: str | None) -> None:
    """Let the API server try every object; where none answers, at least helm renders them."""
    from k8s import helm

    try:
        place = Cluster(context, namespace)
        place.api.get("/version")
    except (EnvironmentUnfit, ServiceDown) as exc:
        helm.template(values["run"]["name"], values)
        click.echo(f"Checked on this machine only: {exc}", err=True)
        return
    _examine(place, values)


def _examine(place: Cluster, values: run_values.Values) -> None:
    """Refuse a run that could not work, before anything is sent or made."""
    from k8s.cluster import doctor as cluster_doctor

    found = cluster_doctor.for_submission(place.api, values)
    for finding in found:
        if finding.level == "warning":
            click.echo(f"Warning: {finding.what}; {finding.remedy}", err=True)
    problems = [finding for finding in found if finding.level == "problem"]
    if problems:
        more = f" (and {len(problems) - 1} more, see `aios jobs doctor`)" if len(problems) > 1 else ""
        raise EnvironmentUnfit(problems[0].what + more, next_step=problems[0].remedy)


def _upload_inputs(place: Cluster, values: run_values.Values) -> run_values.Values:
    """Send exports that lie on this machine to the workspace; other paths are the workspace's already."""
    from k8s.cluster import files

    inputs = values["steps"]["ingest"]["args"].get("input", []) if values["steps"]["ingest"]["enabled"] else []
    sent = []
    for name in inputs:
        target = f"training_data/exports/{values['run']['name']}/{Path(name).name}"
        if Path(name).is_file():
            files.upload(place.api, values, Path(name), target, show_progress)
        sent.append(target if Path(name).is_file() else name)
    return run_values.merge(values, {"steps": {"ingest": {"args": {"input": sent}}}}) if sent else values


def _come_back(name: str, profile: str, namespace: str | None, context: str | None) -> str:
    """Return the command that shows this run again."""
    options = {"--profile": profile if profile != "local" else None, "-n": namespace, "--context": context}
    shown = "".join(f" {option} {value}" for option, value in options.items() if value)
    return f"aios jobs status {name} --watch{shown}"


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _follow(place: Backend, name: str, back: str) -> int:
    try:
        view = follow_run(place.look(name), _console(), back)
    except KeyboardInterrupt:
        return 0
    return view.exit_code


def _stream_json(look: Callable[[], RunView]) -> int:
    """Print the run as one line of JSON whenever it changes, until it has ended."""
    said: Any = None
    while True:
        view = look()
        document = view.to_json()
        if document != said:
            click.echo(orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS).decode())
            said = document
        if view.ended:
            return view.exit_code
        time.sleep(0.5)


def _show(view: RunView) -> None:
    console = _console()
    if console.is_terminal:
        console.print(headline(view))
        console.print(steps_table(view))
    else:
        click.echo(f"{view.name}: {view.phase}")
        for step in view.steps:
            click.echo(plain(step))
    for line in evidence(view):
        click.echo(f"  {line}")


for command in (workspace.doctor, workspace.upload, workspace.download, workspace.lineage_command):
    jobs.add_command(command)
