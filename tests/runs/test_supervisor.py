"""The supervisor with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.attempts import read_status
from jobs.contract.lock import process_alive
from jobs.supervisor.memory import Memory, Shortage
from jobs.supervisor.outcome import Outcome, judge
from jobs.supervisor.process import real_command
from jobs.supervisor.progress import Watchdog

REPOSITORY = Path(__file__).resolve().parents[2]
ATTEMPT = Path("artifacts/runs/r/steps/s/attempt-1")
PUBLISH = """
import os, sys
from pathlib import Path
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import Manifest
from jobs.contract.publish import attempt_id, publish_whole, staging
folder = Path("out")
with FolderLock(folder, attempt=attempt_id()) as lock, staging(folder, lock) as staged:
    (staged / "x").write_text("result")
    publish_whole(folder, staged, Manifest(step="s", attempt=attempt_id(), inputs={}, config={}, files=[]), lock)
"""


def start(workspace: Path, code: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a supervisor over a Python one-liner."""
    own = {"AIOS_RUN": "r", "AIOS_STEP": "s", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.supervisor", "--", sys.executable, "-c", code],
        cwd=workspace,
        env=os.environ | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(workspace: Path, code: str, **environment: str) -> tuple[int, dict[str, Any], bytes]:
    """Run one to its end: exit code, status of attempt 1, what it printed."""
    process = start(workspace, code, **environment)
    printed, _ = process.communicate(timeout=60)
    return process.returncode, read_status(workspace / ATTEMPT), printed


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail("waited in vain")


def test_output_goes_to_a_file_and_to_our_own_output(workspace: Path) -> None:
    """What a step prints, on both channels, is in stdout.log and is echoed."""
    code, status, printed = run(workspace, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (code, status["state"], status["exit_code"]) == (0, "succeeded", 0)
    assert (
        sorted(printed.split()) == sorted((workspace / ATTEMPT / "stdout.log").read_bytes().split()) == [b"err", b"out"]
    )


def test_exit_0_without_a_manifest_of_this_attempt_is_a_failure(workspace: Path) -> None:
    """A step that returns 0 but published nothing has not succeeded."""
    code, status, _ = run(workspace, "pass", AIOS_OUTPUT="out")
    assert (code, status["state"]) == (70, "failed")
    assert "published nothing valid" in status["message"]


def test_exit_0_with_the_manifest_of_this_attempt_succeeds(workspace: Path) -> None:
    """A published folder counts, and its hash is recorded."""
    code, status, _ = run(workspace, PUBLISH, AIOS_OUTPUT="out")
    assert (code, status["state"]) == (0, "succeeded")
    assert len(status["manifest_sha256"]) == 64


def test_the_manifest_of_another_attempt_is_not_ours(workspace: Path) -> None:
    """Exit 0 beside an older publication succeeds only when the step says that it skipped."""
    run(workspace, PUBLISH, AIOS_OUTPUT="out")
    process = start(workspace, "pass", AIOS_OUTPUT="out")
    assert process.wait(60) == 70
    skip = "from jobs.contract.child import report_result; report_result(exit_code=0, skipped=True)"
    assert start(workspace, skip, AIOS_OUTPUT="out").wait(60) == 0
    assert read_status(workspace / ATTEMPT.with_name("attempt-3"))["state"] == "skipped"


def test_a_damaged_publication_is_no_success(workspace: Path) -> None:
    """A file that differs from the manifest's size fails the attempt."""
    code, status, _ = run(workspace, PUBLISH + "\n(folder / 'x').write_text('cut')", AIOS_OUTPUT="out")
    assert (code, status["state"]) == (70, "failed")


def test_the_message_of_the_step_reaches_status_and_termination_log(workspace: Path) -> None:
    """A step's one-line error is in its status and in the file that Kubernetes reads, within 4096 bytes."""
    log = workspace / "termination-log"
    log.touch()
    code = "import sys; from jobs.contract.child import report_result; print('x' * 9000);"
    code += "report_result(exit_code=65, message='the file is empty'); sys.exit(65)"
    returned, status, _ = run(workspace, code, AIOS_TERMINATION_LOG=str(log))
    said = orjson.loads(log.read_bytes())
    assert (returned, status["message"]) == (65, "the file is empty")
    assert (said["exit_code"], said["message"], said["attempt_id"]) == (65, "the file is empty", status["attempt_id"])
    assert log.stat().st_size <= 4096


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_sigterm_is_forwarded_and_75_is_reported(workspace: Path) -> None:
    """A step that saves upon SIGTERM and exits 75 is interrupted, not failed."""
    code = (
        "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(75)); print('up', flush=True); time.sleep(60)"
    )
    process = start(workspace, code)
    until(lambda: b"up" in (workspace / ATTEMPT / "stdout.log").read_bytes() if (workspace / ATTEMPT).exists() else 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert read_status(workspace / ATTEMPT)["state"] == "interrupted"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_second_signal_ends_a_step_that_does_not_listen(workspace: Path) -> None:
    """Two requests to stop kill the step and what it started."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    process = start(workspace, code)
    log = workspace / ATTEMPT / "stdout.log"
    grandchild = int(until(lambda: log.read_text().strip() if log.exists() else ""))
    process.send_signal(signal.SIGTERM)
    until(lambda: "stop" in (workspace / ATTEMPT / "events.jsonl").read_text())
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    until(lambda: not Path(f"/proc/{grandchild}").exists() or "Z" in Path(f"/proc/{grandchild}/stat").read_text())


def test_the_stop_file_asks_the_step_to_end(workspace: Path) -> None:
    """Whoever creates `stop` in the attempt's folder stops the step: the portable twin of SIGTERM."""
    code = (
        "import sys, time; from jobs.contract.child import stop_requested\nwhile not stop_requested(): time.sleep(.05)"
    )
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + code + "\nsys.exit(75)"
    process = start(workspace, code)
    until(lambda: read_status(workspace / ATTEMPT).get("pid"))
    time.sleep(0.5)  # the child is Python and needs a moment until it ignores the signal that comes with the file
    (workspace / ATTEMPT / "stop").touch()
    assert process.wait(20) == 75


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_step_notices_that_its_supervisor_was_killed(workspace: Path) -> None:
    """A supervisor that is killed does not take the step with it; the step sees it and stops by itself."""
    code = "import time; from jobs.contract.child import stop_requested\nwhile not stop_requested(): time.sleep(.05)"
    process = start(workspace, code)
    status = until(lambda: (s := read_status(workspace / ATTEMPT)).get("pid") and s)
    process.kill()
    process.wait()
    until(lambda: not process_alive(status["pid"], status["started"]))
    assert read_status(workspace / ATTEMPT)["state"] == "running", "nobody was left to write down another state"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_step_is_an_internal_failure(workspace: Path) -> None:
    """SIGKILL from elsewhere is code 70, to be retried, and named."""
    code, status, _ = run(workspace, "import os; os.kill(os.getpid(), 9)")
    assert code == 70
    assert "SIGKILL" in status["message"]


def test_one_of_two_supervisors_gets_an_attempt(workspace: Path) -> None:
    """Several that want the same attempt: one runs it, the others leave it alone."""
    processes = [start(workspace, "print('ran'); import time; time.sleep(1)", AIOS_ATTEMPT="1") for _ in range(4)]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert sum(b"ran" in text for text in printed) == 1
    assert [process.returncode for process in processes] == [0, 0, 0, 0]


def test_attempts_without_a_number_never_share_a_folder(workspace: Path) -> None:
    """Four supervisors at once make attempts 1 to 4."""
    for process in [start(workspace, "pass") for _ in range(4)]:
        process.communicate(timeout=60)
    folders = sorted(path.name for path in (workspace / ATTEMPT.parent).iterdir())
    assert folders == [f"attempt-{n}" for n in (1, 2, 3, 4)]


def test_torchrun_codes_are_read_from_what_the_ranks_wrote(tmp_path: Path) -> None:
    """torchrun ends with 1 whatever happened: the rank that failed first says why, those told to stop do not."""
    results = [{"exit_code": 75, "message": "stopped"}, {"exit_code": 71, "message": "out of memory"}]
    outcome = judge(1, results=results, attempt_id="a", output=None, stopping=False)
    assert (outcome.exit_code, outcome.message) == (71, "out of memory")
    outcome = judge(1, results=[{"exit_code": 75}], attempt_id="a", output=None, stopping=True)
    assert (outcome.state, outcome.exit_code) == ("interrupted", 75)
    assert judge(1, results=[], attempt_id="a", output=None, stopping=False).exit_code == 70


@pytest.mark.parametrize("code", [2, 3, 64, 65, 66, 69, 70, 71, 74, 77, 78])
def test_known_codes_pass_through(code: int) -> None:
    """Every code of the table is what the supervisor exits with, too."""
    outcome = judge(code, results=[{"exit_code": code, "message": "why"}], attempt_id="a", output=None, stopping=False)
    assert (outcome.state, outcome.exit_code, outcome.message) == ("failed", code, "why")


def test_aios_is_the_installation_that_the_supervisor_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """`aios` is never looked up on PATH; several processes go through torchrun."""
    assert real_command(["aios", "data"]) == [sys.executable, "-m", "jobs.cli", "data"]
    monkeypatch.setenv("AIOS_NPROC", "2")
    assert "--nproc-per-node=2" in real_command(["aios", "data"])


def test_without_a_run_the_supervisor_says_so(workspace: Path) -> None:
    """A missing environment is one line and code 64."""
    process = start(workspace, "pass", AIOS_RUN="")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 64
    assert errors.decode().count("\n") == 1
    assert not (workspace / "artifacts").exists()


# Memory
def cgroup(root: Path, *, v2: bool, kills: int, limit_hits: int, peak: int = 1 << 29) -> Path:
    """Write what the kernel shows of a container's memory, in either version's files."""
    folder = root if v2 else root / "memory"
    folder.mkdir(exist_ok=True)
    if v2:
        (folder / "memory.events").write_text(
            f"low 0\nhigh 0\nmax 9\noom {limit_hits}\noom_kill {kills}\noom_group_kill 0\n"
        )
        (folder / "memory.max").write_text("1073741824\n")
        (folder / "memory.peak").write_text(f"{peak}\n")
    else:
        (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
        (folder / "memory.failcnt").write_text(f"{limit_hits}\n")
        (folder / "memory.limit_in_bytes").write_text("1073741824\n")
        (folder / "memory.max_usage_in_bytes").write_text(f"{peak}\n")
    return root


@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v1"])
def test_a_limit_is_told_from_a_node_without_memory(tmp_path: Path, v2: bool) -> None:
    """A kill after the own limit was hit is the step's; one without is the node's; none is silence."""
    memory = Memory(cgroup(tmp_path, v2=v2, kills=2, limit_hits=5), own=True)
    assert memory.shortage() is None, "what happened before counts for nothing"
    cgroup(tmp_path, v2=v2, kills=3, limit_hits=5)
    found = memory.shortage()
    assert found
    assert found.cause == "node_memory"
    cgroup(tmp_path, v2=v2, kills=3, limit_hits=6)
    found = memory.shortage()
    assert found
    assert found.cause == "memory"
    assert "limit 1.00 GiB, peak 0.50 GiB" in found.message
    assert (memory.figures()["limit"], memory.figures()["peak"]) == (1 << 30, 1 << 29)
    cgroup(tmp_path, v2=v2, kills=3, limit_hits=5, peak=1 << 30)
    found = memory.shortage()
    assert found
    assert found.cause == "memory", "some v1 kernels kill without counting that the limit was hit"
    assert Memory(tmp_path, own=False).figures() == {}


def test_running_out_of_memory_ends_a_step_unless_it_may_have_more() -> None:
    """71 is final; 137 is tried again, with more; a node's want of memory is tried again as it is."""
    own, node = Shortage(cause="memory", message="out"), Shortage(cause="node_memory", message="out")
    common: dict[str, Any] = {"results": [], "attempt_id": "a", "output": None, "stopping": False}
    for returncode in (-9, 70):
        assert judge(returncode, shortage=own, **common).exit_code == 71
        assert judge(returncode, shortage=own, grow=True, **common).exit_code == 137
        found = judge(returncode, shortage=node, grow=True, **common)
        assert (found.exit_code, found.cause) == (70, "node_memory")
    assert judge(65, shortage=own, **common).exit_code == 65, "the step's own word comes first"


@pytest.mark.parametrize(
    ("code", "message", "cause"),
    [
        (71, "the GPU is out of memory (CUDA out of memory. Tried to allocate 2 GiB)", "device_memory"),
        (71, "the train loss is nan", ""),
        (70, "CUDA error: uncorrectable ECC error encountered", "device"),
        (70, "KeyError: 'x'", ""),
    ],
)
def test_the_cause_of_a_device_fault_is_named(code: int, message: str, cause: str) -> None:
    """What a retry elsewhere, or a smaller batch, can help with is told apart from other failures."""
    result = {"exit_code": code, "message": message}
    assert judge(code, results=[result], attempt_id="a", output=None, stopping=False).cause == cause


# Last words
@pytest.mark.parametrize("text", ["x", "ü", "漢", "\U0001f4a5", "\x01", '"', "\\", "\udce4", "line\n"])
@pytest.mark.parametrize("length", [0, 1, 1400, 100_000])
def test_last_words_are_whole_json_within_4096_bytes(text: str, length: int) -> None:
    """However many bytes a character takes, Kubernetes gets JSON that can be read, and the proof in it."""
    outcome = Outcome(state="failed", exit_code=70, message=text * length, manifest_sha256="a" * 64, cause="device")
    content = outcome.termination_message(attempt=3, attempt_id="i" * 32, log=text * length, memory={"peak": 1 << 40})
    assert len(content) <= 4096
    said = orjson.loads(content)
    assert (said["exit_code"], said["manifest_sha256"], said["attempt_id"]) == (70, "a" * 64, "i" * 32)
    assert length == 0 or said["message"]


def test_the_end_of_the_log_is_what_is_kept() -> None:
    """Of a long log the last lines are in the last words."""
    log = "".join(f"line {n}\n" for n in range(1000))
    said = orjson.loads(Outcome(state="failed", exit_code=70, message="m").termination_message(log=log))
    assert said["log"].endswith("line 999\n")


# Hanging
HANG = """
import faulthandler, signal, sys, time
from jobs.contract.child import show_stacks_on_signal
show_stacks_on_signal()
def wait_for_the_other_rank():
    time.sleep(60)
print("up", flush=True)
wait_for_the_other_rank()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc")
def test_a_hung_step_is_named_with_its_stacks_and_ended_where_asked(workspace: Path) -> None:
    """No progress: the status says so, the log shows where every thread stands, and the next attempt may begin."""
    clocks = {"AIOS_HANG_AFTER_S": "1", "AIOS_HEARTBEAT_S": "0.2", "AIOS_ON_HANG": "restart"}
    code, status, printed = run(workspace, HANG, **clocks)
    assert (code, status["state"], status["cause"]) == (70, "failed", "hung")
    assert "no progress for" in status["message"]
    assert b"wait_for_the_other_rank" in printed
    events = [orjson.loads(line) for line in (workspace / ATTEMPT / "events.jsonl").read_bytes().splitlines()]
    assert next(event for event in events if event["event"] == "hung")["stacks"] == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc")
def test_a_hung_step_is_only_named_by_default_and_may_go_on(workspace: Path) -> None:
    """One that does not listen to the signal is not killed by it, and what moves again is not hung any more."""
    code = "import time; time.sleep(5); print('at last', flush=True); time.sleep(1.5)"
    process = start(workspace, code, AIOS_HANG_AFTER_S="1", AIOS_HEARTBEAT_S="0.2")
    until(lambda: read_status(workspace / ATTEMPT).get("hung"))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert read_status(workspace / ATTEMPT)["hung"] == ""


def test_patience_follows_the_median_step(tmp_path: Path) -> None:
    """Three times the median step, but never less than the floor; without a step three times the floor."""
    log = tmp_path / "stdout.log"
    log.touch()
    dog = Watchdog(tmp_path, log, after_s=0.1)

    def hung_after(seconds: float) -> bool:
        dog.hung, dog._since = "", time.monotonic() - seconds
        return dog.look()

    assert not dog.look()
    assert not hung_after(0.29)
    assert hung_after(0.31)
    assert "no step was finished yet" in dog.hung
    lines = [{"kind": "train", "step": n, "step_time_s": t} for n, t in enumerate([1.0, 2.0, 90.0])]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    assert dog.look(), "a new line of metrics is progress"
    assert not hung_after(5.9)
    assert hung_after(6.1)
    assert "median step 2.0 s" in dog.hung


# Rotation
@pytest.mark.skipif(os.name == "nt", reason="a file that is open cannot be renamed")
@pytest.mark.parametrize("how", ["rename", "copytruncate"])
def test_no_line_is_lost_or_doubled_when_the_log_is_rotated(workspace: Path, how: str) -> None:
    """Whoever renames or cuts off stdout.log while the step writes takes nothing away from what is echoed."""
    code = (
        "import time\nfor n in range(400):\n    print('line', n, 'x' * 50, flush=True)\n"
        "    time.sleep(0.5 if n % 100 == 99 else 0)"
    )
    process = start(workspace, code)
    log = workspace / ATTEMPT / "stdout.log"
    until(lambda: log.exists() and log.stat().st_size > 5000)
    time.sleep(0.15)  # what is cut off was read before: copytruncate itself loses what comes in between
    if how == "rename":
        log.rename(log.with_name("stdout.log.1"))
    else:
        os.truncate(log, 0)
    printed, _ = process.communicate(timeout=60)
    assert [int(line.split()[1]) for line in printed.decode().splitlines()] == list(range(400))


def test_a_step_that_is_stopped_and_returns_0_without_a_result_is_interrupted(workspace: Path) -> None:
    """A trap that swallows SIGTERM and returns: no success, and not counted as a failure either."""
    trap = (
        "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(0)); print('up', flush=True); time.sleep(60)"
    )
    if os.name == "nt":
        pytest.skip("POSIX signals")
    process = start(workspace, trap, AIOS_OUTPUT="out")
    log = workspace / ATTEMPT / "stdout.log"
    until(lambda: log.exists() and b"up" in log.read_bytes())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert "published nothing" in read_status(workspace / ATTEMPT)["message"]


def test_what_the_conductor_found_is_copied_to_the_volume(workspace: Path) -> None:
    """The mounted status of the run is beside its attempts, for the day when the release is gone."""
    mounted = workspace / "etc"
    mounted.mkdir()
    (mounted / "values.yaml").write_text("run: {name: r}\n")
    (mounted / "state.json").write_text('{"steps": {}}')
    run(workspace, "import time; time.sleep(1)", AIOS_VALUES=str(mounted / "values.yaml"), AIOS_HEARTBEAT_S="0.2")
    assert (workspace / "artifacts/runs/r/cluster.json").read_text() == '{"steps": {}}'
