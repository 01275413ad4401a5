"""Keep in a real browser: a long history opens at once, is searched, and gives its requests back."""

import json
import os
import time

import pytest

from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.store import Store
from tests.studio.conftest import start, until
from tests.studio.drawn import PROMPT, drawn_clip, kept, planned

NASTY = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"
COUNT = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A studio with 1,000 takes, the first of which has its file."""
    place = StudioFolder.open(tmp_path_factory.mktemp("studio") / "folder")
    record = drawn_clip(place.takes / "000001.mp4", planned(seeds=(123,)))
    store = Store(place.database)
    store._db.execute("BEGIN")
    for number in range(1, COUNT + 1):
        take = kept(f"{number:06d}.mp4", record) | {"prompt": f"{PROMPT} number {number}", "record": json.dumps(record)}
        take["seed"] = str(take["seed"])
        names, marks = ", ".join(take), ", ".join("?" * len(take))
        store._db.execute(f"INSERT INTO takes ({names}) VALUES ({marks})", [*take.values()])
    store._db.execute("COMMIT")
    store.update_take(1, note=NASTY)
    store.close()
    server = start(place.path)
    yield server
    server.stop()
    server.process.stdout.close()


@pytest.fixture
def keep(page, server):
    page.goto(f"{server.url}/keep")
    page.locator(".history li").first.wait_for()
    return page


def rows(page):
    return page.locator(".history li")


def test_a_thousand_takes_open_within_a_second(keep, server, shot):
    best = 99.0
    for _ in range(10):  # the machine may be busy with other tests
        began = time.perf_counter()
        keep.goto(f"{server.url}/keep")
        keep.get_by_text(f"number {COUNT}").wait_for()
        best = min(best, time.perf_counter() - began)
        if best < 1.0:
            break
    print(f"{COUNT} takes in {best:.2f} s")
    assert best < max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # others may be at work here
    keep.get_by_text("1000 takes").wait_for()
    shot(keep, "keep")
    shown = rows(keep).count()
    assert shown < 100
    keep.get_by_role("button", name="Show more").click()
    until(lambda: rows(keep).count() > shown)
    until(lambda: keep.get_by_text(f"number {COUNT - shown}", exact=False).count() == 1)


def test_words_stars_and_what_is_chosen(keep, server):
    keep.get_by_label("Search").fill("whispering 77")
    until(lambda: rows(keep).count() == 19)  # 77, 177 ... 977, 770 to 779 less 777
    keep.get_by_role("button", name="Star").first.click()
    keep.get_by_text("Starred").click()
    until(lambda: rows(keep).count() == 1)
    keep.get_by_text("Starred").click()
    until(lambda: rows(keep).count() == 19)
    for number in (0, 1):
        keep.get_by_role("checkbox").nth(number).click()
    keep.get_by_role("button", name="Compare 2").click()
    keep.wait_for_url("**/hear?takes=*,*")


def test_a_request_is_shown_copied_and_changed(keep, shot):
    keep.get_by_label("Search").fill("onerror")
    until(lambda: rows(keep).count() == 1)
    keep.get_by_text(NASTY).wait_for()
    keep.get_by_role("button", name="Request").click()
    keep.get_by_text("--seed 123").wait_for()
    keep.get_by_text("import mlx_ltxw as ltx").wait_for()
    shot(keep, "request")
    keep.get_by_role("button", name="Close").click()
    keep.get_by_role("button", name="Again with a change").click()
    until(lambda: keep.locator(".built").count() and keep.locator(".built").inner_text() == PROMPT)
    until(lambda: keep.get_by_label("Seed", exact=True).input_value() == "123")
    assert keep.evaluate("window.hit") is None
