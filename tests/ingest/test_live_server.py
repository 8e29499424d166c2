"""Pull and push against the real argilla-server package over HTTP; only its search index is replaced.

The server wants other versions of our libraries, so it runs in an interpreter of its own: AIOS_ARGILLA_PYTHON, else
this one if it has the package (`pip install 'argilla-server==2.8.0' 'click<8.2' 'fakeredis[lua]'`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.config.argilla import PullConfig, PushConfig
from jobs.contract.errors import BadConfig, BadData, NotAuthorised, ServiceDown
from jobs.ingest.pull import pull
from jobs.ingest.push import push, read_records
from jobs.ingest.rest import Server
from tests.ingest.helpers import lines, run, write_lines

KEY = "owner.apikey"
PYTHON = os.environ.get("AIOS_ARGILLA_PYTHON", sys.executable)
Aios = Callable[..., int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server with one owner and one workspace, `argilla`."""
    if subprocess.run([PYTHON, "-c", "import argilla_server, fakeredis"], capture_output=True, check=False).returncode:
        pytest.skip("argilla-server is not installed; set AIOS_ARGILLA_PYTHON to an interpreter that has it")
    home = tmp_path_factory.mktemp("argilla")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("live_argilla.py")
    with (home / "log").open("wb") as log:
        command = [PYTHON, str(script), str(port), str(home), KEY]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": ""})
    try:
        for _ in range(480):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (home / "log").read_text()[-2000:]
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", KEY)


def pairs(folder: Path, count: int = 7) -> Path:
    rows = [
        {"id": f"p{i}", "prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)
    ]
    return write_lines(folder / "pairs.jsonl", rows)


def pushed(url: str, name: str, folder: Path, count: int = 7) -> PushConfig:
    config = PushConfig(url=url, dataset=name, workspace="argilla", input=str(pairs(folder, count)), page_size=3)
    assert push(config, Server(config), list(read_records(config))) == count
    return config


def answer(url: str, dataset: str, votes: dict[str, str]) -> None:
    """Submit answers as the interface does."""
    client = Server(PullConfig(url=url, dataset=dataset, output="x"))
    found = client.find_dataset()
    assert found is not None
    for record in client.call("GET", f"datasets/{found['id']}/records")["items"]:
        if record["external_id"] in votes:
            body = {"values": {"preference": {"value": votes[record["external_id"]]}}, "status": "submitted"}
            client.call("POST", f"records/{record['id']}/responses", body=body)


@pytest.mark.usefixtures("key")
def test_push_answer_pull_ingest_round_trip(server: str, tmp_path: Path) -> None:
    """Pairs go out blind, people answer, the pull brings everything back, and ingestion reads it."""
    config = pushed(server, "second-look", tmp_path)
    sent = {record["external_id"]: record["fields"] for record in read_records(config)}
    assert {fields["response_a"].split()[0] for fields in sent.values()} == {"good", "bad"}
    answer(server, "second-look", {"p0": "response_a", "p1": "response_b", "p2": "tie"})
    output = tmp_path / "export.jsonl"
    settings = PullConfig(url=server, dataset="second-look", output=str(output), page_size=2)
    assert pull(settings, Server(settings)) == 7
    result = run(tmp_path / "out", output)
    assert result.counts == {"no_response": 4, "tie": 1}
    chosen = {meta["id"]: row["chosen"] for row, meta in result.kept}
    assert chosen == {"p0": sent["p0"]["response_a"], "p1": sent["p1"]["response_b"]}
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".export")} == set()


@pytest.mark.usefixtures("key")
def test_pushing_again_replaces_and_adds_nothing(server: str, tmp_path: Path) -> None:
    """A record is known by its id."""
    pushed(server, "again", tmp_path)
    pushed(server, "again", tmp_path)
    settings = PullConfig(url=server, dataset="again", output=str(tmp_path / "x.jsonl"))
    assert pull(settings, Server(settings)) == 7


@pytest.mark.usefixtures("key")
def test_pull_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    """The server goes away after the second page; the next pull asks for the third, and nothing comes twice."""
    pushed(server, "long", tmp_path, count=9)
    settings = PullConfig(url=server, dataset="long", output=str(tmp_path / "x.jsonl"), page_size=2, retries=0)
    asked: list[int] = []

    class Dying(Server):
        def call(self, method: str, path: str, query: Any = None, body: Any = None) -> Any:
            if query:
                asked.append(query["offset"])
                if len(asked) == 3:
                    raise ServiceDown("gone")
            return super().call(method, path, query, body)

    with pytest.raises(ServiceDown):
        pull(settings, Dying(settings))
    assert not (tmp_path / "x.jsonl").exists()
    assert pull(settings, Dying(settings)) == 9
    assert asked == [0, 2, 4, 4, 6, 8]
    ids = [row["external_id"] for row in lines(tmp_path / "x.jsonl")]
    assert sorted(ids) == [f"p{i}" for i in range(9)]


def test_wrong_key_and_missing_dataset(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aios: Aios
) -> None:
    """Exit 77 for a key that is refused, 65 for a dataset that does not exist."""
    output = ("--url", server, "--dataset", "nowhere", "--output", tmp_path / "x.jsonl")
    monkeypatch.setenv("ARGILLA_API_KEY", "wrong")
    assert aios("data", "argilla-pull", *output) == 77
    (tmp_path / "key").write_text(KEY + "\n")
    assert aios("data", "argilla-pull", *output, "--api-key-file", tmp_path / "key") == 65


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is made before there is a key."""
    monkeypatch.delenv("ARGILLA_API_KEY", raising=False)
    with pytest.raises(NotAuthorised, match="ARGILLA_API_KEY"):
        Server(PullConfig(url="http://localhost:1", dataset="d", output="x"))


@pytest.mark.usefixtures("key")
def test_server_that_is_away_is_asked_again_with_growing_pauses() -> None:
    """Retries double their pause, then exit 69 with what to do."""
    pauses: list[float] = []
    client = Server(PullConfig(url="http://127.0.0.1:9", dataset="d", output="x", retries=4), sleep=pauses.append)
    with pytest.raises(ServiceDown, match="tried 5 times"):
        client.find_dataset()
    assert len(pauses) == 4
    assert all(0.25 * 2**i <= pause <= 0.5 * 2**i for i, pause in enumerate(pauses))


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("url", ["localhost:6900", "file:///etc/passwd", "ftp://x"])
def test_only_web_addresses_are_spoken_to(url: str) -> None:
    """Anything but http and https is refused."""
    with pytest.raises(BadConfig):
        Server(PullConfig(url=url, dataset="d", output="x"))


def test_push_refuses_lines_that_are_no_pairs(tmp_path: Path) -> None:
    """A line without answers is named before anything is sent."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(orjson.dumps({"prompt": "p", "chosen": "c", "rejected": "r"}) + b'\n{"prompt": "p"}\n')
    with pytest.raises(BadData, match="line 2"):
        list(read_records(PushConfig(url="http://x", dataset="d", input=str(path))))
