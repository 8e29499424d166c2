"""A local copy of the objects of one kind: list, then watch; list again when the server has forgotten our position."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from jobs.contract.errors import AiosError
from k8s.cluster.client import TRANSPORT, Api, Expired, Object

_LOG = logging.getLogger("aios")
_REMEMBERED = 50
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
"""Between attempts; doubled while nothing comes, from the start again as soon as something has."""


class Mirror:
    """Keeps `objects` (name -> object) as the API server has them and tells `changed` about it.

    Broken connections, restarts of the server and 410 mean: look again. Never that something has failed.
    """

    def __init__(
        self, api: Api, path: str, selector: str, changed: threading.Event, *,
        fields: str = "", keep: Callable[[Object], bool] | None = None,
    ) -> None:  # fmt: skip
        self.api, self.path, self.changed = api, path, changed
        self.selector = {"labelSelector": selector} | ({"fieldSelector": fields} if fields else {})
        self.keep = keep
        self.objects: dict[str, Object] = {}
        self.gone: dict[str, Object] = {}
        """The last that was seen of deleted objects: an evicted pod is gone before anybody has looked at its end."""
        self.ready = threading.Event()
        self.error: Exception | None = None
        self._version = ""
        self._pause_s = _PAUSE_S
        self._thread = threading.Thread(target=self._run, name=f"mirror {path}", daemon=True)

    def start(self) -> None:
        """Begin; `ready` is set after the first list."""
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                if not self._version:
                    self._list()
                began = time.monotonic()
                self._watch()
                if time.monotonic() - began < 1:  # a server that ends watches at once is not asked without pause
                    self._rest()
            except Expired:
                self._version = ""
            except (*TRANSPORT, ValueError) as exc:
                _LOG.debug("watch of %s broke (%s), looking again", self.path, exc)
                self._rest()
            except AiosError as exc:
                # Not allowed, or the server is in trouble: the owner decides whether it can wait.
                self.error = exc
                self.changed.set()
                self._version = ""
                self._rest()

    def _rest(self) -> None:
        time.sleep(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311  jitter
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _list(self) -> None:
        answer = self.api.get(self.path, **self.selector)
        found = {item["metadata"]["name"]: item for item in answer["items"] if self._wanted(item)}
        self._bury({name: item for name, item in self.objects.items() if name not in found})
        self.objects = found
        self._version = answer["metadata"]["resourceVersion"]
        self.error = None
        self._pause_s = _PAUSE_S
        self.ready.set()
        self.changed.set()

    def _watch(self) -> None:
        query: dict[str, Any] = self.selector | {"resourceVersion": self._version}
        for event in self.api.watch(self.path, **query):
            item = event["object"]
            self._pause_s = _PAUSE_S
            self._version = item["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK" or not self._wanted(item):
                continue
            objects = dict(self.objects)
            if event["type"] == "DELETED":
                objects.pop(item["metadata"]["name"], None)
                self._bury({item["metadata"]["name"]: item})
            else:
                objects[item["metadata"]["name"]] = item
            self.objects = objects
            self.changed.set()

    def _wanted(self, item: Object) -> bool:
        return self.keep is None or self.keep(item)

    def _bury(self, items: dict[str, Object]) -> None:
        self.gone = dict([*self.gone.items(), *items.items()][-_REMEMBERED:])
