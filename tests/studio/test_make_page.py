"""Make in a real browser, with the built-in model: queue, preview, cancel, reload, script, files, and a page that stays
a page whatever is typed into it."""

import pytest

from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.store import Store
from tests.studio.conftest import start, until
from tests.studio.drawn import drawn_clip

NASTY = "<script>window.hit=1</script><img src=x onerror=window.hit=1>`${window.hit=1}` {{7*7}}</script>"

NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, select, a, video, audio, img')]
  .filter(one => one.offsetParent && !(one.getAttribute('aria-label') || one.title || one.textContent.trim()
    || one.labels?.length || one.tagName == 'IMG' && one.hasAttribute('alt'))).map(one => one.outerHTML.slice(0, 99))"""
"""What is in sight and has no name for who hears the page."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One studio for the tests of this file, in their order."""
    server = start(tmp_path_factory.mktemp("studio") / "folder")
    yield server
    if server.process.poll() is None:
        server.stop()
    server.process.stdout.close()


@pytest.fixture
def make(page, server):
    """Make as a first visit finds it, but quick: 0.4 seconds in two steps."""
    store = in_store(server)
    store.set_setting("draft", "")
    store.close()
    page.goto(server.url)
    page.get_by_role("textbox", name="Line", exact=True).wait_for()
    fill(page, "Seconds", "0.4")
    fill(page, "Steps", "2")
    return page


def fill(page, label, text):
    page.get_by_label(label, exact=True).first.fill(text)


def planned(page, *words):
    """Waits for a plan that has these words."""
    for word in words:
        page.locator(".plan-line", has_text=word).wait_for()


def press_make(page):
    page.get_by_role("button", name="Make", exact=True).click()


def in_store(server):
    """What the studio remembers, read beside it."""
    return Store(StudioFolder(server.folder).database)


def line(page):
    return page.get_by_role("textbox", name="Line", exact=True).input_value()


def titles(page):
    return page.locator(".job-title:visible").all_inner_texts()


def test_a_clip_is_made_watched_and_played(make, shot):
    until(lambda: make.locator(".built").inner_text() == 'a woman in dim light, (woman, whispering): "close your eyes"')
    fill(make, "Line", "listen to the rain outside")
    make.locator(".hints li", has_text="The words need about 1.9 s").wait_for()
    planned(make, "0.4 s, 2 steps", "memory", "after the first clip")
    press_make(make)
    make.locator(".running").wait_for()
    make.locator(".running .preview").wait_for()
    shot(make, "make-running")
    make.locator("article.take").first.wait_for()
    video = make.locator("article.take video").first
    video.evaluate("v => new Promise(r => { v.oncanplaythrough = r; v.preload = 'auto'; v.load(); })")
    video.evaluate("v => v.play()")
    until(lambda: video.evaluate("v => v.currentTime") > 0.05)
    make.locator("[data-section=queue]", has_text="Nothing is being made.").wait_for()
    planned(make, "about")
    shot(make, "make-done")


def test_two_wait_one_is_cancelled_and_a_reload_loses_nothing(make, server):
    fill(make, "Steps", "60")
    fill(make, "Line", "do not wake the sleeping dog")
    planned(make, "60 steps")
    press_make(make)
    until(lambda: len(titles(make)) == 1)
    press_make(make)
    until(lambda: len(titles(make)) == 2)
    make.locator(".running .preview").wait_for()
    make.reload()
    until(lambda: len(titles(make)) == 2)
    until(lambda: line(make) == "do not wake the sleeping dog")
    until(lambda: "Step " in make.locator(".running [role=status]").inner_text())
    other = make.context.new_page()
    other.goto(f"{server.url}")
    until(lambda: len(titles(other)) == 2)  # a second browser sees the same
    other.get_by_role("button", name="Cancel: ").click()
    make.get_by_text("cancelled", exact=True).first.wait_for()
    other.get_by_role("button", name="Cancel", exact=True).click()
    make.get_by_text("Nothing is being made.").wait_for(timeout=20_000)
    store = in_store(server)
    assert [job.state for job in store.last_jobs(2)] == ["cancelled", "cancelled"]
    assert list((server.folder / "takes").glob("*.unfinished")) == []
    store.close()


def test_a_script_of_two_parts(make, server, shot):
    make.get_by_role("button", name="Script", exact=True).click()
    for number, line in enumerate(("close your eyes", "the house is quiet tonight"), 1):
        fill(make, f"Part {number}, Scene", "a woman in dim light")
        fill(make, f"Part {number}, Line", line)
    make.get_by_role("button", name="Try part 2").click()
    own = make.get_by_label("Take of part 2")
    own.wait_for()
    shot(make, "make-script")
    seed = make.locator(".part").nth(1).get_by_label("Seed").input_value()
    planned(make, "2 parts, 0.8 s")
    press_make(make)
    make.locator("article.take", has_text="quiet tonight").nth(1).wait_for()
    store = in_store(server)
    whole, part = store.takes(limit=2)
    assert (whole.kind, len(whole.record["parts"])) == ("script", 2)
    assert str(whole.record["parts"][1]["seeds"][0]) == seed == str(part.seed)
    store.close()


def test_what_is_typed_stays_text(make, server, page):
    fill(make, "Scene", NASTY)
    fill(make, "Line", "close your eyes")
    until(lambda: NASTY.split("`")[0] in make.locator(".built").inner_text())
    store = in_store(server)
    until(lambda: "<script>" in store.setting("draft"))
    store.close()
    make.reload()
    until(lambda: NASTY.split("`")[0] in make.locator(".built").inner_text())
    assert make.evaluate("window.hit") is None


def test_a_dropped_clip_brings_its_request_along(make, server, tmp_path, shot):
    record = drawn_clip(tmp_path / "it's <b>mine.mp4")
    make.locator("input[type=file]").set_input_files(tmp_path / "it's <b>mine.mp4")
    make.get_by_text("This file carries the request").wait_for()
    make.get_by_text("it's <b>mine.mp4").wait_for()
    make.get_by_role("button", name="Open its request").click()
    until(lambda: make.locator(".built").inner_text() == record["prompt"])
    until(lambda: make.get_by_label("Seed", exact=True).input_value() == "10")
    until(lambda: make.get_by_label("Seconds", exact=True).input_value() == "1.042")
    make.locator("input[type=file]").set_input_files({"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"})
    make.get_by_text("note.txt is no picture, sound or video.").wait_for()
    make.locator("input[type=file]").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"hello"})
    make.get_by_text("Choose a picture").or_(make.get_by_text("is no picture")).first.wait_for()


def test_everything_is_reached_by_keyboard_and_has_a_name(make):
    nameless = make.evaluate(NAMELESS)
    assert nameless == []
    reached = set()
    name = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
    make.locator("body").press("Tab")
    for _ in range(60):
        reached.add(make.evaluate(name))
        make.keyboard.press("Tab")
    assert {"Skip to the page", "Keep", "Scene", "Line", "Man", "Soft", "Steps", "Choose a file", "Make"} <= reached


def test_a_phone_shows_all_of_it_in_its_width(browser, server, shot):
    context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme="dark")
    phone = context.new_page()
    for path in ("", "keep"):
        phone.goto(f"{server.url}/{path}")
        phone.locator("section").first.wait_for()
        phone.wait_for_timeout(300)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 375
        shot(phone, f"phone-{path or 'make'}")
    context.close()


@pytest.mark.slow  # `test_restart.py` kills servers, and a reload finds the queue above
def test_the_page_comes_back_by_itself_when_its_server_was_killed(make, server):
    """The last test of the file: it ends the server, and another takes its place."""
    fill(make, "Steps", "16")
    fill(make, "Line", "i have a secret for you")
    planned(make, "16 steps")
    press_make(make)
    make.locator(".running .preview").wait_for()
    port, folder = server.port, server.folder
    server.kill()
    server.process.stdout.close()
    again = start(folder, port=port)
    vars(server).update(vars(again))
    make.locator(".running .preview").wait_for()
    until(lambda: line(make) == "i have a secret for you")
    until(lambda: make.locator(".running [role=status]").inner_text() != "")
    store = in_store(server)
    until(lambda: any(job.title.endswith('"i have a secret for you"') for job in store.last_jobs(1)))
    assert (store.last_jobs(1)[0].state, store.last_jobs(1)[0].tries) == ("done", 2)
    store.close()
    make.locator("article.take", has_text="secret").wait_for()
