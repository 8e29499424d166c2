"""The few calls of Argilla's REST interface that we need, with retries; the API key goes into one header only."""

from __future__ import annotations

import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from jobs.config.argilla import ServerConfig
from jobs.contract.errors import AiosError, BadConfig, BadData, NotAuthorised, ServiceDown

_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
_LONGEST_PAUSE_S = 30.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the key must not follow one to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Server:
    """An Argilla server, spoken to as one user."""

    def __init__(self, config: ServerConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urllib.parse.urlsplit(config.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadConfig(f"--url {config.url} is no address", needed="http://HOST:PORT or https://HOST")
        self.url = config.url.rstrip("/")
        self.config = config
        self._key = _api_key(config.api_key_file)
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_NoRedirect)

    def call(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """Return the answer to one request.

        Raises:
            NotAuthorised: the key is wrong or may not do this.
            BadData: the server refuses the request.
            ServiceDown: no answer after all retries.
        """
        url = f"{self.url}/api/v1/{path}" + (f"?{urllib.parse.urlencode(query, doseq=True)}" if query else "")
        failure = ""
        for attempt in range(self.config.retries + 1):
            try:
                return self._once(method, url, body)
            except urllib.error.HTTPError as exc:
                with exc:
                    if exc.code not in _RETRIED:
                        raise _refusal(exc, method, path) from exc
                    failure, wait = f"HTTP {exc.code}", exc.headers.get("Retry-After", "")
            except (urllib.error.URLError, TimeoutError, ConnectionError, orjson.JSONDecodeError) as exc:
                failure, wait = str(getattr(exc, "reason", exc)), ""
            if attempt < self.config.retries:
                self._sleep(_pause(attempt, wait))
        raise ServiceDown(
            f"{self.url} does not answer ({failure}, tried {self.config.retries + 1} times)",
            needed="a running Argilla server",
            next_step="check --url and the server, then run this again: it goes on where it stopped",
        )

    def _once(self, method: str, url: str, body: Any) -> Any:
        headers = {"X-Argilla-Api-Key": self._key, "Accept": "application/json"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = orjson.dumps(body), "application/json"
        request = urllib.request.Request(url, data=data, method=method, headers=headers)  # noqa: S310 - checked above
        with self._opener.open(request, timeout=self.config.timeout_s) as answer:
            content = answer.read()
        return orjson.loads(content) if content else None

    def find_dataset(self) -> dict[str, Any] | None:
        """Return the dataset that the settings name; None where there is none.

        Raises:
            BadConfig: several workspaces have one of this name.
        """
        workspaces = {w["id"]: w["name"] for w in self.call("GET", "me/workspaces")["items"]}
        wanted = self.config
        found = [
            dataset
            for dataset in self.call("GET", "me/datasets")["items"]
            if wanted.dataset in (dataset["name"], dataset["id"])
            and wanted.workspace in (None, workspaces.get(dataset["workspace_id"]), dataset["workspace_id"])
        ]
        if len(found) > 1:
            names = ", ".join(str(workspaces.get(d["workspace_id"])) for d in found)
            raise BadConfig(
                f"{len(found)} datasets are called {wanted.dataset}, in {names}", next_step="choose one by --workspace"
            )
        return dict(found[0]) if found else None


def _pause(attempt: int, retry_after: str) -> float:
    """Return seconds to wait: what the server asks for, else doubling, with jitter so that clients do not march."""
    if retry_after.isdigit():
        return min(float(retry_after), _LONGEST_PAUSE_S)
    return min(0.5 * 2.0**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311


def _refusal(exc: urllib.error.HTTPError, method: str, path: str) -> AiosError:
    detail = " ".join(exc.read(2000).decode("utf-8", "replace").split())[:300]
    if exc.code in (401, 403):
        return NotAuthorised(
            f"Argilla refuses the API key for {method} {path} (HTTP {exc.code})",
            needed="the key of a user who may see this dataset",
            next_step="set ARGILLA_API_KEY or --api-key-file",
        )
    if 300 <= exc.code < 400:
        return BadConfig(
            f"the server redirects to {exc.headers.get('Location')}", next_step="give that address as --url"
        )
    if exc.code == 404 and path.startswith("me/"):
        return BadData(
            f"there is no Argilla API v1 at this address (HTTP 404 for {path})",
            needed="a server of Argilla 2.x, or 1.14 and later",
            next_step="check --url; from an older server export with its own client and ingest that file",
        )
    return BadData(f"Argilla refuses {method} {path} (HTTP {exc.code}: {detail})")


def _api_key(path: str | None) -> str:
    try:
        key = Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get("ARGILLA_API_KEY", "")
    except OSError as exc:
        raise NotAuthorised(f"cannot read --api-key-file {path} ({exc.strerror})") from exc
    if not key or not key.isascii() or not key.isprintable():
        raise NotAuthorised(
            "no usable API key of Argilla",
            needed="ARGILLA_API_KEY or --api-key-file",
            next_step="copy it from your settings page in Argilla",
        )
    return key
