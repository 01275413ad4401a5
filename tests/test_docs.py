"""README and the pages of `docs/`: links lead somewhere, and commands have only the options that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest

from mlx_ltxw.cli import group

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"```.*?```", re.DOTALL)


def anchors(page):
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text):
    """The words of each `mlx-ltxw NAME ...` in blocks and in backquotes, of lines that go on put together."""
    for line in re.findall(r"(?:^|`|-- \$\(which )(mlx-ltxw[^`\n]*)", text.replace("\\\n", " "), re.MULTILINE):
        if line.count("'") % 2 == 0:
            yield shlex.split(line.replace("mlx-ltxw)", "mlx-ltxw", 1), comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        if name.startswith("http"):
            continue
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "log"], ids=lambda page: page.stem)
def test_commands_have_the_options_that_are_shown(page):
    for words in commands(page.read_text(encoding="utf-8")):
        if len(words) < 2 or not re.fullmatch(r"[a-z]+", words[1]):
            continue
        command = group.get_command(click.Context(group), words[1])
        assert command, words
        known = {"-h", *(name for option in command.params for name in (*option.opts, *option.secondary_opts))}
        assert {word for word in words[2:] if re.match(r"--?[a-z]", word)} <= known, words


def test_commands_are_found():
    text = "```bash\nmlx-ltxw generate 'a b' \\\n    --wav  # --not\n```\nand `mlx-ltxw doctor --verify`"
    assert list(commands(text)) == [["mlx-ltxw", "generate", "a b", "--wav"], ["mlx-ltxw", "doctor", "--verify"]]
