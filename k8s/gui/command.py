"""`aios gui`: the Alignment panel."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import click

from jobs.contract.errors import BadConfig, EnvironmentUnfit
from k8s.gui.access import LOOPBACK, MIN_TOKEN, make_access


@click.command(name="gui")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one")
@click.option(
    "--token",
    envvar="AIOS_GUI_TOKEN",
    show_envvar=True,
    metavar="TEXT",
    help="What people type to get in. On an address that others can reach one is made up and printed when absent",
)
@click.option(
    "--read-only", is_flag=True, envvar="AIOS_GUI_READ_ONLY", show_envvar=True, help="Show everything, change nothing"
)
@click.option("--namespace", "-n", envvar="AIOS_GUI_NAMESPACE", help="Show the runs of this namespace of a cluster too")
@click.option("--context", help="Context of your kubeconfig, for --namespace")
def command(
    host: str, port: int, token: str | None, read_only: bool, namespace: str | None, context: str | None
) -> None:
    """Open the Alignment panel: data, runs, live curves and verdicts in a browser.

    It shows the workspace it is started in. Closing it never touches a run.

    \b
    Example:
      aios gui
      aios gui --host 0.0.0.0 --port 8080
    """
    if token is not None and len(token) < MIN_TOKEN:
        raise BadConfig(f"the token has {len(token)} characters", needed=f"at least {MIN_TOKEN}")
    made_up = token is None and host not in LOOPBACK
    if made_up:
        token = secrets.token_urlsafe(24)
    # Imported late: --help and a bad option need no web server.
    from k8s.gui.server import build, serve

    if namespace or context:
        from k8s.gui.cluster import ClusterRuns
        from k8s.gui.runs import BOOK

        BOOK.cluster = ClusterRuns(context, namespace)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    application = build(make_access(host, port, token), read_only=read_only)
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"Alignment panel of {Path.cwd()}: http://{shown}:{port}", err=True)
    if made_up:
        click.echo(f"Token: {token}", err=True)
    serve(application, listening)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else, so that a port in use is one line and not a traceback."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as exc:
        raise EnvironmentUnfit(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}", next_step="choose another --port or --host"
        ) from exc
