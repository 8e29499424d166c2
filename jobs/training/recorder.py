"""Where a run's figures go: metrics.jsonl always, Weights & Biases if asked."""

from __future__ import annotations

from typing import Any

from jobs.contract.metrics import MetricsWriter
from jobs.training.tracking import WandbRun


class Recorder:
    """Writes lines of metrics to the run's file and, if asked, to Weights & Biases; silent on other processes."""

    def __init__(self) -> None:
        self.file: MetricsWriter | None = None
        self.wandb: WandbRun | None = None

    def record(self, kind: str, step: int, **values: Any) -> None:
        """Write one line."""
        if self.file is not None:
            self.file.write(kind, step, **values)
        if self.wandb is not None:
            self.wandb.log(kind, step, values)

    def sync(self) -> None:
        """Force the file to disk."""
        if self.file is not None:
            self.file.sync()

    def close(self, *, failed: bool) -> None:
        """Close what is open."""
        if self.file is not None:
            self.file.close()
        if self.wandb is not None:
            self.wandb.finish(failed=failed)
