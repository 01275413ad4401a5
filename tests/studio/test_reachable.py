"""Every page can be read and heard: names for what can be used, and a contrast of 4.5 to 1 in both schemes (WCAG)."""

import pytest

from tests.studio.conftest import start
from tests.studio.made import made_take

NAMELESS = """[...document.querySelectorAll(
    'button, input, textarea, select, video, audio, canvas, a, [role=meter], [role=checkbox], [role=switch]')]
  .filter((one) => !one.closest('[aria-hidden=true]') && one.offsetWidth)
  .filter((one) => !one.getAttribute('aria-label') && !one.innerText?.trim() && !one.title && !one.placeholder
    && ![...(one.labels || [])].some((label) => label.innerText.trim()))
  .map((one) => one.outerHTML.slice(0, 160))"""

PALE = """(() => {
  const parts = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return [found.slice(0, 3), found[3] ?? 1];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const [colour, alpha] = parts(getComputedStyle(one).backgroundColor);
      if (alpha > 0.9) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), one = texts.currentNode.parentElement;
    if (!text || !one.offsetWidth || one.closest('.deck-hidden, .deck-stars, script, style, :disabled')) continue;
    const [high, low] = [parts(getComputedStyle(one).color)[0], behind(one)].map(light).sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < 4.5) found.push(`${((high + 0.05) / (low + 0.05)).toFixed(2)}: ${text}`);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reachable") / "studio"
    made_take(folder, "normal", asked_register="whispering")
    made_take(folder, "whispering")
    server = start(folder)
    yield server
    server.stop()
    server.process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/hear?takes=1,2", "/keep", "/train"])
def test_a_page_can_be_read(browser, server, path, scheme):
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(server.url + path)
    page.wait_for_selector(".deck[data-ready], [data-section]")
    page.wait_for_timeout(500)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(PALE) == []
    context.close()
