"""Watching a run until it ends: a live table with the end of the log on a terminal, else a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from k8s.show import headline, plain, steps_table
from k8s.view import RunView

_TICK_S = 0.25
_LINES = 8
_PLAIN_PROGRESS_S = 30.0


def follow(look: Callable[[], RunView], console: Console, come_back: str) -> RunView:
    """Show the run until it has ended. Ctrl-C detaches: the run goes on."""
    try:
        return _live(look, console) if console.is_terminal else _lines(look, console)
    except KeyboardInterrupt:
        console.print(f"\nDetached; the run goes on. Come back with: {come_back}", highlight=False, markup=False)
        raise


def _live(look: Callable[[], RunView], console: Console) -> RunView:
    view = look()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for s in view.steps for line in s.lines]
            live.update(Group(headline(view), steps_table(view), *lines[-_LINES:]), refresh=True)
            if view.ended:
                return view
            time.sleep(_TICK_S)
            view = look()


def _lines(look: Callable[[], RunView], console: Console) -> RunView:
    """Print a line when a step changes its state, and at times how far the running one is."""
    said: dict[str, tuple[str, int]] = {}
    spoke = time.monotonic()
    while True:
        view = look()
        for step in view.steps:
            due = step.progress and step.phase == "running" and time.monotonic() - spoke > _PLAIN_PROGRESS_S
            if said.get(step.name, ("waiting", 0)) != (step.state, step.attempt) or due:
                said[step.name] = (step.state, step.attempt)
                if step.attempt or step.state != "waiting":
                    console.print(plain(step), highlight=False, markup=False, soft_wrap=True)
                    spoke = time.monotonic()
        if view.ended:
            console.print(headline(view), highlight=False, soft_wrap=True)
            return view
        time.sleep(_TICK_S)
