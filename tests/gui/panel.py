"""A real panel in a process of its own and a real Chromium that looks at it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from k8s.machine.observe import live
from k8s.machine.store import Run

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(os.environ.get("AIOS_SCREENSHOTS", REPOSITORY / ".screenshots"))
_SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --disable-extensions"
)


def until(condition: Callable[[], Any], what: str = "something", seconds: float = 30) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except Exception as exc:  # a page that is being drawn anew
            error = exc
        time.sleep(0.1)
    pytest.fail(f"waited in vain for {what} ({error})")


@dataclass
class Panel:
    """`aios gui` in one workspace."""

    workspace: Path
    arguments: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "gui", "--port", str(self.port), *self.arguments],
            cwd=self.workspace,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "Alignment panel of" in line, line
        self.said.append(line)
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self) -> None:
        """End the server."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(15)
            assert self.process.stderr is not None
            self.said += self.process.stderr.read().splitlines()
            self.process.stderr.close()
            self.process = None

    def restart(self) -> None:
        """End it and start it again at the same port."""
        self.stop()
        self.start()


@contextlib.contextmanager
def running(workspace: Path, *arguments: str) -> Iterator[Panel]:
    """A panel for as long as the block lasts; its log must stay free of tracebacks."""
    panel = Panel(workspace, arguments)
    panel.start()
    try:
        yield panel
    finally:
        panel.stop()
        _end_runs(workspace)
    said = list(itertools.takewhile(lambda line: "graceful shutdown exceeded" not in line, panel.said))
    assert not any("Traceback" in line for line in said), "\n".join(said)  # after that its requests are cut off


def _end_runs(workspace: Path) -> None:
    """A run outlives its panel, and would outlive a test that failed."""
    for folder in (workspace / "artifacts/runs").glob("*/"):
        command = [sys.executable, "-m", "jobs.cli", "jobs", "stop", folder.name]
        if not (folder / "run.json").is_file() or not (folder / "control.json").is_file():
            continue
        if live(Run(folder)):
            subprocess.run(command, cwd=workspace, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False)


def chromium() -> str | None:
    """Return Chromium's path, where the system has it together with its driver."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found if found and shutil.which("chromedriver") else None


class Browser:
    """One person's browser window."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        from selenium import webdriver

        self.width, self.profile = width, tempfile.mkdtemp(prefix="aios-chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium() or ""
        for switch in (*_SWITCHES.split(), f"--user-data-dir={self.profile}", f"--window-size={width},{height}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver: Any = webdriver.Chrome(options=options, service=service)
        self.size(width, height)
        self.scheme("dark" if dark else "light")

    def size(self, width: int, height: int) -> None:
        """Make the window this large; below 600 it is a phone."""
        self.width = width
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        """Be a system that prefers dark or light."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, url: str, sees: str = "") -> None:
        """Go somewhere and wait for a text."""
        self.driver.get(url)
        if sees:
            self.sees(sees)

    def text(self) -> str:
        """Return all that the page says."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def sees(self, text: str, seconds: float = 30) -> None:
        """Wait until the page says this."""
        until(lambda: text in self.text(), f"{text!r} on {self.driver.current_url}", seconds)

    def find(self, selector: str) -> Any:
        """Wait for an element and return it."""
        return until(lambda: self.driver.find_elements("css selector", selector), selector)[0]

    def click(self, text: str) -> None:
        """Press the button, or follow the link, of this text."""
        path = f"//*[self::button or self::a][normalize-space(.)={text!r}]"

        def press() -> bool:
            for element in self.driver.find_elements("xpath", path):
                if element.is_displayed() and element.is_enabled():
                    self.driver.execute_script("arguments[0].scrollIntoView({block:'center'})", element)
                    element.click()
                    return True
            return False

        until(press, f"a button {text!r}")

    def fill(self, label: str, value: str) -> None:
        """Type into the field of this label."""
        element = self.find(f'[aria-label="{label}"]')
        self.driver.execute_script("arguments[0].scrollIntoView({block:'center'})", element)
        element.clear()
        element.send_keys(value)

    def choose(self, label: str, option: str) -> None:
        """Pick from the list of this label."""
        self.find(f'[aria-label="{label}"]').click()
        path = f"//*[contains(@class, 'q-item')][normalize-space(.)={option!r}]"
        until(lambda: self.driver.find_elements("xpath", path), f"the option {option!r}")[0].click()

    def shot(self, name: str) -> None:
        """Keep a picture of the whole page for a person to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        width = self.width
        self.size(width, min(max(height, 700), 6000))
        time.sleep(0.5)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
        self.size(width, 844 if width < 600 else 900)

    def last_words(self, name: str) -> str:
        """Return all that is known of a window when a test has failed."""
        try:
            self.shot(name)
            return f"{self.driver.current_url}\n{self.text()}\n{self.complaints()}"
        except Exception as exc:  # the browser itself may be what failed
            return repr(exc)

    def complaints(self) -> list[str]:
        """Return what the console calls an error."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def close(self) -> None:
        """End the browser and what it wrote."""
        self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)
