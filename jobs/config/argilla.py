"""Settings of `aios data argilla-pull` and `aios data argilla-push`."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.config.fields import option


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """An Argilla server and one of its datasets. The API key comes from ARGILLA_API_KEY or a file, never from here."""

    url: str = option(metavar="URL")
    """Address of the Argilla server, for instance http://localhost:6900."""

    dataset: str = option(metavar="NAME")
    """Name or id of the dataset."""

    workspace: str | None = option(None, metavar="NAME")
    """Workspace of the dataset; needed where several have a dataset of this name, and to make a new one."""

    api_key_file: str | None = option(None, metavar="FILE")
    """File that holds the API key; else the environment variable ARGILLA_API_KEY."""

    timeout_s: float = option(60.0, min=1)
    """Seconds to wait for one answer of the server."""

    retries: int = option(5, min=0)
    """How often a request is tried again when the server is busy or away, with growing pauses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PullConfig(ServerConfig):
    """From a live Argilla server into a lossless file."""

    output: str = option(metavar="FILE")
    """JSONL file to write; FILE.settings.json is written beside it. A pull that was cut short goes on where it was."""

    page_size: int = option(500, min=1, max=1000)
    """Records asked for at once."""

    restart: bool = False
    """Forget a pull that was cut short and begin again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PushConfig(ServerConfig):
    """Pairs for people to judge, to a live Argilla server."""

    input: str = option(metavar="FILE")
    """JSONL of pairs: prompt with chosen and rejected, or with response_a and response_b; an id, if there is one,
    keeps a record from being sent twice."""

    guidelines: str = "Which response is better?"
    """Text that annotators see, for a dataset that is made now."""

    min_submitted: int = option(1, min=1)
    """Answers after which a record is complete, for a dataset that is made now."""

    page_size: int = option(200, min=1, max=500)
    """Records sent at once."""

    shuffle_seed: int = 42
    """Decides which answer stands first: neither chosen nor rejected may be known by its place."""

    dry_run: bool = False
    """Say what would be sent, and send nothing."""
