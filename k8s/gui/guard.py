"""The gate before every request: host, origin, session, CSRF token, size; and the headers of every answer.

It sits outside everything else, so that no page and no websocket can be reached around it.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from k8s.gui.access import SESSION_S, Access

_SAFE = ("GET", "HEAD", "OPTIONS")

# NiceGUI compiles its templates in the browser, hence unsafe-eval. What matters: nothing is fetched from, sent to or
# framed by another place.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        session = self._session(headers)
        answer = self._refuse(scope, headers, session)
        if answer is None and session is None and not _public(scope["path"]):
            session, answer = self._begin(scope)
            headers_to_add = [set_cookie(self.access.cookie, session, scope)] if session else []
        else:
            headers_to_add = []
        if answer is not None and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        scope.setdefault("state", {})["session"] = session
        await (answer or self.app)(scope, receive, _adding(send, headers_to_add))

    def _session(self, headers: Headers) -> str | None:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.access.cookie)
        except CookieError:
            return None
        return morsel.value if morsel and self.access.valid(morsel.value) else None

    def _refuse(self, scope: Scope, headers: Headers, session: str | None) -> Response | None:
        """Return why this request is not for us, whoever sends it."""
        host = headers.get("host", "")
        if self.access.hosts is not None and _name(host) not in self.access.hosts:
            return PlainTextResponse(f"The panel is not at {host!r}; open it under its own address", 421)
        changing = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if not changing:
            return None
        if urlsplit(headers.get("origin", "")).netloc != host:
            return PlainTextResponse("This request comes from another site", 403)
        if scope["type"] == "http" and not _public(scope["path"]) and not scope["path"].startswith("/_nicegui_ws/"):
            token = headers.get("x-csrf-token", "")
            if session is None or not hmac.compare_digest(token.encode(), self.access.csrf(session).encode()):
                return PlainTextResponse("The CSRF token is missing or not of this session; reload the page", 403)
        return None

    def _begin(self, scope: Scope) -> tuple[str | None, Response | None]:
        """Give a page of a loopback address its session; send everybody else to the login."""
        page = scope["type"] == "http" and scope["method"] in _SAFE and not scope["path"].startswith("/_nicegui")
        if self.access.token is None and page:
            return self.access.new_session(), None
        if page:
            return None, RedirectResponse("/login", 303)
        return None, PlainTextResponse("Log in first", 401)


def _public(path: str) -> bool:
    """What needs no session: the way in, the probe of the kubelet, and our own style sheet and script."""
    return path in ("/login", "/healthz") or path.startswith("/panel/")


def _name(host: str) -> str:
    """Return a Host header without its port: localhost:80 -> localhost, [::1]:80 -> ::1."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def set_cookie(name: str, session: str, scope: Scope) -> str:
    """Return the header that gives a browser its session."""
    secure = "; Secure" if scope["scheme"] in ("https", "wss") else ""
    return f"{name}={session}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Lax{secure}"


def _adding(send: Send, cookies: list[str]) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            for cookie in cookies:
                headers.append("set-cookie", cookie)
            if headers.get("content-type", "").startswith("text/html"):
                headers["cache-control"] = "no-store"
        await send(message)

    return add
