"""`aios jobs`: runs of the whole pipeline."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console

from jobs.contract.errors import BadConfig, EnvironmentUnfit, ExitCode, ServiceDown
from k8s import lineage
from k8s import values as run_values
from k8s.backends import Backend, Cluster, Local
from k8s.follow import follow as follow_run
from k8s.show import headline, plain, runs_table, steps_table
from k8s.view import RunView

_RUN = click.argument("name", metavar="[RUN]", required=False)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_place = _options(
    click.option(
        "--profile", default="local", show_default=True, envvar="AIOS_PROFILE", metavar="NAME|FILE",
        help="Where and how to run: local, kind-cpu, gpu, gpu-8, gpu-multinode, spot, kueue, or a values file",
    ),
    click.option("--namespace", "-n", help="Namespace of the cluster; the default is your kubeconfig's"),
    click.option("--context", help="Context of your kubeconfig"),
)  # fmt: skip
_composition = _options(
    _place,
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


@click.group()
def jobs() -> None:
    """Runs of the whole pipeline: submit, watch, stop, resume."""


@jobs.command()
@_composition
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
    values = _compose(**composition)
    if dry_run:
        if values["backend"] != "local":
            _rehearse(values, namespace, context)
        click.echo(run_values.to_yaml(values), nl=False)
        return 0
    place = _backend(values["backend"], namespace, context)
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
        _print_json(place.look(name)().to_json())
    else:
        click.echo(f"Watch it with: {back}", err=True)
    return 0


@jobs.command()
@_composition
@click.option("--manifests", is_flag=True, help="Print the Kubernetes objects instead of the values")
def render(manifests: bool, namespace: str | None, context: str | None, **composition: Any) -> None:
    """Print the values of a run: exactly what `submit` starts and `helm install` takes.

    \b
    Example:
      aios jobs render --profile local --input export.jsonl --name demo > values.yaml
    """
    values = _compose(**composition)
    if manifests:
        from k8s import helm

        click.echo(helm.template(values["run"]["name"], values), nl=False)
        return
    click.echo(run_values.to_yaml(values), nl=False)


@jobs.command(name="list")
@_place
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def list_runs(as_json: bool, **place: Any) -> None:
    """List the runs, the newest first.

    \b
    Example:
      aios jobs list
    """
    views = _chosen(**place).runs()
    if as_json:
        _print_json([view.to_json() for view in views])
    elif views:
        _console().print(runs_table(views))
    else:
        click.echo("No runs yet; start one with `aios jobs submit`", err=True)


@jobs.command()
@_RUN
@_place
@click.option("--watch", "-w", is_flag=True, help="Show changes until the run has ended")
@click.option("--wait", is_flag=True, help="Print nothing until the run has ended; exit with its code")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def status(name: str | None, watch: bool, wait: bool, as_json: bool, **where: Any) -> int:
    """Show where a run stands; without RUN the newest one.

    \b
    Example:
      aios jobs status demo --watch
    """
    place = _chosen(**where)
    found = place.find(name)
    if watch and not as_json:
        return _follow(place, found, _come_back(found, **where))
    look = place.look(found)
    if watch:
        return _stream_json(look)
    view = follow_run(look, Console(quiet=True, force_terminal=False), "") if wait else look()
    if as_json:
        _print_json(view.to_json())
    else:
        _show(view)
    return view.exit_code if wait else 0


@jobs.command(name="lineage")
@_RUN
@_place
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def lineage_command(name: str | None, as_json: bool, **where: Any) -> int:
    """Show what a run's results were made from, and which link no longer matches the disk (exit 66).

    \b
    Example:
      aios jobs lineage demo
    """
    from k8s.machine import store

    if isinstance(_chosen(**where), Cluster):
        return _lineage_there(name, as_json, **where)
    document = store.find(name).document()
    found = lineage.links(document)
    if as_json:
        _print_json([asdict(link) for link in found])
    else:
        click.echo(lineage.tree(document, found))
    return int(ExitCode.UPSTREAM if any(link.problem for link in found) else ExitCode.DONE)


@jobs.command(name="logs")
@_RUN
@_place
@click.option("--step", help="Only this step")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended")
def logs_command(name: str | None, step: str | None, follow: bool, **where: Any) -> None:
    """Print what the steps of a run have written, every attempt in order.

    \b
    Example:
      aios jobs logs demo -f --step rm
    """
    place = _chosen(**where)
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
    if isinstance(place, Cluster) and (gone := place.without_pods(found, [step] if step else steps)):
        whole = f"aios jobs download artifacts/runs/{found}/steps steps -n {place.api.namespace}"
        click.echo(
            f"Pods of {', '.join(gone)} are gone, these were their last lines; the whole logs: {whole}", err=True
        )


@jobs.command()
@_RUN
@_place
def stop(name: str | None, **where: Any) -> None:
    """Stop a run: active steps save a checkpoint and end.

    \b
    Example:
      aios jobs stop demo
    """
    place = _chosen(**where)
    found = place.find(name)
    view = place.stop(found)
    if view.phase in ("succeeded", "failed"):
        click.echo(f"Run {found} has already ended: {view.phase}", err=True)
        return
    click.echo(f"Run {found} is {view.phase}; go on with: aios jobs resume {found}", err=True)


@jobs.command()
@_RUN
@_place
@click.option("--follow", "-f", is_flag=True, help="Stay and watch")
@click.option("--force", is_flag=True, help="Forget pods of nodes that vanished; only when those are surely off")
def resume(name: str | None, follow: bool, force: bool, **where: Any) -> int:
    """Go on with a run that was stopped, has failed, or lost its conductor.

    \b
    Example:
      aios jobs resume demo --follow
    """
    place = _chosen(**where)
    if isinstance(place, Cluster) and name and not place.installed(name):
        found, view = name, place.restore(name, _claim_of(**where)[1])
    else:
        found = place.find(name)
        for pod in place.forget_vanished(found) if force and isinstance(place, Cluster) else ():
            click.echo(f"Forgot the pod {pod}; its step is tried again", err=True)
        view = place.resume(found)
    click.echo(f"Run {found} is {view.phase}", err=True)
    return _follow(place, found, _come_back(found, **where)) if follow else 0


@jobs.command()
@_composition
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def doctor(as_json: bool, namespace: str | None, context: str | None, **composition: Any) -> int:
    """Tell whether a run could work here, and what to do where it could not.

    \b
    Example:
      aios jobs doctor --profile gpu -n training
    """
    composition["name"] = composition["name"] or "doctor"
    composition["settings"] = ("steps.ingest.args.input=[]", *composition["settings"])
    values = _compose(**composition)
    place = _backend(values["backend"], namespace, context)
    if isinstance(place, Cluster):
        from k8s.cluster import doctor as cluster_doctor

        found = list(cluster_doctor.examine(place.api, values))
    else:
        from k8s.machine import doctor as local_doctor

        found = list(local_doctor.examine(values))
    if as_json:
        _print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.level:8} {finding.what}{remedy}")
    return int(ExitCode.ENVIRONMENT) if any(finding.level == "problem" for finding in found) else 0


@jobs.command()
@_place
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", required=False)
def upload(source: Path, target: str | None, **where: Any) -> None:
    """Send a file or folder to the workspace of a cluster; an interrupted one goes on where it was.

    \b
    Example:
      aios jobs upload export.jsonl training_data/export.jsonl --profile gpu
    """
    from k8s.cluster import files

    place, values = _claim_of(**where)
    target = target or f"training_data/{source.name}"
    sent = files.upload(place.api, values, source, target, _progress)
    click.echo(f"{sent} files sent to {target}" if sent else f"{target} is there already, byte for byte", err=True)


@jobs.command()
@_place
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path), default=Path())
def download(source: str, target: Path, **where: Any) -> None:
    """Fetch a file or folder from the workspace of a cluster, checked by its hash.

    \b
    Example:
      aios jobs download artifacts/dpo/demo artifacts/dpo/demo --profile gpu
    """
    from k8s.cluster import files

    place, values = _claim_of(**where)
    came = files.download(place.api, values, source, target, _progress)
    click.echo(f"{came} files fetched to {target}" if came else f"{target} is up to date", err=True)


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


def _lineage_there(name: str | None, as_json: bool, **where: Any) -> int:
    """Let a pod that mounts the claim check the links: the results are there, not here."""
    from k8s.cluster import files

    place, values = _claim_of(**where)
    code, said = files.lineage(place.api, values, name or place.find(None), as_json=as_json)
    click.echo(said, nl=False, err=code not in (0, int(ExitCode.UPSTREAM)))
    return code


def _upload_inputs(place: Cluster, values: run_values.Values) -> run_values.Values:
    """Send exports that lie on this machine to the workspace; other paths are the workspace's already."""
    from k8s.cluster import files

    inputs = values["steps"]["ingest"]["args"].get("input", []) if values["steps"]["ingest"]["enabled"] else []
    sent = []
    for name in inputs:
        target = f"training_data/exports/{values['run']['name']}/{Path(name).name}"
        if Path(name).is_file():
            files.upload(place.api, values, Path(name), target, _progress)
        sent.append(target if Path(name).is_file() else name)
    return run_values.merge(values, {"steps": {"ingest": {"args": {"input": sent}}}}) if sent else values


def _claim_of(**where: Any) -> tuple[Cluster, run_values.Values]:
    """Return the cluster and the values that name its claim and images."""
    place = _chosen(**where)
    if not isinstance(place, Cluster):
        raise BadConfig(
            "on this machine files need no upload or download", next_step="--profile kind-cpu, or -n NAMESPACE"
        )
    profile = where["profile"] if where["profile"] != "local" else "kind-cpu"
    return place, run_values.layers(profile)


def _progress(name: str, done: int, size: int) -> None:
    """Tell on a terminal how far a file is."""
    if sys.stderr.isatty():
        end = "\n" if done >= size else ""
        click.echo(f"\r{name}  {done / 1e6:.1f} of {size / 1e6:.1f} MB{end}", nl=False, err=True)


@jobs.command(hidden=True)
@click.argument("release")
def conduct(release: str) -> int:
    """Release the steps of an installed run one after the other; what the conductor's pod runs."""
    from k8s.cluster.conduct import main

    return main(release)


def _compose(
    profile: str,
    files: tuple[Path, ...],
    settings: tuple[str, ...],
    inputs: tuple[str, ...],
    name: str | None,
    grow_memory: bool = False,
) -> run_values.Values:
    if grow_memory:
        settings = (*settings, "conductor.growMemory=true")
    return run_values.compose(profile, files=files, settings=settings, name=name, inputs=inputs)


def _chosen(profile: str, namespace: str | None, context: str | None) -> Backend:
    """Return the place that the options name: a namespace or context means a cluster."""
    kind = "kubernetes" if namespace or context else run_values.read_profile(profile).get("backend", "kubernetes")
    return _backend(kind, namespace, context)


def _backend(kind: str, namespace: str | None, context: str | None) -> Backend:
    return Local() if kind == "local" else Cluster(context, namespace)


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
        return
    click.echo(f"{view.name}: {view.phase}")
    for step in view.steps:
        click.echo(plain(step))


def _print_json(document: Any) -> None:
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
