"""Any text as a prompt, a take, stretches of time or a script: read, or refused in a sentence."""

import itertools
import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.intervals import gate, parse_intervals
from mlx_ltxw.prompts.lines import check_lines
from mlx_ltxw.prompts.manner import with_manner
from mlx_ltxw.prompts.registers import build_prompt, check_prompt, mend, parse, slips
from mlx_ltxw.prompts.script import read_script
from mlx_ltxw.prompts.takes import MOST, read_take, takes_of
from tests.properties import ODD, examples

PIECES = [
    "(woman, whispering): ", "(man, whispering quietly): ", "（woman，soft）：", "(woman)", "(whispering)", "“hush”",
    "\"hush\"", "\"", "«hush»", "(", ")", ":", ",", "a dim room", ", ", "\n", " ", "é", "\u2028", "\u0130", "\ud800",
]  # fmt: skip
PROMPTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.text(max_size=60))
PARTS = [
    "manner=", "whispering", "soft", "normal", "seed=", "+", "-1", "3", "٣", "²", "adapter=", "none", "whisper:0.8",
    "prompt=", "'hush now'", '"', "'", "\\", " ", ",", "=", "\n", "\x00", "#", "MANNER=soft", "seed=+1", "a=1,b=2",
]  # fmt: skip
TAKES = st.one_of(st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.text(max_size=40))
TIMES = [
    "0-1=whispering",
    "1-2=normal",
    "0",
    "-",
    "=",
    ",",
    ".",
    "1",
    "2.5",
    "soft",
    "0.5",
    " ",
    "٣",
    "²",
    "1e3",
    "nan",
]
WRITTEN = st.one_of(st.lists(st.sampled_from(TIMES), max_size=10).map("".join), st.text(max_size=30))


@examples(200)
@given(PROMPTS)
def test_any_text_is_a_prompt(text):
    """Mended twice it is as mended once, and says the same; a hint can be printed."""
    parsed, mended = parse(text), mend(text)
    assert mend(mended) == mended
    assert [(t.speaker, t.manner, t.line) for t in parse(mended).turns] == [
        (t.speaker, t.manner, t.line) for t in parsed.turns
    ]
    assert not slips(parse(mended)) or slips(parsed)
    for hint in (*check_prompt(text, 4.0), *check_prompt(text, 0.5, adapter=False), *check_lines(text, ["hush"])):
        assert str(hint).strip()
    for manner in ("whispering", "soft", "normal"):
        try:
            spoken = with_manner(text, manner)
        except UserError:
            continue
        assert len(parse(spoken).turns) == len(parsed.turns)


@examples(100)
@given(st.text(max_size=30), st.sampled_from(["woman", "man"]), st.sampled_from(["whispering", "soft", "normal"]),
       st.text(max_size=30))  # fmt: skip
def test_what_is_built_is_read_as_it_was_meant(scene, speaker, manner, line):
    """The last speaker says the line; a scene may have speakers of its own."""
    try:
        prompt = build_prompt(scene, speaker, manner, line)
    except UserError:
        return
    turn = parse(prompt).turns[-1]
    assert (turn.speaker, turn.quoted, turn.after) == (speaker, True, "")
    assert turn.line in line


@examples(200)
@given(TAKES)
def test_a_take_is_read_again_as_it_is_written(text):
    try:
        take = read_take(text)
    except UserError:
        return
    assert read_take(str(take)) == take


@pytest.mark.parametrize("values", [[3], [None], [["soft"]], {"soft": 1}, 2.5, True, None])
def test_what_is_no_text_is_no_take(values):
    with pytest.raises(UserError, match="are no takes"):
        takes_of(values)


@examples(100)
@given(st.one_of(TAKES, st.lists(TAKES, max_size=3), st.integers(), ODD))
def test_any_takes_are_takes_or_a_sentence(given_takes):
    try:
        takes = takes_of(given_takes)
    except UserError:
        return
    assert 1 <= len(takes) <= MOST
    assert takes_of(takes) == takes


@examples(200)
@given(WRITTEN)
def test_stretches_of_time_have_no_gap(text):
    try:
        intervals = parse_intervals(text)
    except UserError:
        return
    assert intervals[0].start == 0
    assert all(before.end == after.start for before, after in itertools.pairwise(intervals))
    strengths = gate(intervals, np.linspace(0, intervals[-1].end, 50))
    assert np.isfinite(strengths).all()


FIELDS = st.dictionaries(
    st.sampled_from(["scene", "speaker", "manner", "line", "seconds", "adapter", "strength", "seed", "x", 1]),
    st.one_of(ODD, st.sampled_from(["woman", "man", "whispering", "normal", "a dim room", "hush", 2, 0.5, ["none"]])),
    max_size=8,
)
WHOLE = {"scene": "a dim room", "speaker": "woman", "manner": "soft", "line": "hush"}


@pytest.mark.parametrize("ending", ["json", "yaml", "txt"])
@examples(100)
@given(st.one_of(st.lists(FIELDS.map(lambda fields: WHOLE | fields), max_size=3), FIELDS), PROMPTS, st.booleans())
def test_any_script_has_parts_or_is_refused(tmp_path, ending, values, text, table):
    path = tmp_path / f"script.{ending}"
    if table and ending != "txt":
        text = json.dumps(values) if ending == "json" else yaml.safe_dump(values, allow_unicode=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        parts = read_script(path)
    except UserError:
        return
    assert parts
    assert all(parse(part.prompt).turns for part in parts)
    assert all(part.seconds is None or 0 < part.seconds <= 600 for part in parts)
