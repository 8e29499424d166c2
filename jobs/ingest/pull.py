"""`aios data argilla-pull`: every record of a dataset, with responses, ranks, statuses and users, into one file.

    aios data argilla-pull --url http://localhost:6900 --dataset preferences --output export.jsonl

The file exports of Argilla's own client lose the ranks of ranking questions; the REST answer has them, and this is
the REST answer, one record a line, as `aios data argilla-export` reads it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from jobs.config.argilla import PullConfig
from jobs.contract.errors import BadData
from jobs.contract.files import fsync_path, replace, write_json
from jobs.ingest.rest import Server
from jobs.options import config_options


@click.command(name="argilla-pull")
@config_options(PullConfig)
def command(config: PullConfig) -> None:
    """Fetch a dataset from an Argilla server into a lossless file.

    The API key comes from ARGILLA_API_KEY or --api-key-file. A pull that was cut short goes on with the page at which
    it stopped.

    \b
    Example:
      aios data argilla-pull --url http://localhost:6900 --dataset preferences --output export.jsonl
    """
    count = pull(config, Server(config))
    click.echo(f"{config.output}: {count:,} records")
    click.echo(f"Next: aios data argilla-export --input {config.output} --output DIR", err=True)


def pull(config: PullConfig, server: Server) -> int:
    """Fetch all records and return their number.

    Raises:
        BadData: the dataset does not exist, or it changed so much meanwhile that pages do not fit together.
    """
    dataset = server.find_dataset()
    if dataset is None:
        where = f" in workspace {config.workspace}" if config.workspace else ""
        raise BadData(
            f"no dataset {config.dataset}{where} that this user can see", next_step="check the name and the key"
        )
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    settings = _settings(server, dataset)
    names = {question["id"]: question["name"] for question in settings["questions"]}
    part, state_path = (output.with_name(f".{output.name}.{kind}") for kind in ("part", "pull.json"))
    state = _resume(config, server, dataset, part, state_path)
    total: int | None = None
    with part.open("r+b" if part.exists() else "w+b") as file:
        file.truncate(state["bytes"])
        file.seek(state["bytes"])
        while total is None or state["records"] < total:
            page = server.call("GET", f"datasets/{dataset['id']}/records", _query(config, state["records"]))
            # Servers of 1.x may leave the total out: then a page that is not full is the last one.
            total = page.get("total")
            if not page["items"]:
                total = state["records"] if total is None else total
                break
            for record in page["items"]:
                file.write(orjson.dumps(_named(record, names)) + b"\n")
            file.flush()
            state |= {"records": state["records"] + len(page["items"]), "bytes": file.tell()}
            write_json(state_path, state)
            if total is None and len(page["items"]) < config.page_size:
                total = state["records"]
            _progress(state["records"], total)
    if state["records"] != total:
        raise BadData(
            f"the server says {total} records and gave {state['records']}: the dataset changed meanwhile",
            next_step="run this again with --restart",
        )
    _check_unique(part)
    fsync_path(part)
    write_json(output.with_name(f"{output.name}.settings.json"), settings)
    replace(part, output)
    state_path.unlink(missing_ok=True)
    return int(state["records"])


def _query(config: PullConfig, offset: int) -> dict[str, Any]:
    return {"include": ["responses", "suggestions"], "offset": offset, "limit": config.page_size}


def _settings(server: Server, dataset: dict[str, Any]) -> dict[str, Any]:
    """Return questions and fields in the shape of Argilla's own settings.json."""
    return {
        "guidelines": dataset.get("guidelines"),
        "questions": server.call("GET", f"datasets/{dataset['id']}/questions")["items"],
        "fields": server.call("GET", f"datasets/{dataset['id']}/fields")["items"],
        "distribution": dataset.get("distribution"),
    }


def _resume(
    config: PullConfig, server: Server, dataset: dict[str, Any], part: Path, state_path: Path
) -> dict[str, Any]:
    """Return where an earlier pull of the same dataset stopped, or the beginning."""
    fresh = {"url": server.url, "dataset": dataset["id"], "records": 0, "bytes": 0}
    try:
        state = orjson.loads(state_path.read_bytes())
        same = all(state[key] == fresh[key] for key in ("url", "dataset"))
        whole = part.stat().st_size >= state["bytes"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return fresh
    return dict(state) if same and whole and not config.restart else fresh


def _named(record: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Write the question's name beside its id: a suggestion alone would not say what it is about."""
    for suggestion in record.get("suggestions") or ():
        suggestion["question_name"] = names.get(suggestion.get("question_id"))
    return record


def _check_unique(part: Path) -> None:
    seen: set[str] = set()
    with part.open("rb") as file:
        for line in file:
            own_id = orjson.loads(line)["id"]
            if own_id in seen:
                raise BadData(
                    f"record {own_id} came twice: the dataset changed meanwhile",
                    next_step="run this again with --restart",
                )
            seen.add(own_id)


def _progress(done: int, total: int | None) -> None:
    over = total is not None and done >= total
    if sys.stderr.isatty() or over:
        of = "" if total is None else f" of {total:,}"
        click.echo(f"{done:,}{of} records" + ("\n" if over or not sys.stderr.isatty() else "\r"), err=True, nl=False)
