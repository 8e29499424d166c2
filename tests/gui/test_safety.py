"""An attacker's list: what each item asks for, and that it gets nothing."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from jobs.contract.errors import AiosError, BadConfig
from k8s.gui import launch
from k8s.gui.access import Access, Brake
from k8s.gui.files import inside, safe_name
from k8s.gui.guard import Guard
from k8s.gui.login import Login
from tests import tiny
from tests.gui.panel import Browser, Panel, running
from tests.gui.workspace import publish_verdict

SECRET = "the content of a file outside"
TOKEN = "correct horse battery staple"
SCRIPT = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"
PICTURE = f"<svg xmlns='http://www.w3.org/2000/svg' onload='top.hit=1'><script>top.hit=1</script>{SCRIPT}</svg>"


@pytest.fixture(scope="module")
def lair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that somebody hostile has written to."""
    root = tmp_path_factory.mktemp("lair")
    (root / "secret.txt").write_text(SECRET)
    workspace = root / "workspace"
    tiny.make_splits(workspace / "training_data/curated_datasets/preferences")
    train = workspace / "training_data/curated_datasets/preferences/train.jsonl"
    train.write_bytes(orjson.dumps({"prompt": SCRIPT, "chosen": SCRIPT, "rejected": "{{7*7}}"}) + b"\n")
    run = workspace / "artifacts/runs" / SCRIPT.replace("/", "")
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    rows = [{"prompt": SCRIPT, "policy": SCRIPT, "reference": SCRIPT, "outcome": 1.0}]
    report = orjson.dumps({"verdict": {"sentence": SCRIPT}, "findings": [{"text": SCRIPT}], "device": SCRIPT})
    publish_verdict(workspace / "artifacts/evaluation/evil", report, rows, estimates=PICTURE, margins=SCRIPT)
    (workspace / "artifacts/rm").symlink_to(root)
    (workspace / "artifacts/metrics.jsonl").symlink_to(root / "secret.txt")
    (workspace / "artifacts/plain.txt").write_text("<script>alert(1)</script>")
    return workspace


@pytest.fixture(scope="module")
def panel(lair: Path) -> Iterator[Panel]:
    """A panel without a token, on the loopback address."""
    with running(lair) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(lair: Path) -> Iterator[Panel]:
    """A panel that demands a token."""
    with running(lair, "--token", TOKEN) as server:
        yield server


def _raw(panel: Panel, path: str) -> tuple[int, str]:
    """Ask for a path as it is; ordinary clients would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", panel.port, timeout=20)
    connection.request("GET", path, headers={"Cookie": _cookie(panel)})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def _cookie(panel: Panel) -> str:
    with httpx.Client(base_url=panel.url) as client:
        client.get("/runs")
        return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.txt",
        "/files/artifacts/../../secret.txt",
        "/files/artifacts/%2e%2e/%2e%2e/secret.txt",
        "/files/artifacts/..%2f..%2fsecret.txt",
        "/files//etc/passwd",
        "/files/%2fetc%2fpasswd",
        "/files/artifacts/%00/secret.txt",
        "/files/artifacts/rm/secret.txt",
        "/files/artifacts/metrics.jsonl",
        "/files/artifacts/runs/.panel-key",
        "/files-of/artifacts/rm",
        "/files-of/artifacts/../..",
        "/panel/../server.py",
        "/panel/%2e%2e/server.py",
        "/runs/..%2f..%2fsecret",
        "/verdicts/..%2f..",
        "/data?name=..%2f..%2f..",
    ],
)
def test_no_path_leads_out(panel: Panel, path: str) -> None:
    """Dots, encodings, NUL, absolute paths and links show nothing that lies outside, nor what is hidden."""
    _, said = _raw(panel, path)
    assert SECRET not in said
    assert "root:x:" not in said
    assert "def build" not in said
    assert "secret.txt</" not in said


def test_a_file_is_never_a_page(panel: Panel) -> None:
    """A file of the workspace comes as a download, sandboxed, whatever it holds."""
    with httpx.Client(base_url=panel.url) as client:
        client.get("/runs")
        answer = client.get("/files/artifacts/plain.txt")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_requests_of_other_sites_change_nothing(panel: Panel, lair: Path) -> None:
    """A foreign origin, no origin, no CSRF token, a wrong one: refused, and nothing is written."""
    with httpx.Client(base_url=panel.url) as client:
        client.get("/runs")
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {},
            {"origin": panel.url},
            {"origin": panel.url, "x-csrf-token": "x" * 43},
        ):
            assert client.post("/upload", content=b"x", headers=headers).status_code == 403
    assert not (lair / "training_data/uploads").exists()


def test_a_name_that_resolves_here_is_refused(panel: Panel) -> None:
    """A page of another name that was made to resolve to 127.0.0.1 sees nothing."""
    with httpx.Client(base_url=panel.url) as client:
        assert client.get("/", headers={"host": f"evil.example:{panel.port}"}).status_code == 421


def _websocket(panel: Panel, **headers: str) -> str:
    """Open NiceGUI's websocket by hand and return the first line of the answer."""
    given = {"Host": f"127.0.0.1:{panel.port}", "Origin": panel.url, "Cookie": _cookie(panel)} | headers
    lines = [f"{name}: {value}" for name, value in given.items() if value]
    request = "\r\n".join(
        [
            "GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *lines,
            "\r\n",
        ]
    )
    with socket.create_connection(("127.0.0.1", panel.port), timeout=20) as connection:
        connection.sendall(request.encode())
        return connection.recv(100).decode().split("\r\n")[0]


def test_a_websocket_needs_origin_and_session(panel: Panel) -> None:
    """Ours is let in; one of another origin, without an origin, or without a session is not."""
    assert "101" in _websocket(panel)
    assert "403" in _websocket(panel, Origin="https://evil.example")
    assert "403" in _websocket(panel, Origin="")
    assert "403" in _websocket(panel, Cookie="")
    assert "403" in _websocket(panel, Cookie=f"aios_panel_{panel.port}=forged.1.x")


def test_without_the_token_there_is_only_the_login(guarded: Panel) -> None:
    """Pages lead to the login, the rest is refused; the token opens all of it, and a restart closes nothing."""
    with httpx.Client(base_url=guarded.url) as client:
        for path in ("/", "/runs", "/files/artifacts/plain.txt"):
            assert client.get(path).headers["location"] == "/login"
        assert client.get("/_nicegui_ws/socket.io/?EIO=4&transport=polling").status_code == 401
        assert client.get("/healthz").text == "ok"
        origin = {"origin": guarded.url}
        assert client.post("/login", data={"token": TOKEN}, headers={"origin": "https://evil"}).status_code == 403
        assert client.post("/login", data={"token": TOKEN}, headers=origin).status_code == 303
        assert client.get("/runs").status_code == 200
        guarded.restart()
        assert client.get("/runs").status_code == 200


def test_ten_thousand_bad_tokens_get_nothing() -> None:
    """A few guesses are compared, all others are turned away unread; the right token works after the pause."""
    access = Access(key=b"k" * 32, token=TOKEN)
    login = Login(access)
    gate = Guard(Starlette(routes=[Route("/login", login.enter, methods=["POST"])]), access)

    answers: dict[int, int] = {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answers[message["status"]] = answers.get(message["status"], 0) + 1

    async def guess(number: int) -> None:
        headers = [(b"host", b"panel"), (b"origin", b"http://panel")]
        scope = {"type": "http", "method": "POST", "path": "/login", "headers": headers, "query_string": b""}
        body = {"type": "http.request", "body": f"token=guess-{number}".encode()}

        async def receive() -> Any:
            return body

        await gate(scope | {"scheme": "http", "client": ("10.0.0.7", 1)}, receive, send)

    async def all_of_them() -> None:
        for number in range(10_000):
            await guess(number)

    asyncio.run(all_of_them())
    assert answers[403] <= Brake.FREE + 3
    assert answers[429] == 10_000 - answers[403]
    assert 0 < login.brake.wait_s("10.0.0.7") <= Brake.PAUSE_S
    assert login.brake.wait_s("10.0.0.8") == 0


def test_text_is_never_markup(panel: Panel, browser: Browser) -> None:
    """Scripts in prompts, answers, reports, pictures and a run's name are shown as the characters they are, or not."""
    pages = (("/runs", "unreadable"), ("/data", "onerror"), ("/verdicts/evil", "Answers"), ("/", "Overview"))
    for path, seen in pages:
        browser.open(panel.url + path, seen)
        assert browser.driver.execute_script("return window.hit") is None
    browser.open(f"{panel.url}/data", SCRIPT)
    assert "{{7*7}}" in browser.text()
    assert browser.driver.execute_script("return window.hit") is None


def test_nothing_is_fetched_from_elsewhere(panel: Panel, browser: Browser) -> None:
    """Every request of a page goes to the panel itself."""
    browser.open(f"{panel.url}/", "Overview")
    script = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert [u for u in browser.driver.execute_script(script) if not u.startswith((panel.url, "data:"))] == []


def test_read_only_changes_nothing(lair: Path, browser: Browser) -> None:
    """A read-only panel offers no start, and refuses one that is asked for anyway."""
    with running(lair, "--read-only") as server:
        browser.open(f"{server.url}/", "read-only")
        assert "Run pipeline" not in browser.text()
        browser.open(f"{server.url}/start", "starts none")
        with httpx.Client(base_url=server.url) as client:
            client.get("/runs")
            assert client.post("/upload", content=b"x", headers={"origin": server.url}).status_code == 403


@pytest.mark.parametrize(
    "args",
    [
        {"base_model": "../secret"},
        {"base_model": "/etc"},
        {"deepspeed": "/etc/passwd"},
        {"resume": "../../elsewhere"},
        {"output_dir": "/tmp/elsewhere"},
    ],
)
def test_a_run_stays_in_the_workspace(workspace: Path, args: dict[str, Any]) -> None:
    """A run whose settings name a place outside is refused before it starts."""
    form = launch.Form(kind="rm", dataset="preferences", args={"rm": args})
    with pytest.raises(BadConfig, match="leads out of the workspace"):
        launch.compose(form, "x")


def test_names_of_uploads_are_tamed(workspace: Path) -> None:
    """A file's name keeps its letters and loses its paths."""
    assert safe_name("../../etc/passwd") == "passwd"
    assert safe_name("C:\\exports\\a b.jsonl") == "a_b.jsonl"
    assert safe_name(".hidden") == "hidden"
    assert safe_name("") == "export.jsonl"


def test_inside_means_inside(workspace: Path) -> None:
    """Only training_data/ and artifacts/ are the panel's, by their real paths."""
    (workspace / "artifacts").mkdir()
    assert inside("artifacts/rm/x") == workspace / "artifacts/rm/x"
    for path in ("x", "..", "/", "artifacts/../x", "artifacts/.x", "a\0b"):
        with pytest.raises(AiosError):
            inside(path)


def test_sessions_are_signed() -> None:
    """A session of another key, a changed one and an old one are worth nothing."""
    access = Access(key=b"k" * 32)
    session = access.new_session()
    assert access.valid(session)
    assert not Access(key=b"x" * 32).valid(session)
    assert not access.valid(session[:-1] + "x")
    assert not access.valid("")
    assert not access.valid("a.b.c")


def test_two_uploads_at_once(panel: Panel, lair: Path) -> None:
    """Two people who upload a file of one name at the same instant get two answers and never a mixture."""

    async def both() -> list[int]:
        async with httpx.AsyncClient(base_url=panel.url) as client:
            page = await client.get("/ingest")
            token = page.text.split("panelUpload(e.target, '")[1].split("'")[0]
            headers = {"origin": panel.url, "x-csrf-token": token, "x-file-name": "a.jsonl"}
            bodies = [letter.encode() * 300_000 for letter in "ab"]
            answers = await asyncio.gather(*(client.post("/upload", content=b, headers=headers) for b in bodies))
            return [answer.status_code for answer in answers]

    assert asyncio.run(both()) == [200, 200]
    contents = [path.read_bytes() for path in (lair / "training_data/uploads").iterdir()]
    assert all(len(content) == 300_000 and len(set(content)) == 1 for content in contents)
