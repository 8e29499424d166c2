"""The panel and the terminal on a real cluster: each shows, stops and resumes what the other one started."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tiny
from tests.gui.panel import Browser, running, until
from tests.gui.stories import in_state, step_shown
from tests.kubernetes.cluster import Space, kubectl, new_space
from tests.kubernetes.rendering import CHARTS, helm
from tests.runs.helpers import Cli

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
_OWNER = 10001


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace whose volume holds a model and a data set."""
    with new_space(tmp_path / "values") as made:
        made.values_folder.mkdir(exist_ok=True)
        data = made.folder / "training_data/curated_datasets/preferences"
        tiny.make_splits(data, train=64, held_out=40)
        (made.folder / "artifacts/runs").mkdir()  # else the panel makes it, and this test may run as root
        for path in made.folder.rglob("*"):
            os.chown(path, _OWNER, _OWNER)
        yield made


def _only_rm(space: Space, name: str) -> Path:
    """Write the values of a run that trains a reward model for a while."""
    others = [f"steps.{step}.enabled=false" for step in ("ingest", "dpo", "evaluation")]
    return space.values(name, "run.dataset=preferences", "steps.rm.args.max_steps=3000", *others)


def test_panel_and_terminal_show_each_others_runs(
    space: Space, tmp_path: Path, browser: Browser, second_browser: Browser
) -> None:
    """A run of `aios jobs submit` is watched, stopped, resumed in the panel; one of the panel shows in `aios jobs`."""
    apart = tmp_path / "apart"
    apart.mkdir()
    cli, where = Cli(apart), ("-n", space.namespace)
    with running(space.folder, *where) as mounted, running(apart, *where) as elsewhere:
        cli("jobs", "submit", "--profile", str(_only_rm(space, "from-cli")), "--name", "from-cli", *where)
        space.releases.append("from-cli")
        browser.open(f"{mounted.url}/runs", "from-cli")
        browser.open(f"{mounted.url}/runs/from-cli", "Steps")
        until(lambda: step_shown(browser) > 20, "steps of a run in the cluster", 600)
        browser.find(".chart canvas")
        browser.shot("cluster-running")
        second_browser.open(f"{elsewhere.url}/runs/from-cli", "not mounted here")
        second_browser.sees("rm step", 60)  # the log, out of the pod
        until(lambda: second_browser.driver.find_elements("css selector", ".chart canvas"), "curves out of the log", 60)
        second_browser.shot("cluster-elsewhere")

        browser.click("Stop")
        browser.click("Stop the run")
        in_state(browser, "stopped")
        assert "stopped" in cli("jobs", "status", "from-cli", *where)
        stopped_at = until(lambda: step_shown(browser), "the step at which it was stopped")
        browser.sees(f"Last checkpoint: step {stopped_at}", 60)
        browser.shot("cluster-stopped")
        browser.click("Resume")
        in_state(browser, "running")
        until(lambda: step_shown(browser) > stopped_at, "steps after the resume", 600)
        cli("jobs", "stop", "from-cli", *where)
        in_state(browser, "stopped")

        browser.open(f"{mounted.url}/start?kind=rm&dataset=preferences", "What will happen")
        browser.choose("Profile", "kind-cpu")
        browser.fill("Name of the run", "from-panel")
        browser.fill("Base model", "artifacts/base/tiny")
        browser.fill("Max steps", "8")
        browser.sees("--max-steps 8")
        browser.click("Ask the cluster's doctor")
        browser.sees("you may install runs", 60)
        browser.shot("cluster-start")
        browser.click("Start")
        space.releases.append("from-panel")
        in_state(browser, "succeeded", 600)
        assert re.search(r"from-panel\s+succeeded", cli("jobs", "list", *where))
        assert (space.folder / "artifacts/rm/from-panel/_SUCCESS.json").is_file()
        browser.shot("cluster-finished")
    # A pod that comes or goes is a change of network to a browser on the node itself.
    assert [c for c in browser.complaints() if "ERR_NETWORK_CHANGED" not in c] == []


@contextmanager
def _forwarded(space: Space) -> Iterator[str]:
    """The panel's Service at a port of this machine."""
    command = ["kubectl", "-n", space.namespace, "port-forward", "service/aios-panel", ":80"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().split(' -> ')[0].rsplit(':', 1)[1]}"
    finally:
        process.terminate()
        process.wait(15)
        process.stdout.close()


def _install_panel(space: Space, *settings: str) -> None:
    """Bring the platform chart's panel to these settings and wait for its pod."""
    tag = os.environ.get("AIOS_TEST_GUI_TAG", os.environ.get("AIOS_TEST_TAG", "0.1.0-cpu"))
    given = ["enabled=true", "token.secret=panel-token", "image.pullPolicy=Never", f"image.tag={tag}", *settings]
    sets = [f"--set=panel.{item}" for item in given]
    helm("upgrade", "platform", str(CHARTS / "platform"), "-n", space.namespace, "--reuse-values", *sets)
    kubectl("-n", space.namespace, "rollout", "status", "deployment/aios-panel", "--timeout=300s")


def _may(space: Space, verb: str, what: str) -> bool:
    """Ask the API server about the rights of the panel's account."""
    account = f"--as=system:serviceaccount:{space.namespace}:aios-panel"
    return kubectl("-n", space.namespace, "auth", "can-i", verb, what, account, check=False).strip() == "yes"


def test_the_panels_pod(space: Space, tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its token the pod shows a run of the CLI and may only look; with panel.submit it starts, stops, resumes.

    Its account has no verb on Secrets in either case: helm's records lie in ConfigMaps.
    """
    token = "a token of this namespace"
    kubectl("-n", space.namespace, "create", "secret", "generic", "panel-token", f"--from-literal=token={token}")
    apart, where = tmp_path / "apart", ("-n", space.namespace)
    apart.mkdir()
    cli = Cli(apart)
    _install_panel(space)
    assert not any(_may(space, verb, what) for verb in ("create", "patch", "delete") for what in ("jobs", "configmaps"))
    assert not any(_may(space, verb, "secrets") for verb in ("get", "list", "watch", "create"))
    with _forwarded(space) as url:
        browser.open(f"{url}/runs", "Access token")
        browser.find("#token").send_keys(token)
        browser.click("Log in")
        browser.sees("read-only", 60)
        cli("jobs", "submit", "--profile", str(_only_rm(space, "by-cli")), "--name", "by-cli", *where)
        space.releases.append("by-cli")
        browser.open(f"{url}/runs/by-cli", "Steps")
        until(lambda: step_shown(browser) > 5, "steps, read from the volume", 600)
        browser.find(".chart canvas")
        assert not browser.driver.find_elements("xpath", "//button[normalize-space(.)='Stop']")
        browser.shot("pod-read-only")
        cli("jobs", "stop", "by-cli", *where)
        in_state(browser, "stopped")

    _install_panel(space, "submit=true")
    assert not any(_may(space, verb, "secrets") for verb in ("get", "list", "watch", "create", "delete"))
    with _forwarded(space) as url:
        browser.open(f"{url}/", "Quick actions")  # same token: the session from before is good
        browser.open(f"{url}/start?kind=rm&dataset=preferences", "What will happen")
        browser.choose("Profile", "kind-cpu")
        browser.fill("Name of the run", "by-pod")
        browser.fill("Base model", "artifacts/base/tiny")
        browser.fill("Max steps", "3000")
        browser.sees("--max-steps 3000")
        browser.shot("pod-start")
        browser.click("Start")
        in_state(browser, "running", 120)
        until(lambda: step_shown(browser) > 5, "steps of a run that the pod started", 600)
        assert "by-pod" in cli("jobs", "list", *where)
        browser.click("Stop")
        browser.click("Stop the run")
        in_state(browser, "stopped")
        stopped_at = until(lambda: step_shown(browser), "the step at which it was stopped")
        browser.click("Resume")
        in_state(browser, "running")
        until(lambda: step_shown(browser) > stopped_at, "steps after the resume", 600)
        browser.shot("pod-resumed")
        browser.click("Stop")
        browser.click("Stop the run")
        in_state(browser, "stopped")
    records = kubectl("-n", space.namespace, "get", "configmaps", "-l", "owner=helm,name=by-pod", "-o", "name")
    assert "sh.helm.release.v1.by-pod.v1" in records
    monkeypatch.setenv("HELM_DRIVER", "configmap")
    helm("uninstall", "by-pod", "--namespace", space.namespace)
