"""The lines of a step that the API no longer has: the kubelet serves a container's newest log file only.

Whoever was cut off while a log was rotated has missed what stood at the end of the old file. The attempt's own log is
on the volume, line for line the same, so reading goes on there: through the step's own pod while it runs, through a
short-lived one that mounts the claim afterwards.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from jobs.contract.errors import ServiceDown, UpstreamMissing
from k8s.cluster import files, names
from k8s.cluster.client import Api, find
from k8s.cluster.runs import stored_values

_PAUSE_S = 0.3


def lines(api: Api, pod: str, shown: int) -> Iterator[str]:
    """Yield the lines of a pod's attempt after the first `shown`, until the attempt has ended.

    Raises:
        UpstreamMissing: the pod is not one of a run, or its log is not on the volume.
    """
    labels = (find(api, "pods", pod) or {}).get("metadata", {}).get("labels") or {}
    if names.STEP not in labels:
        raise UpstreamMissing(f"{pod} is no pod of a run that is still known")
    values = stored_values(api, labels[names.INSTANCE])
    run = labels[names.RUN]
    folder = f"artifacts/runs/{run}/steps/{labels[names.STEP]}"
    isolated = (values.get("workspace") or {}).get("isolation") == "run"
    while True:
        ended, said = False, b""
        with suppress(ServiceDown), ExitStack() as stack:
            runs = ((find(api, "pods", pod) or {}).get("status") or {}).get("phase") == "Running"
            door = files.Door(api, pod) if runs else stack.enter_context(files.door(api, values))
            place = f"isolated/{run}/{folder}" if isolated and not runs else folder
            command = door.command("lines", place, pod, str(shown))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert process.stdout is not None
            for raw in process.stdout:
                if raw.endswith(b"\n"):  # a torn one comes whole next time
                    shown += 1
                    yield raw.decode(errors="replace").rstrip("\n")
            _, said = process.communicate()
            ended = process.returncode == 0
        if ended:
            return
        if b"no attempt of" in said:
            raise UpstreamMissing(f"the volume has no log of {pod}")
        time.sleep(_PAUSE_S)
