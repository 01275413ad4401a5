"""Hear in a browser: played in step, switched at the same moment, measured, judged, deleted and brought back."""

import itertools
import re

import pytest

from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.store import Store
from tests.studio.conftest import start, until
from tests.studio.made import LINE, made_take

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
DECK = "document.querySelector('.deck').deck"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A studio with four takes, the last of them hostile; each test may change what it likes of takes 1 to 3."""
    folder = tmp_path_factory.mktemp("hear") / "studio"
    for manner in ("normal", "whispering", "soft"):
        made_take(folder, manner, shown=1 if manner == "soft" else 0)
    made_take(folder, "normal", f"{HOSTILE} {LINE}", note=HOSTILE, asked_register="whispering")
    server = start(folder)
    yield server
    server.stop()
    server.process.stdout.close()


def opened(page, server, takes="1,2,3"):
    page.goto(f"{server.url}/hear?takes={takes}")
    page.wait_for_selector(".deck[data-ready]")
    return page


def deck(page, expression):
    return page.evaluate(f"(() => {{ const deck = {DECK}; return {expression}; }})()")


def heard(page):
    """How loud each take is."""
    return deck(page, "deck.sounds.nodes.map((node) => Math.round(node.gain.gain.value))")


def kept(server, take):
    store = Store(StudioFolder(server.folder).database)
    found = store.take(take)
    store.close()
    return found


def test_all_play_in_step_and_one_key_switches_at_the_same_moment(page, server, shot):
    opened(page, server)
    page.wait_for_function(f"{DECK}.rows.every((row) => row.screen.readyState === 4)")  # canplaythrough
    page.keyboard.press("Space")
    page.wait_for_function(f"{DECK}.sounds.time() > 0.4")
    page.keyboard.press("1")
    until(lambda: heard(page) == [1, 0, 0])
    before = deck(page, "[performance.now(), deck.sounds.time()]")
    page.keyboard.press("2")
    until(lambda: heard(page) == [0, 1, 0])
    after = deck(page, "[performance.now(), deck.sounds.time()]")
    assert after[1] - before[1] == pytest.approx((after[0] - before[0]) / 1000, abs=0.06)  # no jump
    page.keyboard.press("x")
    until(lambda: heard(page) == [1, 0, 0])
    until(lambda: page.locator(".deck-letter[aria-pressed=true]").inner_text() == "A")
    off = deck(page, "deck.rows.map((row) => row.screen.currentTime - deck.sounds.time())")
    assert max(map(abs, off)) < 0.2
    page.keyboard.press("Space")
    time = deck(page, "deck.sounds.time()")
    page.wait_for_timeout(100)
    assert deck(page, "deck.sounds.time()") == time
    shot(page, "hear")


def test_a_selection_is_played_round_and_round(page, server):
    opened(page, server)
    box = page.locator(".deck-views").first.bounding_box()
    middle = box["y"] + 40
    page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.40 * box["width"], middle, steps=3)
    page.mouse.up()
    until(lambda: page.get_by_role("button", name="Loop").get_attribute("aria-pressed") == "true")
    first, last = deck(page, "deck.selection")
    length = deck(page, "deck.length")
    assert (first / length, last / length) == pytest.approx((0.25, 0.40), abs=0.01)
    page.keyboard.press("Space")
    seen = page.evaluate(
        f"""new Promise((done) => {{
          const seen = [], began = performance.now();
          const look = () => {{
            seen.push({DECK}.sounds.time());
            if (performance.now() - began < 800) requestAnimationFrame(look); else done(seen);
          }};
          look();
        }})"""
    )
    assert first - 0.02 <= min(seen)
    assert max(seen) <= last + 0.02
    assert sum(later < earlier for earlier, later in itertools.pairwise(seen)) >= 2
    page.keyboard.press("z")
    assert deck(page, "deck.view") == [first, last]
    page.keyboard.press("Escape")
    page.keyboard.press("Space")
    assert deck(page, "[deck.selection, deck.sounds.loop, deck.sounds.playing]") == [None, None, False]


def test_equally_loud_means_equal_lufs_without_clipping(page, server):
    opened(page, server)
    page.get_by_label("Note on A").fill("")
    page.keyboard.type("m d 2")  # keys leave text fields alone
    assert page.get_by_label("Note on A").input_value() == "m d 2"
    assert deck(page, "[deck.chosen, deck.matched, deck.differing]") == [0, False, False]
    page.get_by_label("Note on A").blur()
    page.keyboard.press("m")
    gains = deck(page, "deck.takes.map((take) => take.gain)")
    takes = deck(page, "deck.takes.map((take) => [take.shown.measured.lufs, take.shown.measured.true_peak])")
    loud = [lufs + gain for (lufs, _), gain in zip(takes, gains, strict=True)]
    assert max(loud) - min(loud) < 0.02
    assert max(peak + gain for (_, peak), gain in zip(takes, gains, strict=True)) <= -0.98
    page.keyboard.press("3")
    page.keyboard.press("Space")
    factor = pytest.approx(10 ** (gains[2] / 20), rel=1e-3)
    until(lambda: deck(page, "deck.sounds.nodes[2].gain.gain.value") == factor)
    page.locator(".deck-status", has_text=re.compile(r"Equally loud, by dB: A [+−]")).wait_for()


def test_stars_and_notes_are_kept(page, server):
    opened(page, server, "2,3")
    page.keyboard.press("2")
    for _ in range(3):
        page.keyboard.press("s")
    page.get_by_label("Note on B").fill("too breathy")
    page.get_by_label("Note on B").press("Tab")
    until(lambda: (kept(server, 3).stars, kept(server, 3).note) == (3, "too breathy"))
    assert kept(server, 2).stars == 0
    opened(page, server, "3")
    until(page.get_by_label("3 of 5 stars").is_checked)
    until(lambda: page.get_by_label("Note on A").input_value() == "too breathy")
    page.locator("label[for=stars-3-3]").click()  # the same star again takes them away
    until(lambda: kept(server, 3).stars == 0)


def test_delete_and_undo(page, server):
    opened(page, server)
    page.keyboard.press("2")
    page.keyboard.press("Delete")
    page.get_by_text("is deleted").wait_for()
    until(lambda: kept(server, 2).deleted_at is not None)
    page.wait_for_function("document.querySelectorAll('.deck-take').length === 2")
    page.wait_for_function("location.search === '?takes=1,3'")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("document.querySelectorAll('.deck-take').length === 3")
    until(lambda: kept(server, 2).deleted_at is None)
    until(lambda: page.locator(".deck-take").nth(1).get_attribute("data-take") == "2")
    page.wait_for_selector(".deck[data-ready]")
    page.locator("body").press("1")
    page.keyboard.press("Delete")
    page.get_by_text("is deleted").wait_for()
    page.keyboard.press("Control+z")
    page.get_by_text("is back").wait_for()
    until(lambda: kept(server, 1).deleted_at is None)
    page.wait_for_selector(".deck[data-ready]")
    page.locator("body").press("Delete")
    page.get_by_text("is deleted").wait_for()
    page.goto(f"{server.url}/keep")  # later, elsewhere
    page.get_by_text("Deleted in the last week").click()
    page.get_by_role("button", name="Bring back: ").click()
    until(lambda: all(kept(server, take).deleted_at is None for take in (1, 2, 3)))
    page.get_by_text("Deleted in the last week").wait_for(state="hidden")


def test_the_difference_of_pictures(page, server):
    opened(page, server)
    page.keyboard.press("d")
    page.get_by_text("The pictures are the same in all 49 frames.").wait_for()  # takes 1 and 2 share theirs
    page.wait_for_function(f"{DECK}.rows.every((row) => row.screen.readyState >= 2)")
    page.keyboard.press(".")

    def brightest():
        page.wait_for_timeout(150)
        return page.evaluate(
            f"""(() => {{
              const deck = {DECK};
              deck.drawDifferenceNow();
              const canvas = deck.differenceCanvas;
              const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              return Math.max(...data.filter((_, at) => at % 4 < 3));
            }})()"""
        )

    assert brightest() < 16  # two decoders may round otherwise: one level, eight times as bright
    page.keyboard.press("3")
    page.get_by_text("of 49 frames differ").wait_for()
    assert brightest() > 100


def test_what_people_wrote_is_shown_as_text(page, server, shot):
    opened(page, server, "4")
    until(lambda: HOSTILE in page.locator(".deck-title").inner_text())
    until(lambda: page.get_by_label("Note on A").input_value() == HOSTILE)
    page.get_by_text("asked for whispering").wait_for()
    page.keyboard.press("Delete")
    page.get_by_text("is deleted").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("is back").wait_for()
    page.wait_for_selector(".deck[data-ready]")
    page.locator("body").press("e")
    page.get_by_role("link", name="Sound (wav)").wait_for()
    until(lambda: "onerror" in page.locator(".code").first.inner_text())
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src=x]").count() == 0


def test_addresses_lead_to_nothing_else(page, server):
    opened(page, server, "1")
    statuses = page.evaluate(
        """Promise.all([
          "/media/shown/take/1/sound.flac", "/media/shown/take/99/sound.flac", "/media/shown/take/1/shown.json",
          "/media/shown/take/1/..%2f..%2fstudio.db", "/media/shown/run/..%2f../0/1/sound.flac",
          "/media/shown/run/none/0/1/sound.flac", "/media/shown/clips/none/0/file", "/static/..%2fstore.py",
        ].map((path) => fetch(path).then((answer) => answer.status)))"""
    )
    assert statuses == [200, *[404] * 7]


def test_it_fits_a_phone_in_both_schemes(browser, server, shot):
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page = opened(context.new_page(), server)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.wait_for_function(f"document.body.classList.contains('body--dark') === {str(scheme == 'dark').lower()}")
        shot(page, f"hear-phone-{scheme}")
        context.close()


def test_sound_alone_is_heard_beside_a_picture(page, server):
    wav = made_take(server.folder, "whispering", sound_alone=True)
    opened(page, server, f"{wav},1")
    assert page.get_by_text("sound alone", exact=True).count() == 1
    assert page.locator(".deck video").count() == 1
    assert page.get_by_role("button", name="Difference of pictures").count() == 0
    page.keyboard.press("Space")
    page.wait_for_function(f"{DECK}.sounds.time() > 0.2 && {DECK}.rows[1].screen.currentTime > 0.1")
    page.locator("body").press("e")
    page.get_by_role("link", name="Sound (wav)").wait_for()
    assert page.get_by_role("link", name="Video with sound (mp4)").count() == 0
    with page.expect_download() as download:
        page.get_by_role("link", name="Sound (wav)").click()
    assert download.value.path().read_bytes() == (server.folder / "takes" / kept(server, wav).file).read_bytes()


@pytest.mark.slow
def test_a_take_beside_the_same_with_lips_that_follow(page, server):
    """The built-in model makes it; the rest of the request is the take's own."""
    made = made_take(server.folder, request={"adapters": ("whisper-mixed",), "frames": 49, "steps": 1})
    opened(page, server, str(made))
    page.get_by_role("button", name="With lips that follow").click()
    page.wait_for_function("document.querySelectorAll('.deck-take').length === 2", timeout=120000)
    page.wait_for_selector(".deck[data-ready]")
    other = int(page.locator(".deck-take").nth(1).get_attribute("data-take"))
    records = [{**kept(server, one).record} for one in (made, other)]
    assert [record["lock_video"] for record in records] == [True, False]
    assert records[0]["prompt"] == records[1]["prompt"]
    assert records[0]["seeds"] == records[1]["seeds"]
    page.get_by_role("button", name="Under the lock").wait_for()
    page.keyboard.press("d")
    page.get_by_text(re.compile("frames differ|different sizes")).wait_for()


def test_without_an_address_the_newest_are_heard_and_others_can_be_ticked(page, server):
    page.goto(f"{server.url}/hear")
    page.wait_for_selector(".deck[data-ready]")
    until(lambda: page.locator(".deck-take").count() == 1)
    page.get_by_text("Add or change takes").click()
    page.locator(".history .q-checkbox").nth(2).click()
    page.get_by_role("button", name="Hear these").click()
    page.wait_for_url(re.compile(r"/hear\?takes=\d,\d$"))
    page.goto(f"{server.url}/hear?takes=99,x,-1,1e3")
    page.wait_for_selector(".deck[data-ready], main >> text=Choose takes")
