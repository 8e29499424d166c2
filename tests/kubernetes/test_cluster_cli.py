"""`aios jobs` against a real cluster: submit, watch, stop, resume, files, doctor."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.manifest import verify
from tests.kubernetes.cluster import SAMPLE, Space, kubectl, new_space, until
from tests.kubernetes.played import make_runs
from tests.kubernetes.rendering import helm
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
    took = []
    for name in ("two", "three", "four", "five", "one"):
        began = time.monotonic()
        cli("jobs", "submit", *options(space, values), "--name", name, f"--set=run.dataset={name}",
            f"--set=steps.fetch-model.args.output_dir=artifacts/base/{name}",
            f"--set=steps.ingest.args.output=training_data/curated_datasets/{name}")  # fmt: skip
        took.append(time.monotonic() - began)
        space.releases.append(name)
        assert "succeeded" in cli("jobs", "status", name, "-n", space.namespace, "--wait")
    print(f"\nsubmit returned after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    assert sorted(took)[2] < 3
    where = ["-n", space.namespace]
    assert "one: succeeded" in cli("jobs", "status", "one", *where, "--wait")
    lines = cli("jobs", "logs", "one", *where)
    assert "fetch-model  | Published" in lines
    assert "ingest       | " in lines
    kubectl("-n", space.namespace, "delete", "pods", "-l", "aios-alignment/step")
    assert "Published" in cli("jobs", "logs", "one", *where) or "published" in cli("jobs", "logs", "one", *where)
    assert "one: succeeded" in cli("jobs", "status", "one", *where)


def shown(cli: Cli, run: str, where: list[str]) -> dict[str, Any]:
    """Return what `status --json` says."""
    document: dict[str, Any] = orjson.loads(cli("jobs", "status", run, *where, "--json"))
    return document


def ends(cli: Cli, run: str, where: list[str], phase: str = "succeeded") -> dict[str, dict[str, Any]]:
    """Wait until a run has come to a phase; returns its steps."""
    until(lambda: shown(cli, run, where)["ended"], 900, 2)
    assert shown(cli, run, where)["phase"] == phase
    return {step["name"]: step for step in shown(cli, run, where)["steps"]}


def test_stop_saves_and_resume_goes_on(space: Space, tmp_path: Path) -> None:
    """`stop` lets the training pod save a checkpoint, nothing starts meanwhile, `resume` ends in a published model."""
    space.values_folder.mkdir(exist_ok=True)
    training = ["steps.rm.args.max_steps=120", "steps.rm.args.save_steps=500", "steps.rm.args.batch_size=2"]
    values = space.values("s", *training, "steps.dpo.enabled=false", "steps.evaluation.enabled=false")
    cli, where = Cli(tmp_path), ["-n", space.namespace]
    cli("jobs", "submit", *options(space, values))
    space.releases.append("s")
    metrics = space.folder / "artifacts/rm/s/metrics.jsonl"
    until(lambda: metrics.exists() and b'"step":20' in metrics.read_bytes(), 300)
    cli("jobs", "stop", "s", *where)
    ends(cli, "s", where, "stopped")
    status = space.folder / "artifacts/runs/s/steps/rm/attempt-1/status.json"
    assert orjson.loads(status.read_bytes())["exit_code"] == 75  # stopped is said when the checkpoint stands
    cli("jobs", "resume", "s", *where)
    ends(cli, "s", where)
    assert verify(space.folder / "artifacts/rm/s", step="rm")
    steps = [row["step"] for row in map(orjson.loads, metrics.read_bytes().splitlines()) if row["kind"] == "train"]
    assert steps == sorted(set(steps))


def failing(space: Space, name: str) -> Path:
    """Write the values of a run whose second step wants a model that is not there yet."""
    space.values_folder.mkdir(exist_ok=True)
    return space.values(name, *quick(name), "steps.fetch-model.args.model=artifacts/base/late")


def bring_model(space: Space) -> None:
    """Put the model there that the second step wants, for the pods' user."""
    late = space.folder / "artifacts/base/late"
    shutil.copytree(space.folder / "artifacts/base/tiny", late)
    for path in [late, *late.iterdir()]:
        os.chown(path, 10001, 10001)


def test_resume_after_a_failure_installs_a_successor(space: Space, tmp_path: Path) -> None:
    """A run that failed for good goes on as RUN-r2, then RUN-r3, on the same folders; what was done is skipped."""
    cli, where = Cli(tmp_path), ["-n", space.namespace]
    said = cli("jobs", "submit", *options(space, failing(space, "f")), "--follow", code=None)
    space.releases += ["f", "f-r2", "f-r3"]
    assert "artifacts/base/late" in said
    assert "artifacts/base/late" in cli("jobs", "resume", "f", *where, "--follow", code=None)
    bring_model(space)
    cli("jobs", "resume", "f", *where)
    steps = ends(cli, "f", where)
    assert (steps["ingest"]["state"], steps["fetch-model"]["state"]) == ("already done", "succeeded")
    assert steps["ingest"]["pod"].startswith("f-r3-ingest-")
    assert "Published" in cli("jobs", "logs", "f", *where)


def test_resume_after_an_uninstall_takes_the_values_from_the_claim(space: Space, tmp_path: Path) -> None:
    """With its releases gone a run goes on from what it left on the claim; a name that nobody knows is refused."""
    cli, values = Cli(tmp_path), failing(space, "u")
    where = options(space, values)
    cli("jobs", "submit", *where, "--follow", code=None)
    space.releases.append("u")
    helm("uninstall", "u", "--namespace", space.namespace)
    bring_model(space)
    until(lambda: not space.api.get(space.api.path("configmaps"), labelSelector="aios-alignment/run")["items"])
    assert "aios jobs resume u" in cli("jobs", "status", "u", *where, code=64)
    cli("jobs", "resume", "u", *where)
    steps = ends(cli, "u", where)
    assert (steps["ingest"]["state"], steps["fetch-model"]["state"]) == ("already done", "succeeded")
    assert "knows a run nobody" in cli("jobs", "resume", "nobody", *where, code=64)


@pytest.mark.parametrize("isolation", ["none", "run"])
def test_lineage_is_checked_where_the_claim_is(space: Space, tmp_path: Path, isolation: str) -> None:
    """`lineage` names what a run's results were made from; a published file that was changed since ends with 66."""
    cli, values = Cli(tmp_path), quick_values(space, "l")
    root = space.folder / "isolated/l" if isolation == "run" else space.folder
    for folder in (root / "artifacts", root / "training_data"):  # a host path has no fsGroup to do this
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, 10001, 10001)
    where = options(space, values)
    cli("jobs", "submit", *where, "--input", str(SAMPLE), f"--set=workspace.isolation={isolation}")
    space.releases.append("l")
    ends(cli, "l", where)
    said = cli("jobs", "lineage", "l", *where)
    assert "✔ ingest  training_data/curated_datasets/l" in said
    links = orjson.loads(cli("jobs", "lineage", "l", *where, "--json"))
    assert {link["step"]: link["problem"] for link in links} == {"ingest": "", "fetch-model": ""}
    with (root / "training_data/curated_datasets/l/train.jsonl").open("ab") as file:
        file.write(b"{}\n")
    assert "✘ ingest" in cli("jobs", "lineage", "l", *where, code=66)


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


def _has(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size > size


def test_an_upload_that_was_killed_goes_on(space: Space, tmp_path: Path) -> None:
    """`upload` killed again and again while it sends 60 MB: what has arrived is not sent again, the file is whole."""
    values, cli = quick_values(space, "k"), Cli(tmp_path)
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(60_000_000))
    part = space.folder / "training_data/.big.bin.part"
    sizes: list[int] = []
    for _ in range(3):
        process = cli.start("jobs", "upload", str(source), *options(space, values))
        wanted = (sizes[-1] if sizes else 0) + 1_000_000
        until(partial(_has, part, wanted), 120, 0.01)
        process.kill()
        process.wait()
        time.sleep(2)  # kubectl, now nobody's child, sends what it has
        if not part.exists():
            break
        sizes.append(part.stat().st_size)
    print(f"\nkilled with {sizes} bytes there")
    assert sizes == sorted(set(sizes))
    cli("jobs", "upload", str(source), *options(space, values))
    assert (space.folder / "training_data/big.bin").read_bytes() == source.read_bytes()


def test_an_upload_does_not_touch_what_a_live_run_uses(space: Space, tmp_path: Path) -> None:
    """A file of the data set of a run that has not ended is refused; beside it one is taken."""
    values, cli = quick_values(space, "live"), Cli(tmp_path)
    where = options(space, values)
    make_runs(space.api, ["played"])
    (tmp_path / "x.jsonl").write_text("{}\n")
    target = "training_data/curated_datasets/played/train.jsonl"
    said = cli("jobs", "upload", "x.jsonl", target, *where, code=74)
    assert "is used by the run played" in said
    assert "1 files sent" in cli("jobs", "upload", "x.jsonl", "training_data/y.jsonl", *where)


def test_doctor_names_what_is_missing(space: Space, tmp_path: Path) -> None:
    """Doctor passes where a run works and ends with 78, the place and the remedy where it does not."""
    space.values_folder.mkdir(exist_ok=True)
    values, cli = quick_values(space, "d"), Cli(tmp_path)
    fine = cli("jobs", "doctor", *options(space, values))
    assert "problem" not in fine
    for part in ("Kubernetes v1.", "helm v", "you may install runs", "claim aios-workspace", "1 of 1 nodes fit",
                 "all images are on a node", "accepts every object of the run and every pod", "GB free"):  # fmt: skip
        assert part in fine, part
    hub = ["--set=steps.fetch-model.hub=true", "--set=steps.fetch-model.env.HF_ENDPOINT=https://hub.invalid"]
    assert "the hub does not answer from inside the cluster" in cli(
        "jobs", "doctor", *options(space, values), *hub, code=78
    )
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"count/jobs.batch": "1"}},
    }
    space.api.create(space.api.path("resourcequotas"), quota)
    until(lambda: space.api.get(space.api.path("resourcequotas", "few")).get("status", {}).get("hard"))
    said = cli("jobs", "doctor", *options(space, values), code=78)
    assert "the quota few leaves 1 of count/jobs.batch, the run needs 3" in said
    space.api.delete(space.api.path("resourcequotas", "few"))
    secret = '--set=steps.fetch-model.secrets=[{"env": "HF_TOKEN", "secret": "hub", "key": "token"}]'
    said = cli("jobs", "doctor", *options(space, values), secret, code=78)
    assert "the key token of the Secret hub, which is not there" in said
    assert "kubectl -n" in said
    wrong = cli("jobs", "doctor", *options(space, values), "--set=image.tag=none", code=78)
    assert "no node has localhost/aios-alignment/ingest:none" in wrong
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
