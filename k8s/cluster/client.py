"""Requests to the Kubernetes API: JSON in, JSON out, a watch as a stream of events."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from jobs.contract.errors import AiosError, EnvironmentUnfit, NotAuthorised, ServiceDown
from k8s.cluster.config import Connection

Object = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_GROUPS = {"jobs": "/apis/batch/v1", "roles": _RBAC, "rolebindings": _RBAC}
TIMEOUT_S = 30.0
TRANSPORT = (OSError, http.client.HTTPException)
"""What a broken connection raises; it says nothing about the run."""


class ApiError(AiosError):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"the Kubernetes API says {status} {reason}: {message}")


class Expired(Exception):
    """The watch's position is too old (410): list again."""


class Api:
    """One API server. Threads may share it: each keeps a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.namespace = connection.namespace
        self.calls = 0
        self._local = threading.local()

    # Paths
    def path(self, kind: str, name: str = "", *, namespace: str | None = None) -> str:
        """Return the path of a kind ("jobs", "pods"...) in our namespace, or of one object."""
        space = f"/namespaces/{namespace or self.namespace}"
        group = _GROUPS.get(kind, "/api/v1")
        return f"{group}{space}/{kind}" + (f"/{name}" if name else "")

    # Requests
    def get(self, path: str, **query: Any) -> Object:
        """Read an object or a list."""
        return self.request("GET", path, query=query)

    def patch(self, path: str, body: Mapping[str, Any], *, kind: str = MERGE, **query: Any) -> Object:
        """Change an object."""
        return self.request("PATCH", path, body=body, content_type=kind, query=query)

    def create(self, path: str, body: Mapping[str, Any], **query: Any) -> Object:
        """Make an object."""
        return self.request("POST", path, body=body, query=query)

    def delete(self, path: str, **options: Any) -> Object:
        """Delete an object."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"} | options
        return self.request("DELETE", path, body=body)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Send one request and return its JSON; broken transport is retried where repeating cannot do harm.

        Raises:
            ApiError: the server said no.
            NotAuthorised: it said that we may not.
            ServiceDown: it does not answer.
        """
        content = json.dumps(body).encode() if body is not None else None
        url = path + ("?" + urlencode(query) if query else "")
        attempts = 1 if method == "POST" else 4
        for attempt in range(1, attempts + 1):
            try:
                response = self._send(method, url, content, content_type)
                raw = response.read()
            except TRANSPORT as exc:
                self._drop()
                if attempt == attempts:
                    raise down(self.connection, exc) from exc
                time.sleep(random.uniform(0.1, 0.4) * 2**attempt)  # noqa: S311  jitter
                continue
            if response.status in (429, 500, 502, 503, 504) and attempt < attempts:
                time.sleep(float(response.headers.get("Retry-After") or 0.5 * 2**attempt))
                continue
            return _answer(response.status, raw, method, path)
        raise AssertionError("unreachable")

    def watch(self, path: str, **query: Any) -> Iterator[Object]:
        """Yield the events of one watch until the server ends it.

        Raises:
            Expired: list again.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": 300} | query
        for line in self.stream(path, read_timeout=float(str(query["timeoutSeconds"])) + 15, **query):
            event: Object = json.loads(line)
            if event["type"] == "ERROR":
                code = event["object"].get("code")
                if code == 410:
                    raise Expired
                raise ApiError(code, event["object"].get("reason", ""), event["object"].get("message", ""))
            yield event

    def stream(self, path: str, *, read_timeout: float = TIMEOUT_S, **query: Any) -> Iterator[bytes]:
        """Yield the lines of an answer as they come, on a connection of its own.

        The last line may lack its end: then the server ended the answer there. An answer that was cut raises instead
        (`readline` would take a cut for the end, so chunks are read and parted here).
        """
        connection = self._open(read_timeout)
        try:
            connection.request("GET", path + "?" + urlencode(query), headers=self._headers())
            self.calls += 1
            response = connection.getresponse()
            if response.status == 410:
                raise Expired
            if response.status >= 400:
                _answer(response.status, response.read(), "GET", path)
            rest = b""
            while chunk := response.read1(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line + b"\n" for line in lines)
            if rest:
                yield rest
        finally:
            connection.close()

    # Transport
    def _send(self, method: str, url: str, content: bytes | None, content_type: str) -> http.client.HTTPResponse:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open(TIMEOUT_S)
        headers = self._headers() | ({"Content-Type": content_type} if content is not None else {})
        self.calls += 1
        connection.request(method, url, body=content, headers=headers)
        response: http.client.HTTPResponse = connection.getresponse()
        return response

    def _drop(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self._local.connection.close()
        self._local.connection = None

    def _open(self, timeout: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.connection.server)
        if self.connection.tls is not None:
            return http.client.HTTPSConnection(
                parts.hostname or "", parts.port or 443, timeout=timeout, context=self.connection.tls
            )
        return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)

    def _headers(self) -> dict[str, str]:
        token = self.connection.token()
        headers = {"Accept": "application/json", "User-Agent": "aios-alignment"}
        return headers | ({"Authorization": f"Bearer {token}"} if token else {})


def _answer(status: int, raw: bytes, method: str, path: str) -> Object:
    try:
        document: Object = json.loads(raw) if raw else {}
    except json.JSONDecodeError:
        document = {"message": raw.decode(errors="replace")[:300]}
    if status < 400:
        return document
    message = str(document.get("message", ""))
    if status == 401:
        raise NotAuthorised("the Kubernetes API does not know us (401)", next_step="sign in again, see your kubeconfig")
    if status == 403 and document.get("reason") == "Forbidden" and "is forbidden: User" in message:
        raise NotAuthorised(f"the Kubernetes API forbids it: {message}", next_step="ask for a role that allows this")
    raise ApiError(status, str(document.get("reason", "")), message or f"{method} {path}")


def down(connection: Connection, exc: Exception) -> ServiceDown:
    """Return the error for a server that does not answer."""
    return ServiceDown(
        f"the Kubernetes API at {connection.server} does not answer ({exc})",
        next_step="check `kubectl cluster-info` and the network",
    )


def namespace_exists(api: Api) -> bool | None:
    """Tell whether our namespace exists, None where we may not know."""
    try:
        api.get(f"/api/v1/namespaces/{api.namespace}")
    except NotAuthorised:
        return None
    except ApiError as exc:
        if exc.status == 404:
            return False
        raise
    return True


def no_namespace(api: Api) -> EnvironmentUnfit:
    """Return the error for a namespace that does not exist: lists of it are empty, and say nothing."""
    return EnvironmentUnfit(
        f"the namespace {api.namespace} does not exist",
        next_step=f"kubectl create namespace {api.namespace}, then helm install platform charts/platform"
        f" -n {api.namespace}",
    )


def find(api: Api, kind: str, name: str) -> Object | None:
    """Return an object, None where there is none."""
    try:
        return api.get(api.path(kind, name))
    except ApiError as exc:
        if exc.status == 404:
            return None
        raise
