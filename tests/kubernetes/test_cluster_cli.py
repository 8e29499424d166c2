"""`aios jobs` against a real cluster: submit, watch, stop, resume, files, doctor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from jobs.contract.manifest import verify
from tests.kubernetes.cluster import Space, kubectl, new_space, until
from tests.kubernetes.test_cluster import quick
from tests.runs.helpers import Cli

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path / "values") as made:
        yield made


def options(space: Space, values: Path) -> list[str]:
    """Return what points a command at the namespace."""
    return ["--profile", str(values), "-n", space.namespace]


def quick_values(space: Space, name: str) -> Path:
    """Write the values of a run of two quick steps, without its name."""
    space.values_folder.mkdir(exist_ok=True)
    return space.values(name, *quick(name))


def test_submit_watch_and_read_from_elsewhere(space: Space, tmp_path: Path) -> None:
    """`submit` returns in under 3 s, another folder with only the kubeconfig follows and reads, also after the pods."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cli, values = Cli(elsewhere), quick_values(space, "one")
    began = time.monotonic()
    cli("jobs", "submit", *options(space, values))
    took = time.monotonic() - began
    space.releases.append("one")
    assert took < 3, f"submit took {took:.1f} s"
    where = ["-n", space.namespace]
    assert "one: succeeded" in cli("jobs", "status", "one", *where, "--wait")
    lines = cli("jobs", "logs", "one", *where)
    assert "fetch-model  | Published" in lines
    assert "ingest       | " in lines
    kubectl("-n", space.namespace, "delete", "pods", "-l", "aios-alignment/step")
    assert "Published" in cli("jobs", "logs", "one", *where) or "published" in cli("jobs", "logs", "one", *where)
    assert "one: succeeded" in cli("jobs", "status", "one", *where)


def test_stop_saves_and_resume_goes_on(space: Space, tmp_path: Path) -> None:
    """`stop` lets the training pod save a checkpoint, nothing starts meanwhile, `resume` ends in a published model."""
    space.values_folder.mkdir(exist_ok=True)
    training = ["steps.rm.args.max_steps=400", "steps.rm.args.save_steps=50", "steps.rm.args.batch_size=2"]
    values = space.values("s", *training, "steps.dpo.enabled=false", "steps.evaluation.enabled=false")
    cli, where = Cli(tmp_path), ["-n", space.namespace]
    cli("jobs", "submit", *options(space, values))
    space.releases.append("s")
    metrics = space.folder / "artifacts/rm/s/metrics.jsonl"
    until(lambda: metrics.exists() and b'"step":20' in metrics.read_bytes(), 300)
    cli("jobs", "stop", "s", *where)
    status = space.folder / "artifacts/runs/s/steps/rm/attempt-1/status.json"
    until(lambda: orjson.loads(status.read_bytes())["exit_code"] == 75, 120)
    until(lambda: "s: stopped" in cli("jobs", "status", "s", *where), 60)
    cli("jobs", "resume", "s", *where)
    assert "s: succeeded" in cli("jobs", "status", "s", *where, "--wait")
    assert verify(space.folder / "artifacts/rm/s", step="rm")


def test_resume_after_a_failure_installs_a_successor(space: Space, tmp_path: Path) -> None:
    """A run that failed for good goes on as RUN-r2 on the same folders: what was finished is not done again."""
    space.values_folder.mkdir(exist_ok=True)
    name = "f"
    settings = [*quick(name), "steps.ingest.args.input=[training_data/late.jsonl]"]
    values = space.values(name, *settings)
    text = values.read_text().replace("training_data/sample/argilla_export.jsonl", "training_data/late.jsonl")
    values.write_text(text)
    cli, where = Cli(tmp_path), ["-n", space.namespace]
    said = cli("jobs", "submit", *options(space, values), "--follow", code=None)
    space.releases += [name, f"{name}-r2"]
    assert "late.jsonl" in said
    late = space.folder / "training_data" / "late.jsonl"
    late.write_bytes((space.folder / "training_data/sample/argilla_export.jsonl").read_bytes())
    cli("jobs", "resume", name, *where, "--follow")
    steps = {step["name"]: step for step in orjson.loads(cli("jobs", "status", name, *where, "--json"))["steps"]}
    assert steps["fetch-model"]["state"] == "already done"
    assert steps["ingest"]["state"] == "succeeded"


def test_files_come_and_go_whole(space: Space, tmp_path: Path) -> None:
    """A folder sent and fetched is the same, twice costs nothing, an interrupted upload goes on, damage is refused."""
    space.values_folder.mkdir(exist_ok=True)
    values, cli = space.values("x"), Cli(tmp_path)
    source = tmp_path / "folder"
    (source / "deep").mkdir(parents=True)
    (source / "big.bin").write_bytes(bytes(range(256)) * 40_000)
    (source / "deep" / "ümlaut.txt").write_text("text")
    where = options(space, values)
    assert "2 files sent" in cli("jobs", "upload", str(source), "training_data/in", *where)
    assert "is there already" in cli("jobs", "upload", str(source), "training_data/in", *where)
    part = space.folder / "training_data" / ".again.bin.part"
    part.write_bytes((source / "big.bin").read_bytes()[:1_000_000])
    part.chmod(0o666)
    assert "1 files sent" in cli("jobs", "upload", str(source / "big.bin"), "training_data/again.bin", *where)
    assert "2 files fetched" in cli("jobs", "download", "training_data/in", "back", *where)
    for path in ("big.bin", "deep/ümlaut.txt"):
        assert (tmp_path / "back" / path).read_bytes() == (source / path).read_bytes()
    assert (space.folder / "training_data/again.bin").read_bytes() == (source / "big.bin").read_bytes()
    assert "outside" in cli("jobs", "download", "../../etc/passwd", *where, code=65)
    until(lambda: not space.pods("aios-alignment/kind=files"), 60)


def test_doctor_names_what_is_missing(space: Space, tmp_path: Path) -> None:
    """Doctor passes where a run works and ends with 78, the place and the remedy where it does not."""
    space.values_folder.mkdir(exist_ok=True)
    values, cli = space.values("d"), Cli(tmp_path)
    assert "problem" not in cli("jobs", "doctor", *options(space, values))
    said = cli("jobs", "doctor", *options(space, values), "--set=workspace.claim=nope", code=78)
    assert "no claim nope" in said
    said = cli("jobs", "doctor", "--profile", "gpu", "-n", space.namespace, code=78)
    assert "nvidia.com/gpu" in said
    assert "does not exist" in cli("jobs", "doctor", "--profile", "gpu", "-n", "no-such-namespace", code=78)


def test_a_missing_kubeconfig_and_a_dead_server_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster every command says so and what to do."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    said = Cli(tmp_path)("jobs", "status", "x", "-n", "y", code=78)
    assert "no kubeconfig" in said
    assert said.count("\n") == 1
    config = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a}}]\n"
    config += "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n"
    (tmp_path / "dead").write_text(config)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "dead"))
    said = Cli(tmp_path)("jobs", "status", "x", "-n", "y", code=69)
    assert "does not answer" in said
