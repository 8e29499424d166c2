"""Labels and annotations that the chart and this code share."""

from __future__ import annotations

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
RUN = "aios-alignment/run"
STEP = "aios-alignment/step"
NEEDS = "aios-alignment/needs"
OUTPUT = "aios-alignment/output"
QUEUE = "aios-alignment/queue"
KIND = "aios-alignment/kind"
GIVEN_UP = "aios-alignment/given-up"
"""The diagnosis with which the conductor gave up a step that did not start."""
MENDING = "aios-alignment/mending"
"""Set with the suspension of a step that is to be changed: what to change, as JSON."""
MENDED = "aios-alignment/mended"
"""What was changed, and what the server refused to change, as JSON."""
GROW_MEMORY = "aios-alignment/grow-memory"
STARTUP_DEADLINE = "aios-alignment/startup-deadline-s"
STOPPED = "aios-alignment/stopped"
"""Set on a run's Jobs by `stop`; the conductor releases none of them until `resume` takes it away."""
SKIPPED = "aios-alignment/skipped"
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def conductor(release: str) -> str:
    """Return the name of the conductor's Job."""
    return f"{release}-conductor"


def status(release: str) -> str:
    """Return the name of the status ConfigMap."""
    return f"{release}-status"


def status_gone(release: str, namespace: str) -> str:
    """Return what to say and do where somebody deleted the status of a run that is there."""
    again = f"helm get manifest {release} -n {namespace} | kubectl -n {namespace} create -f -"
    return (
        f"the ConfigMap {status(release)} is gone, the run goes on; `{again}` makes it again and leaves the rest alone"
    )
