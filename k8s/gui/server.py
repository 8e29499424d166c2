"""The panel's application: routes of our own, NiceGUI's pages, the guard around both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

from k8s.gui.access import Access
from k8s.gui.downloads import download, upload
from k8s.gui.guard import Guard
from k8s.gui.login import Login
from k8s.gui.pages import routes
from k8s.gui.runs import BOOK
from k8s.gui.settings import SETTINGS

_STATIC = Path(__file__).with_name("static")


def build(access: Access, *, read_only: bool) -> Guard:
    """Return the whole application. Once a process, since NiceGUI keeps its own in a module."""
    SETTINGS.access, SETTINGS.read_only = access, read_only
    login = Login(access)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/panel", StaticFiles(directory=_STATIC))
    app.add_route("/healthz", _healthy)
    app.add_route("/login", login.page, methods=["GET"])
    app.add_route("/login", login.enter, methods=["POST"])
    app.add_route("/files/{path:path}", download, methods=["GET"])
    app.add_route("/upload", upload, methods=["POST"])
    routes.register()
    pages.on_startup(_warm_up)
    ui.run_with(
        app,
        title="Alignment panel",
        language="en-US",
        favicon=_STATIC / "icon.svg",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=10,
        show_welcome_message=False,
    )
    return Guard(app, access)


async def _healthy(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def _warm_up() -> None:
    """Read the runs before the first person asks: of a thousand it takes a second."""
    asyncio.get_running_loop().run_in_executor(None, BOOK.refresh)


def serve(application: Any, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM. Runs are no children of this process: they go on."""
    logging.getLogger("nicegui").setLevel(logging.WARNING)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
