"""`aios data argilla-push`: pairs go to an Argilla server for people to judge, or to judge again.

    aios data argilla-push --url URL --workspace team --dataset second-look --input disagreements.jsonl

Made for the pairs of a verdict on which the model and people disagree; any JSONL of pairs will do. The answers come
back with `aios data argilla-pull`.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click
import orjson

from jobs.config.argilla import PushConfig
from jobs.contract.errors import BadConfig, BadData
from jobs.ingest.rest import Server
from jobs.options import config_options

_OPTIONS = (
    ("response_a", "Response A is better"),
    ("response_b", "Response B is better"),
    ("tie", "Equally good or bad"),
)


@click.command(name="argilla-push")
@config_options(PushConfig)
def command(config: PushConfig) -> None:
    """Send pairs to an Argilla server for people to judge.

    The dataset is made if it does not exist. Which answer stands first is decided by a hash, so that nobody can tell
    chosen from rejected by its place. A record that is sent again replaces itself.

    \b
    Example:
      aios data argilla-push --url http://localhost:6900 --workspace team --dataset second-look --input pairs.jsonl
    """
    records = list(read_records(config))
    if config.dry_run:
        click.echo(f"{len(records):,} records would be sent to {config.dataset} on {config.url}")
        return
    sent = push(config, Server(config), records)
    click.echo(f"{sent:,} records in {config.dataset} on {config.url}")


def push(config: PushConfig, server: Server, records: list[dict[str, Any]]) -> int:
    """Send the records and return their number."""
    chat = isinstance(records[0]["fields"]["prompt"], list)
    dataset = server.find_dataset() or _make_dataset(config, server, chat)
    for start in range(0, len(records), config.page_size):
        page = records[start : start + config.page_size]
        server.call("PUT", f"datasets/{dataset['id']}/records/bulk", body={"items": page})
    return len(records)


def read_records(config: PushConfig) -> Iterator[dict[str, Any]]:
    """Yield the pairs of the input as records of Argilla.

    Raises:
        BadData: a line is no pair; nothing has been sent then.
    """
    count = 0
    for number, line in enumerate(Path(config.input).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            yield _record(row, config.shuffle_seed)
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as exc:
            raise BadData(
                f"{config.input}: line {number} is no pair ({type(exc).__name__}: {exc})",
                needed="prompt with chosen and rejected, or with response_a and response_b",
            ) from exc
        count += 1
    if not count:
        raise BadData(f"{config.input} holds no pairs")


def _record(row: dict[str, Any], seed: int) -> dict[str, Any]:
    names = ("response_a", "response_b") if "response_a" in row else ("chosen", "rejected")
    first, second = (_answer(row[name]) for name in names)
    digest = blake2b(orjson.dumps([seed, row["prompt"], sorted((first, second))]), digest_size=16).hexdigest()
    if names[0] == "chosen" and int(digest[0], 16) % 2:
        first, second = second, first
    metadata = row.get("metadata")
    return {
        "external_id": str(row.get("id") or digest),
        "fields": {"prompt": row["prompt"], "response_a": first, "response_b": second},
        "metadata": metadata if isinstance(metadata, dict) and metadata else None,
    }


def _answer(value: Any) -> str:
    text = value if isinstance(value, str) else value[-1]["content"]
    if not isinstance(text, str) or not text.strip():
        raise TypeError("an answer is blank")
    return text


def _make_dataset(config: PushConfig, server: Server, chat: bool) -> dict[str, Any]:
    workspaces = server.call("GET", "me/workspaces")["items"]
    found = [w for w in workspaces if config.workspace in (w["name"], w["id"])]
    if not found:
        raise BadConfig(
            f"--workspace {config.workspace}: the dataset does not exist yet, and no such workspace to make it in",
            needed=f"one of {', '.join(w['name'] for w in workspaces) or 'none'}",
        )
    made: dict[str, Any] = server.call(
        "POST",
        "datasets",
        body={
            "name": config.dataset,
            "workspace_id": found[0]["id"],
            "guidelines": config.guidelines,
            "allow_extra_metadata": True,
            "distribution": {"strategy": "overlap", "min_submitted": config.min_submitted},
        },
    )
    for name in ("prompt", "response_a", "response_b"):
        kind = {"type": "chat"} if chat and name == "prompt" else {"type": "text"}
        field = {"name": name, "title": name, "required": True, "settings": kind | {"use_markdown": True}}
        server.call("POST", f"datasets/{made['id']}/fields", body=field)
    options = [{"value": value, "text": text} for value, text in _OPTIONS]
    question = {
        "name": "preference",
        "title": "Which response is better?",
        "required": True,
        "settings": {"type": "label_selection", "options": options, "visible_options": len(options)},
    }
    server.call("POST", f"datasets/{made['id']}/questions", body=question)
    server.call("PUT", f"datasets/{made['id']}/publish")
    return made
