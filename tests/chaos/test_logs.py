"""Following a log through a server that cuts the connection again and again, while the node rotates the log."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.backends import Cluster
from tests.kubernetes.cluster import Space, new_space, until
from tests.kubernetes.played import write_kubeconfig
from tests.kubernetes.proxy import Proxy

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("AIOS_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
LINES, WIDTH = 80_000, 1_000
"""80 MB in 80 s or more: the kubelet begins a new file at 10 MiB."""
COUNT = f"""
import time
for i in range({LINES}):
    print("line", i, "x" * {WIDTH}, flush=i % 50 == 49)
    if i % 50 == 49: time.sleep(0.05)
"""


class Counting(Proxy):
    """Counts the moments at which somebody who was connected was cut off."""

    disconnects = 0

    def cut(self, down_s: float = 0.0) -> None:
        """Break all connections."""
        self.disconnects += bool(self._sockets)
        super().cut(down_s)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


def test_every_line_comes_once_over_cuts_and_rotations(
    space: Space, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fifty cuts and several rotations: `aios jobs logs -f` shows all lines in order, none twice, none missing."""
    # It publishes nothing, so it fails: once is enough.
    space.install_program("talks", "ingest", COUNT, "steps.ingest.backoffLimit=0")
    labels = "app.kubernetes.io/instance=talks,aios-alignment/step=ingest"
    until(lambda: [pod for pod in space.pods(labels) if pod["status"].get("phase") == "Running"], 300)
    proxy = Counting(space.api.connection.server)
    try:
        path = write_kubeconfig(tmp_path, proxy.server, space.api.connection.token(), space.namespace)
        monkeypatch.setenv("KUBECONFIG", str(path))
        random.seed(SEED)
        proxy.cut_again_and_again((0.2, 2.0), down_s=0.5)
        found = [line.split() for _, _, line in Cluster(None, space.namespace).logs("talks", ["ingest"], follow=True)]
    finally:
        proxy.close()
    numbers = [int(words[1]) for words in found if words and words[0] == "line"]
    size = f"{LINES * (WIDTH + 12) / 1e6:.0f} MB of log"
    print(f"\nAIOS_CHAOS_SEED={SEED}: {proxy.disconnects} disconnects, {size}, {len(numbers)} lines shown")
    assert proxy.disconnects >= 50
    assert numbers == list(range(LINES))
    assert len(found) == LINES
