"""`aios jobs`: runs of the whole pipeline."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console

from jobs.contract.errors import BadConfig, ExitCode
from k8s import lineage
from k8s import values as run_values
from k8s.follow import follow as follow_run
from k8s.machine import backend, logs, observe, store
from k8s.show import headline, plain, runs_table, steps_table
from k8s.view import RunView

_RUN = click.argument("name", metavar="[RUN]", required=False)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_composition = _options(
    click.option("--profile", default="local", show_default=True, metavar="NAME|FILE", help="Where and how to run"),
    click.option(
        "--values", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
        help="Values laid over the profile; repeat for several files",
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="One value, such as steps.dpo.args.beta=0.2; wins over files",
    ),
    click.option("--input", "inputs", multiple=True, metavar="FILE", help="Export to ingest; repeat for several"),
    click.option("--name", help="Name of the run: a-z, 0-9 and hyphens, at most 40; generated when absent"),
)  # fmt: skip


@click.group()
def jobs() -> None:
    """Runs of the whole pipeline: submit, watch, stop, resume."""


@jobs.command()
@_composition
@click.option("--follow", "-f", is_flag=True, help="Stay and watch; Ctrl-C detaches, the run goes on")
@click.option("--dry-run", is_flag=True, help="Check everything, print the values, start nothing")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON")
def submit(follow: bool, dry_run: bool, as_json: bool, **composition: Any) -> int:
    """Start a run of the pipeline.

    \b
    Example:
      aios jobs submit --input training_data/sample/export.jsonl --name demo --follow
    """
    values = _compose(**composition)
    _local_only(values)
    if dry_run:
        click.echo(run_values.to_yaml(values), nl=False)
        return 0
    run = backend.submit(values, profile=composition["profile"])
    click.echo(f"Started run {run.name} ({', '.join(run_values.enabled_steps(values))})", err=True)
    if follow:
        return _follow(run)
    if as_json:
        _print_json(observe.view(run).to_json())
    else:
        click.echo(f"Watch it with: aios jobs status {run.name} --watch", err=True)
    return 0


@jobs.command()
@_composition
def render(**composition: Any) -> None:
    """Print the values of a run: exactly what `submit` starts and `helm install` takes.

    \b
    Example:
      aios jobs render --profile local --input export.jsonl --name demo > values.yaml
    """
    click.echo(run_values.to_yaml(_compose(**composition)), nl=False)


@jobs.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def list_runs(as_json: bool) -> None:
    """List the runs, the newest first.

    \b
    Example:
      aios jobs list
    """
    views = [observe.view(run) for run in store.runs()]
    if as_json:
        _print_json([view.to_json() for view in views])
    elif views:
        _console().print(runs_table(views))
    else:
        click.echo("No runs yet; start one with `aios jobs submit`", err=True)


@jobs.command()
@_RUN
@click.option("--watch", "-w", is_flag=True, help="Show changes until the run has ended")
@click.option("--wait", is_flag=True, help="Print nothing until the run has ended; exit with its code")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def status(name: str | None, watch: bool, wait: bool, as_json: bool) -> int:
    """Show where a run stands; without RUN the newest one.

    \b
    Example:
      aios jobs status demo --watch
    """
    run = store.find(name)
    if watch and not as_json:
        return _follow(run)
    view = observe.view(run)
    if wait or watch:
        view = follow_run(lambda: observe.view(run), Console(quiet=True, force_terminal=False), "")
    if as_json:
        _print_json(view.to_json())
    else:
        _show(view)
    return view.exit_code if wait else 0


@jobs.command(name="lineage")
@_RUN
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def lineage_command(name: str | None, as_json: bool) -> int:
    """Show what a run's results were made from, and which link no longer matches the disk (exit 66).

    \b
    Example:
      aios jobs lineage demo
    """
    document = store.find(name).document()
    found = lineage.links(document)
    if as_json:
        _print_json([dataclasses.asdict(link) for link in found])
    else:
        click.echo(lineage.tree(document, found))
    return int(ExitCode.UPSTREAM if any(link.problem for link in found) else ExitCode.DONE)


@jobs.command(name="logs")
@_RUN
@click.option("--step", help="Only this step")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended")
def logs_command(name: str | None, step: str | None, follow: bool) -> None:
    """Print what the steps of a run have written, every attempt in order.

    \b
    Example:
      aios jobs logs demo -f --step rm
    """
    run = store.find(name)
    steps = list(run_values.enabled_steps(run.document()["values"]))
    if step is not None and step not in steps:
        raise BadConfig(f"the run {run.name} has no step {step!r}", needed=" or ".join(steps))
    try:
        stream = logs.stream(run, steps, follow=follow, ended=lambda: observe.view(run).ended, pick=step)
        for owner, attempt, line in stream:
            label = f"{owner}" if attempt == 1 else f"{owner}#{attempt}"
            click.echo(line if step else f"{label:12} | {line}")
    except KeyboardInterrupt:
        click.echo(f"Detached; come back with: aios jobs logs {run.name} -f", err=True)


@jobs.command()
@_RUN
def stop(name: str | None) -> None:
    """Stop a run: active steps save a checkpoint and end.

    \b
    Example:
      aios jobs stop demo
    """
    run = store.find(name)
    view = backend.stop(run)
    if view.phase in ("succeeded", "failed"):
        click.echo(f"Run {run.name} has already ended: {view.phase}", err=True)
        return
    click.echo(f"Run {run.name} is {view.phase}; go on with: aios jobs resume {run.name}", err=True)


@jobs.command()
@_RUN
@click.option("--follow", "-f", is_flag=True, help="Stay and watch")
def resume(name: str | None, follow: bool) -> int:
    """Go on with a run that was stopped, has failed, or lost its conductor.

    \b
    Example:
      aios jobs resume demo --follow
    """
    run = store.find(name)
    view = backend.resume(run)
    click.echo(f"Run {run.name} is {view.phase}", err=True)
    return _follow(run) if follow else 0


@jobs.command(hidden=True)
@click.argument("release")
def conduct(release: str) -> int:
    """Release the steps of an installed run one after the other; what the conductor's pod runs."""
    from k8s.cluster.conduct import main

    return main(release)


def _compose(
    profile: str, files: tuple[Path, ...], settings: tuple[str, ...], inputs: tuple[str, ...], name: str | None
) -> run_values.Values:
    return run_values.compose(profile, files=files, settings=settings, name=name, inputs=inputs)


def _local_only(values: run_values.Values) -> None:
    if values["backend"] != "local":
        raise BadConfig("this profile runs on Kubernetes", next_step="`aios jobs render` it and `helm install`")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _follow(run: store.Run) -> int:
    try:
        view = follow_run(lambda: observe.view(run), _console(), f"aios jobs status {run.name} --watch")
    except KeyboardInterrupt:
        return 0
    return view.exit_code


def _show(view: RunView) -> None:
    console = _console()
    if console.is_terminal:
        console.print(headline(view))
        console.print(steps_table(view))
        return
    click.echo(f"{view.name}: {view.phase}")
    for step in view.steps:
        click.echo(plain(step))


def _print_json(document: Any) -> None:
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
