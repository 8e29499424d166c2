"""Runs on this machine, end to end, with real processes that are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import psutil
import pytest

from jobs.contract.attempts import read_status
from jobs.contract.lock import process_started
from k8s.machine.store import Run
from tests.runs.helpers import FETCH, ONLY_FETCH, Cli, make_source, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops and kills with POSIX signals")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line in a workspace with a source for fetch-model."""
    make_source(tmp_path)
    return Cli(tmp_path)


def conductor_pid(cli: Cli, run: str) -> int:
    """Return the pid of a run's conductor once it has written its state."""
    path = cli.workspace / "artifacts/runs" / run / "state.json"
    until(path.exists)
    return int(orjson.loads(path.read_bytes())["conductor"]["pid"])


def pause_step(cli: Cli, run: str, step: str, number: int = 1) -> psutil.Process:
    """Wait until a step's process exists and freeze it, so that the test has all the time it needs."""
    status = until(lambda: (s := read_status(cli.attempt(run, step, number))).get("pid") and s)
    process = psutil.Process(status["pid"])
    process.suspend()
    return process


def test_submit_follow_runs_to_the_end(cli: Cli) -> None:
    """`submit --follow` shows each step, ends with the run, and leaves status, logs and lineage behind."""
    said = cli("jobs", "submit", "--name", "one", *FETCH, *ONLY_FETCH, "--follow")
    assert "fetch-model: succeeded" in said
    assert cli("jobs", "status", "one", "--wait").startswith("one: succeeded\nfetch-model: succeeded")
    assert "Published" in cli("jobs", "logs", "one")
    document = orjson.loads((cli.workspace / "artifacts/runs/one/run.json").read_bytes())
    assert document["lineage"]["fetch-model"]["output"] == "artifacts/base/source"
    assert len(document["lineage"]["fetch-model"]["manifest_sha256"]) == 64
    assert document["versions"]["python"]


def test_a_failed_step_skips_the_rest_and_gives_its_code(cli: Cli) -> None:
    """A step that cannot work is not tried again, what needs it is skipped, and the code reaches the terminal."""
    arguments = ["--name", "bad", "--input", "nowhere.jsonl", "--set=steps.dpo.enabled=false"]
    said = cli("jobs", "submit", *arguments, "--follow", code=None)
    status = cli.status("bad")
    steps = {step["name"]: step for step in status["steps"]}
    assert steps["ingest"]["state"] == "failed"
    assert steps["ingest"]["attempt"] == 1
    assert steps["rm"]["state"] == steps["evaluation"]["state"] == "skipped"
    assert status["exit_code"] == steps["ingest"]["exit_code"] != 0
    assert steps["ingest"]["message"] in said


def test_a_run_outlives_its_conductor(cli: Cli) -> None:
    """A killed conductor is replaced by `resume`, which adopts the running step: it ran once."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH)
    step = pause_step(cli, "r", "fetch-model")
    os.kill(conductor_pid(cli, "r"), signal.SIGKILL)
    until(lambda: cli.status("r")["phase"] == "abandoned")
    assert "running" in cli("jobs", "resume", "r")
    step.resume()
    cli("jobs", "status", "r", "--wait")
    assert cli.status("r")["steps"][0]["attempt"] == 1


def test_a_conductor_that_is_slow_to_start_is_not_taken_for_dead(tmp_path: Path) -> None:
    """However long ago it was started: while its process lives and has written nothing, the run is not abandoned."""
    run = Run(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = {"pid": child.pid, "started": process_started(child.pid)}
    run.change_control(conductor_started_at=time.time() - 600, conductor=who)
    assert run.newborn()
    child.kill()
    child.wait()
    assert not run.newborn()


def test_a_killed_supervisor_costs_an_attempt_but_nothing_runs_twice(cli: Cli) -> None:
    """The attempt counts as died once its process is gone; only then the next one starts."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH)
    step = pause_step(cli, "r", "fetch-model")
    first = cli.attempt("r", "fetch-model")
    os.kill(read_status(first)["supervisor"]["pid"], signal.SIGKILL)
    time.sleep(1.5)
    assert not cli.attempt("r", "fetch-model", 2).exists(), "a second attempt beside a process that lives"
    step.resume()
    cli("jobs", "status", "r", "--wait")
    assert read_status(first)["message"].startswith("its supervisor was killed")
    assert cli.status("r")["steps"][0]["attempt"] == 2


def test_a_killed_step_is_tried_again(cli: Cli) -> None:
    """kill -9 of the step itself is an internal failure, which is retried."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH)
    pause_step(cli, "r", "fetch-model").kill()
    cli("jobs", "status", "r", "--wait")
    assert read_status(cli.attempt("r", "fetch-model"))["exit_code"] == 70
    assert cli.status("r")["steps"][0]["state"] == "succeeded"


def test_retries_end_at_the_backoff_limit(cli: Cli) -> None:
    """With a limit of one retry, two deaths fail the step with its code."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, "--set=steps.fetch-model.backoffLimit=1")
    pause_step(cli, "r", "fetch-model", 1).kill()
    pause_step(cli, "r", "fetch-model", 2).kill()
    cli("jobs", "status", "r", "--wait", code=70)
    assert not cli.attempt("r", "fetch-model", 3).exists()


def test_stop_and_resume(cli: Cli) -> None:
    """`stop` ends the active step without counting it as a failure, `resume` goes on from there."""
    limit = "--set=steps.fetch-model.backoffLimit=0"
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, limit)
    step = pause_step(cli, "r", "fetch-model")
    assert "resume" in cli("jobs", "stop", "r")
    step.resume()
    cli("jobs", "status", "r", "--wait", code=75)
    assert cli.status("r")["steps"][0]["state"] == "stopped"
    cli("jobs", "resume", "r", "--follow")
    assert cli.status("r")["phase"] == "succeeded"


def test_resume_after_a_failure_tries_again(cli: Cli) -> None:
    """What failed for good is forgiven by `resume`; its cause having gone, the run succeeds."""
    source = cli.workspace / "models"
    source.rename(cli.workspace / "elsewhere")
    limit = "--set=steps.fetch-model.backoffLimit=0"
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, limit, "--follow", code=None)
    assert cli.status("r")["phase"] == "failed"
    (cli.workspace / "elsewhere").rename(source)
    cli("jobs", "resume", "r", "--follow")
    assert cli.status("r")["steps"][0]["attempt"] >= 2


def test_a_stopped_run_stops_without_its_conductor(cli: Cli) -> None:
    """`stop` reaches the step by itself when the conductor is dead."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH)
    step = pause_step(cli, "r", "fetch-model")
    os.kill(conductor_pid(cli, "r"), signal.SIGKILL)
    cli("jobs", "stop", "r")
    step.resume()
    until(lambda: cli.status("r")["phase"] == "stopped")


def test_a_folder_that_a_live_run_uses_is_not_written_by_another(cli: Cli) -> None:
    """A second run that would publish into a live run's folder is refused; after its end it is not."""
    cli("jobs", "submit", "--name", "first", *FETCH, *ONLY_FETCH)
    step = pause_step(cli, "first", "fetch-model")
    said = cli("jobs", "submit", "--name", "second", *FETCH, *ONLY_FETCH, code=74)
    assert "artifacts/base/source is used by the run first" in said
    assert said.count("\n") == 1
    step.resume()
    cli("jobs", "status", "first", "--wait")
    cli("jobs", "submit", "--name", "second", *FETCH, *ONLY_FETCH, "--follow")
    assert cli.status("second")["steps"][0]["state"] == "already done"


def test_ctrl_c_detaches(cli: Cli) -> None:
    """Ctrl-C on a follower leaves the run alone and says how to come back."""
    # A shell starts what is in the background with Ctrl-C ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = cli.start("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, "--follow")
    step = pause_step(cli, "r", "fetch-model")
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "aios jobs status r --watch" in out + err
    step.resume()
    cli("jobs", "status", "r", "--wait")


def test_a_name_is_used_once(cli: Cli) -> None:
    """A second run of the same name is refused with what to do instead."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, "--follow")
    assert "aios jobs resume r" in cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, code=64)


def test_logs_follow_over_attempts(cli: Cli) -> None:
    """`logs -f` prints what all attempts write until the run ends, each line once."""
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH)
    pause_step(cli, "r", "fetch-model").kill()
    lines = cli("jobs", "logs", "r", "-f").splitlines()
    published = [line for line in lines if "Published" in line]
    assert len(published) == 1
    assert published[0].startswith("fetch-model#2")


def test_unknown_runs_and_steps_are_named(cli: Cli) -> None:
    """A name that is not there is one line that lists what is."""
    assert "no runs" in cli("jobs", "status", code=64)
    cli("jobs", "submit", "--name", "r", *FETCH, *ONLY_FETCH, "--follow")
    assert "needed: r" in cli("jobs", "status", "x", code=64)
    assert "needed: fetch-model" in cli("jobs", "logs", "r", "--step", "rm", code=64)
