"""The way in where a token is demanded: one plain page, so that nothing else needs to be public."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from k8s.gui.access import Access, Brake
from k8s.gui.guard import set_cookie

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in · Alignment panel</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/panel/panel.css"></head>
<body class="login"><main><form class="card" method="post" action="/login">
<h1>Alignment panel</h1>
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<p class="hint">The server printed it when it started, or was given it with <code>--token</code>.</p>
{error}
<button type="submit">Log in</button>
</form></main></body></html>"""
_MAX_BODY = 4096


class Login:
    """GET shows the form, POST compares the token."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.brake = Brake()

    async def page(self, request: Request) -> Response:
        """Show the form."""
        if self.access.token is None or request.state.session:
            return RedirectResponse("/", 303)
        return _form()

    async def enter(self, request: Request) -> Response:
        """Give out a session for the token."""
        source = request.client.host if request.client else ""
        wait = self.brake.wait_s(source)
        if wait > 0:
            return _form(f"Too many wrong tokens. Try again in {wait:.0f} s.", 429, {"Retry-After": f"{wait:.0f}"})
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY:
                return _form("That is not a token.", 413)
        token = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        if not self.access.opens(token):
            self.brake.failed(source)
            await asyncio.sleep(0.2)
            return _form("That is not the token of this server.", 403)
        self.brake.passed(source)
        response = RedirectResponse("/", 303)
        response.headers.append("set-cookie", set_cookie(self.access.cookie, self.access.new_session(), request.scope))
        return response


def _form(error: str = "", status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    shown = f'<p class="error" role="alert">{error}</p>' if error else ""
    return HTMLResponse(_PAGE.replace("{error}", shown), status, headers)
