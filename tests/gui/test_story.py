"""A person's way through the panel, with real processes behind it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.gui.panel import REPOSITORY, Browser, running, until
from tests.gui.stories import in_state, run_name, step_shown

pytestmark = pytest.mark.timeout(600)  # they wait for real training, on machines that may be busy
SAMPLE = REPOSITORY / "training_data/sample/argilla_export.jsonl"


def test_a_run_outlives_tab_and_server(
    tmp_path: Path, tiny_model: Path, browser: Browser, second_browser: Browser
) -> None:
    """Upload, ingest, start a reward model, watch it, close the tab, restart the server, stop it: in a browser."""
    shutil.copytree(tiny_model, tmp_path / "models/tiny")
    with running(tmp_path) as panel:
        browser.open(panel.url, "No data yet")
        browser.click("Ingest an Argilla export…")
        browser.find("input[type=file]").send_keys(str(SAMPLE))
        browser.sees("aios data argilla-export")
        browser.shot("ingest")
        browser.click("Start")
        browser.sees("Dropped records", 120)
        assert "1,349" in browser.text()
        browser.shot("ingested")

        browser.open(f"{panel.url}/start?kind=rm", "What will happen")
        browser.fill("Base model", "models/tiny")
        browser.fill("Max steps", "3000")
        browser.fill("Batch size", "2")
        browser.sees("--max-steps 3000")
        browser.shot("start")
        browser.click("Start")
        name = run_name(browser)
        until(lambda: step_shown(browser) > 2, "the first steps", 240)
        browser.find(".chart canvas")
        browser.shot("running")

        browser.open("about:blank")
        second_browser.open(f"{panel.url}/runs", name)  # another person sees the same run
        browser.open(f"{panel.url}/runs/{name}", "Curves")
        before = until(lambda: step_shown(browser), "steps after reopening", 60)
        until(lambda: step_shown(browser) > before, "steps that go on", 120)

        panel.restart()  # the open page comes back by itself
        before = step_shown(browser)
        until(lambda: step_shown(browser) > before, "steps after the restart", 120)

        browser.click("Stop")
        browser.click("Stop the run")
        in_state(browser, "stopped")
        browser.sees("Last checkpoint: step", 60)
        until(lambda: "stopped" in second_browser.text(), "the other person to see that it was stopped", 60)
        browser.shot("stopped")
        # While the server restarts its address answers nobody; the console may say so, and nothing else.
        assert [c for c in browser.complaints() if "ERR_CONNECTION" not in c and "WebSocket" not in c] == []


def test_data_are_replaced_only_when_a_person_accepts(tmp_path: Path, browser: Browser) -> None:
    """With data in use an ingestion is a preview: the data stay until it is accepted, and the preview is gone then."""
    data = tmp_path / "training_data/curated_datasets/preferences"
    tiny.make_splits(data)
    before = (data / "_SUCCESS.json").read_bytes()
    shutil.copy(SAMPLE, tmp_path / "training_data/export.jsonl")
    browser.size(1280, 900)
    with running(tmp_path) as panel:
        browser.open(f"{panel.url}/ingest?name=preferences", "Choose an export first")
        browser.fill("or a path in the workspace, one a line", "training_data/export.jsonl")
        browser.sees("ingested into a preview")
        browser.sees("--input training_data/export.jsonl")
        browser.click("Start")
        browser.sees("Replace preferences by this?", 120)
        assert (data / "_SUCCESS.json").read_bytes() == before
        browser.shot("preview")
        browser.click("Replace preferences")
        until(lambda: (data / "_SUCCESS.json").read_bytes() != before, "the new data", 120)
        browser.sees("Train on it", 60)
        assert [path.name for path in data.parent.iterdir() if path.is_dir()] == ["preferences"]


@pytest.mark.train
@pytest.mark.timeout(1500)
def test_from_a_resumed_reward_model_to_the_verdict(tmp_path: Path, tiny_model: Path, browser: Browser) -> None:
    """Stop a reward model, resume it to its end, train a policy, evaluate, read the verdict; on a phone's window."""
    shutil.copytree(tiny_model, tmp_path / "models/tiny")
    tiny.make_splits(tmp_path / "training_data/curated_datasets/preferences", train=64, held_out=40)
    browser.size(390, 844)
    with running(tmp_path) as panel:
        browser.open(f"{panel.url}/start?kind=rm", "What will happen")
        browser.fill("Base model", "models/tiny")
        browser.fill("Max steps", "400")
        browser.sees("--max-steps 400")
        browser.click("Start")
        until(lambda: step_shown(browser) > 5, "the first steps", 300)
        browser.click("Stop")
        browser.click("Stop the run")
        in_state(browser, "stopped")
        browser.click("Resume")
        browser.sees("step 400/400", 300)
        in_state(browser, "succeeded")
        reward = run_name(browser)
        browser.open(f"{panel.url}/start?kind=dpo", "What will happen")
        browser.fill("Policy model", "models/tiny")
        browser.fill("Max steps", "30")
        browser.sees("--max-steps 30")
        browser.driver.execute_script("document.querySelector('.q-toggle').click()")
        browser.sees("aios hrm-hf evaluate")
        browser.click("Start")
        until(lambda: "/runs/dpo" in browser.driver.current_url, "the run's page")
        until(lambda: browser.driver.find_elements("css selector", ".chart canvas"), "the policy's curves", 300)
        browser.sees("Read the verdict", 600)
        browser.shot("phone-finished")
        browser.click("Read the verdict")
        browser.sees("Acceptance")
        browser.shot("phone-verdict")
    assert (tmp_path / f"artifacts/rm/{reward}/_SUCCESS.json").is_file()
