"""Publishing, verification, skipping and recovery."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.contract.errors import BadConfig, BeingReplaced, FolderBusy, UpstreamMissing, from_os_error
from jobs.contract.files import make_folder
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import MANIFEST_NAME, Manifest, journal_path, read_manifest, verify
from jobs.contract.publish import already_published, publish_into, publish_whole, recover, staging
from jobs.contract.splits import read_splits
from tests import tiny


def manifest(**config: object) -> Manifest:
    return Manifest(step="ingest", attempt="a1", inputs={"export": "x"}, config=dict(config), files=[])


def publish(folder: Path, content: str, *, whole: bool = True) -> Manifest:
    with FolderLock(folder, attempt="a1") as lock:
        recover(folder, lock)
        with staging(folder, lock) as staged:
            (staged / "a.txt").write_text(content)
            (staged / "sub").mkdir()
            (staged / "sub" / "b.txt").write_text(content)
            return (publish_whole if whole else publish_into)(folder, staged, manifest(content=content), lock)


@pytest.mark.parametrize("whole", [True, False])
def test_a_published_folder_verifies(tmp_path: Path, whole: bool) -> None:
    """What was published is what a reader finds, and nothing else is left beside it."""
    written = publish(tmp_path / "out", "one", whole=whole)
    assert verify(tmp_path / "out") == written
    assert [entry.path for entry in written.files] == ["a.txt", "sub/b.txt"]
    assert {path.name for path in tmp_path.iterdir()} <= {"out", ".out.lock.guard"}


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """A file that differs from the manifest by one byte makes the folder unusable."""
    publish(tmp_path / "out", "one")
    (tmp_path / "out" / "a.txt").write_text("onf")
    with pytest.raises(UpstreamMissing, match=r"a\.txt is not the file"):
        verify(tmp_path / "out")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A planted link to a file outside is not read, though its content has the right hash."""
    publish(tmp_path / "out", "one")
    (tmp_path / "elsewhere.txt").write_text("one")
    (tmp_path / "out" / "a.txt").unlink()
    (tmp_path / "out" / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(UpstreamMissing, match="leads out of its folder"):
        verify(tmp_path / "out")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    """A path with .. in a manifest is refused before anything is opened."""
    publish(tmp_path / "out", "one")
    path = tmp_path / "out" / MANIFEST_NAME
    path.write_text(path.read_text().replace("a.txt", "../a.txt"))
    with pytest.raises(UpstreamMissing, match="outside its folder"):
        verify(tmp_path / "out")


def test_the_same_result_is_not_made_twice(tmp_path: Path) -> None:
    """Equal inputs and settings are skipped; others are refused with their names unless --overwrite."""
    publish(tmp_path / "out", "one")
    same = {"inputs": {"export": "x"}, "config": {"content": "one"}}
    assert already_published(tmp_path / "out", **same, overwrite=False) is not None
    with pytest.raises(BadConfig, match=r"other settings \(content\)"):
        already_published(tmp_path / "out", inputs={"export": "x"}, config={"content": "two"}, overwrite=False)
    other = already_published(tmp_path / "out", inputs={"export": "y"}, config={"content": "one"}, overwrite=True)
    assert other is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, 74),
        (errno.EROFS, 74),
        (errno.EACCES, 74),
        (errno.ENOTDIR, 74),
        (errno.ENOENT, 65),
        (errno.EMFILE, 70),
    ],
)
def test_an_operating_system_error_gets_a_sentence_and_a_code(number: int, code: int) -> None:
    """A full disk or a folder that cannot be written is the volume's fault, and the line names the path."""
    error = from_os_error(OSError(number, os.strerror(number), "artifacts/rm/x"))
    assert error.exit_code == code
    assert "artifacts/rm/x" in str(error)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """While one process holds a folder, another is told who holds it."""
    with (
        FolderLock(tmp_path / "out", attempt="first"),
        pytest.raises(FolderBusy, match=f"process {os.getpid()} .*attempt first"),
        FolderLock(tmp_path / "out", attempt="second"),
    ):
        pass


def test_a_dead_owner_keeps_nothing(tmp_path: Path) -> None:
    """The lock of a killed process is taken over at once."""
    code = (
        "import sys,time; from pathlib import Path; from jobs.contract.lock import FolderLock\n"
        f"with FolderLock(Path({str(tmp_path / 'out')!r}), attempt='dead'): print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(FolderBusy), FolderLock(tmp_path / "out", attempt="early"):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    with FolderLock(tmp_path / "out", attempt="late") as lock:
        lock.check()


@pytest.mark.skipif(os.name == "nt", reason="permission bits and owners of POSIX")
def test_folders_in_a_shared_workspace_stay_shared(tmp_path: Path) -> None:
    """Where everybody may write, everybody may write into a new folder; root leaves it to the workspace's owner."""
    private, shared = tmp_path / "private", tmp_path / "shared"
    for workspace, mode in ((private, 0o755), (shared, 0o777)):
        workspace.mkdir()
        workspace.chmod(mode)
        if os.geteuid() == 0:
            os.chown(workspace, 10001, 10001)
        make_folder(workspace / "artifacts" / "runs")
        for folder in (workspace / "artifacts", workspace / "artifacts" / "runs"):
            assert (folder.stat().st_mode & 0o777) == mode
            assert folder.stat().st_uid == workspace.stat().st_uid
    make_folder(shared / "artifacts" / "runs")  # once more, nothing changes


def test_a_superseded_attempt_cannot_publish(tmp_path: Path) -> None:
    """An attempt whose lock was taken over while it was silent publishes nothing."""
    folder = tmp_path / "out"
    with FolderLock(folder, attempt="old") as old, staging(folder, old) as staged:
        (staged / "a.txt").write_text("old")
        old.path.unlink()
        with FolderLock(folder, attempt="new"), pytest.raises(FolderBusy, match="taken over"):
            publish_whole(folder, staged, manifest(), old)
    assert not folder.exists()


def _publish_forever(folder: str) -> None:
    count = 0
    while True:
        count += 1
        publish(Path(folder), f"{os.getpid()}-{count}")


def test_killed_at_any_moment_leaves_one_whole_set(tmp_path: Path) -> None:
    """50 writers killed at random moments: a reader always finds one whole set, and the next writer repairs."""
    folder, rng = tmp_path / "out", random.Random(7)
    publish(folder, "first")
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    for _ in range(50):
        writer = context.Process(target=_publish_forever, args=(str(folder),))
        writer.start()
        time.sleep(0.02 + rng.random() * 0.03)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        writer.join()
        try:
            verify(folder)
        except BeingReplaced:
            with FolderLock(folder, attempt="next") as lock:
                recover(folder, lock)
            verify(folder)
    publish(folder, "last")
    assert (folder / "a.txt").read_text() == (folder / "sub" / "b.txt").read_text() == "last"
    assert {path.name for path in tmp_path.iterdir()} <= {"out", ".out.lock.guard"}


def test_an_exchange_cut_short_is_reported_and_finished(tmp_path: Path) -> None:
    """Between the two renames a reader hears 'being replaced'; the next writer rolls forward."""
    folder = tmp_path / "out"
    publish(folder, "old")
    publish(tmp_path / ".out.staging-x", "new")
    journal_path(folder).write_text('{"staged": ".out.staging-x", "retired": ".out.retired-x"}')
    folder.rename(tmp_path / ".out.retired-x")
    with pytest.raises(BeingReplaced):
        verify(folder)
    with FolderLock(folder, attempt="next") as lock:
        recover(folder, lock)
    assert (folder / "a.txt").read_text() == "new"
    assert not journal_path(folder).exists()


def test_splits_are_read_from_one_publication(tmp_path: Path) -> None:
    """Rows and their meta lines come back as written; a split changed by hand is refused."""
    folder = tiny.make_splits(tmp_path / "data")
    found, splits = read_splits(folder)
    assert found == read_manifest(folder)
    assert [len(splits[name].rows) for name in ("train", "eval", "test")] == [24, 8, 8]
    assert len(splits["test"].meta) == 8
    with (folder / "eval.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UpstreamMissing, match="size or sha256 differs"):
        read_splits(folder)
