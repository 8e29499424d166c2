"""Stopping in order: the first signal saves and ends with 75, the second ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jobs.contract.child import stop_requested
from jobs.contract.errors import Interrupted
from jobs.contract.log import LOG


class StopFlag:
    """Set by SIGTERM, Ctrl-C, Ctrl-Break, the supervisor's stop file or the supervisor's death."""

    def __init__(self) -> None:
        self.raised = False
        self.signalled = False
        self.acted = False
        """Whether the training has ended because of it, rather than by itself before it was noticed."""

    def __bool__(self) -> bool:
        self.raised = self.raised or stop_requested()
        return self.raised

    def check(self) -> None:
        """End here if a stop was asked for; between the long parts of a run that have nothing to save.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self:
            raise Interrupted("stopped before the first step", next_step="the same command begins again")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; at the second one leave without cleaning up."""
        # Signals are counted by themselves: the stop file and the first signal come together and are one request.
        if self.signalled:
            os._exit(128 + number)
        self.raised = self.signalled = True
        LOG.warning("Stopping after this step (%s); again to stop at once", signal.Signals(number).name)


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Route the signals that ask to stop into a flag while the block runs."""
    flag = StopFlag()
    names = [name for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), flag.on_signal) for name in names}
    try:
        yield flag
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
