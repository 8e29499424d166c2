"""One request to an OpenAI-compatible chat endpoint; what can go wrong is either worth another try or not."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

import orjson

_MAX_ANSWER_BYTES = 4 << 20


class Unavailable(Exception):
    """Worth another try: time-out, rate limit, server error, an answer that is no chat completion.

    `retry_after_s` is what the server asks to wait; None where it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """Not worth another try: wrong key, path, model or request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


def post_chat(base_url: str, body: dict[str, Any], *, key: str | None, timeout_s: float) -> str:
    """Return the text that the endpoint answers.

    Raises:
        Unavailable: no usable answer this time.
        Refused: there will be none.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    url = base_url.rstrip("/") + "/chat/completions"
    if not url.startswith(("http://", "https://")):
        raise Refused(0, f"{base_url} is no http address")
    request = urllib.request.Request(url, data=orjson.dumps(body), headers=headers)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
            document = orjson.loads(response.read(_MAX_ANSWER_BYTES))
        return str(document["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as exc:
        message = exc.read(2000).decode("utf-8", "replace")
        if exc.code in {408, 409, 425, 429} or exc.code >= 500:
            raise Unavailable(f"HTTP {exc.code}: {message}", _seconds(exc.headers.get("Retry-After"))) from exc
        raise Refused(exc.code, " ".join(message.split())[:200]) from exc
    except (OSError, http.client.HTTPException) as exc:  # refused, reset, timed out, torn half way
        raise Unavailable(f"{type(exc).__name__}: {exc}") from exc
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as exc:
        raise Unavailable(f"no chat completion in the answer ({type(exc).__name__})") from exc


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:  # an HTTP date: the backoff of the caller will do
        return None
