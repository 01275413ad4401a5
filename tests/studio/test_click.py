"""From a click to the first sound: no later than the command's file, plus half a second."""

import os
import subprocess
import sys
import time

import pytest

from tests.studio.conftest import until

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
COMMAND = [sys.executable, "-m", "mlx_ltxw", "generate", PROMPT, "--adapter", "whisper", "--steps", "4", "-q"]


def command(path):
    began = time.perf_counter()
    subprocess.run([*COMMAND, "-o", str(path)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def click(page, number):
    page.get_by_label("Seed", exact=True).fill(str(number))
    page.wait_for_timeout(1500)  # it is planned
    began = time.perf_counter()
    page.get_by_role("button", name="Make", exact=True).click()
    page.locator("article.take", has_text=f"seed {number} ").first.wait_for(timeout=120_000)
    video = page.locator("article.take video").first
    video.evaluate("v => { v.preload = 'auto'; v.load(); return v.play(); }")
    until(lambda: video.evaluate("v => v.currentTime > 0"), 20, 0.01)
    return time.perf_counter() - began


@pytest.mark.slow
def test_a_click_is_heard_no_later_than_the_command(page, studio_server, tmp_path):
    """In turns, the best of three each; the half second grows with what else the machine has to do."""
    server = studio_server()
    page.goto(server.url)
    page.get_by_role("textbox", name="Line", exact=True).wait_for()
    page.get_by_label("Steps", exact=True).fill("4")
    commands, clicks = [], []
    for number in range(3):
        clicks.append(click(page, number))
        commands.append(command(tmp_path / f"{number}.mp4"))
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(f"click {min(clicks):.2f} s of {clicks}, command {min(commands):.2f} s of {commands}, load {busy:.1f}")
    assert min(clicks) <= min(commands) + 0.5 * busy
