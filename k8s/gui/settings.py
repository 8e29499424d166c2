"""What the whole server shares and what never changes while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.errors import NotAuthorised
from k8s.gui.access import Access


@dataclass(kw_only=True, slots=True)
class Settings:
    """The server's rules; set once, before the first request."""

    access: Access
    read_only: bool = False


SETTINGS = Settings(access=Access(key=b""), read_only=True)


def require_write() -> None:
    """Refuse what changes something where the panel may only look.

    Raises:
        NotAuthorised: the panel is read-only.
    """
    if SETTINGS.read_only:
        raise NotAuthorised("this panel is read-only", next_step="use `aios jobs`, or start it with leave to submit")
