"""A studio in a process of its own, and Debian's Chromium to look at it with."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
SHOTS = os.environ.get("MLX_LTXW_SHOTS")
"""A folder that keeps the screenshots; else they go with the test's."""
_COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'mlx-ltxw'; from mlx_ltxw.cli import main; main()"]


@dataclass
class Server:
    """A running studio.

    Attributes:
        folder: Its own.
        url: Of its first page, without a slash behind it.
        process: The server.
        token: It asks for, or nothing.
    """

    folder: Path
    url: str
    process: subprocess.Popen
    token: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def children(self) -> list[int]:
        """The processes that it started, and that live."""
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in told.read_text().split()] if told.exists() else []

    def kill(self) -> None:
        """As a power failure does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C does; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def start(folder: Path, *options: str, port: int = 0) -> Server:
    """Starts a studio and waits until it listens."""
    command = [*_COMMAND, "studio", "--folder", str(folder), "--port", str(port), "--no-browser", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("The studio: "), line
    url, _, token = line.removeprefix("The studio: ").strip().partition("/?token=")
    return Server(folder, url.rstrip("/"), process, token)


@pytest.fixture
def studio_server(tmp_path):
    """Starts studios; they end with the test."""
    started = []

    def begin(folder: Path = tmp_path / "studio", *options: str, port: int = 0) -> Server:
        started.append(start(folder, *options, port=port))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.stop()
        server.process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    """Chromium, one for the tests of a file: as long as it is there, its thread has an event loop that runs."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the studio is looked at with playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page whose every request stays on this machine, and whose errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda sent: _local(sent.url, faults))
    yield page
    context.close()
    assert faults == []


def _local(url: str, faults: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
        faults.append(f"a request left the machine: {url}")


@pytest.fixture
def shot(tmp_path):
    """Keeps a screenshot by a name."""

    def keep(page, name: str) -> Path:
        folder = Path(SHOTS) if SHOTS else tmp_path / "shots"
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", full_page=True)
        return folder / f"{name}.png"

    return keep


def until(true, seconds: float = 60.0, every: float = 0.05):
    """Waits for something; what it gave."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"nothing after {seconds:g} s"
        time.sleep(every)
    return found
