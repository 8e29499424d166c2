"""One conductor as its pod runs it, which tells what it took.

    python -m tests.kubernetes.conducting NAMESPACE RELEASE STEPS

Prints a line of JSON on SIGUSR1 and one at its end: requests sent, watches among them, the largest resident set in MB,
seconds that each reconciliation took.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from k8s.cluster.client import Api
from k8s.cluster.conduct import Conductor
from k8s.cluster.config import connect
from k8s.conductor import Outcome


class Counted(Api):
    """Counts watches apart from the calls."""

    watches = 0

    def stream(self, path: str, **query: Any) -> Any:
        """Count, then stream."""
        self.watches += 1
        return super().stream(path, **query)


class Timed(Conductor):
    """Times its reconciliations."""

    took_s: list[float]

    def reconcile(self) -> Outcome | None:
        """Reconcile, and remember how long it took."""
        began = time.perf_counter()
        try:
            return super().reconcile()
        finally:
            self.took_s.append(time.perf_counter() - began)


def _peak_mb() -> float:
    """Return our largest resident set; getrusage's would be that of who started us, until we grow beyond it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(namespace: str, release: str, steps: str) -> None:
    """Conduct, and tell."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    api = Counted(connect(namespace=namespace))
    conductor = Timed(api, release, tuple(steps.split(",")), 1800)
    conductor.took_s = []

    def tell(*_: object, outcome: str = "") -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        line = {
            "release": release, "outcome": outcome, "requests": api.calls, "watches": api.watches,
            "rss_mb": _peak_mb(), "cpu_s": usage.ru_utime + usage.ru_stime, "reconcile_s": conductor.took_s,
        }  # fmt: skip
        print(json.dumps(line), flush=True)

    signal.signal(signal.SIGUSR1, tell)
    tell(outcome=conductor.conduct().value)


if __name__ == "__main__":
    main(*sys.argv[1:])
