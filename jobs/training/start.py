"""How both training commands begin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from jobs.config.training import TrainingConfig
from jobs.training.interrupt import stop_on_signals
from jobs.training.libraries import quiet_libraries
from jobs.training.plan import print_plan_of
from jobs.training.session import TrainingSession, training_session


@contextlib.contextmanager
def started(config: TrainingConfig, *, step: str, models: dict[str, str]) -> Iterator[TrainingSession | None]:
    """Yield a session to train in; None when a plan is all that was asked for, or the result is already there.

    `models` maps names in the manifest to models; the first one is trained.
    """
    quiet_libraries()
    if config.dry_run:
        print_plan_of(config, step=step, models=models)
        yield None
        return
    with stop_on_signals() as stop, training_session(config, step=step, models=models, stop=stop) as session:
        yield session
