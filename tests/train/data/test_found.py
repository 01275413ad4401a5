"""What people's folders and captions hold: links, pipes, marks of Windows editors, slips of the pen."""

import os

import numpy as np
import pytest
import soundfile

from mlx_ltxw.prompts.registers import check_prompt, parse
from mlx_ltxw.prompts.script import read_script
from mlx_ltxw.train.data.captions import CaptionFault, Labels, complete
from mlx_ltxw.train.data.dataset import LARGEST_CAPTION, find_sources

GOOD = 'a room, (woman, whispering): "close your eyes"'


def voice(path, caption=GOOD):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800), 8000)
    path.with_suffix(".txt").write_text(caption)


def test_linked_folders_are_entered_once(tmp_path):
    voice(tmp_path / "data/local/b.wav")
    voice(tmp_path / "nas/woman-whispering/a.wav")
    (tmp_path / "data/woman-whispering").symlink_to("../nas/woman-whispering")
    (tmp_path / "data/again").symlink_to("../nas/woman-whispering")
    (tmp_path / "data/local/loop").symlink_to("..")
    sources, findings = find_sources(tmp_path / "data")
    assert [source.name for source in sources] == ["again/a.wav", "local/b.wav"]
    assert {f.code for f in findings} == {"linked-twice"}
    assert sorted(f.file for f in findings) == ["local/loop", "woman-whispering"]


def test_what_is_no_file_is_said(tmp_path):
    voice(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    voice(tmp_path / "b.wav")
    (tmp_path / "b.txt").unlink()
    os.mkfifo(tmp_path / "b.txt")
    voice(tmp_path / "c.wav", "x" * (LARGEST_CAPTION + 1))
    sources, findings = find_sources(tmp_path)
    assert [source.name for source in sources] == ["a.wav"]
    found = {finding.file: finding.text for finding in findings if finding.severity == "error"}
    assert sorted(found) == ["b.wav", "c.wav", "gone.mp4", "pipe.wav"]
    assert "pipe" in found["pipe.wav"]
    assert "leads nowhere" in found["gone.mp4"]
    assert "larger" in found["c.wav"]


@pytest.mark.parametrize(
    ("text", "whole", "slip"),
    [
        ('a room, (woman, whispering) "close your eyes"', GOOD, "is missing"),
        ('a room, (woman, whispering)： "close your eyes"', GOOD, "full-width"),
        ('a room, （woman，whispering）："close your eyes"', GOOD, "full-width"),
        (f"{GOOD} she leans in, smiling.", f"{GOOD} she leans in, smiling.", '"she leans in, smiling"'),
        ('a room, (man): "it is (almost): midnight"', 'a room, (man): "it is (almost): midnight"', None),
        ('(man): "a (b) c", (woman, soft): “d (e): f”', '(man): "a (b) c", (woman, soft): “d (e): f”', None),
        (f"{GOOD}.", f"{GOOD}.", None),
        ('a room, (woman whispering): "hush"', 'a room, (woman whispering): "hush"', "write (woman, whispering): …"),
        ('a room, (hushed man): "hush"', 'a room, (hushed man): "hush"', "write (man, hushed): …"),
        ('woman (whispering): "hush"', 'woman (whispering): "hush"', "names a manner and no speaker"),
    ],
)
def test_slips_are_understood_and_named(text, whole, slip):
    assert complete(text, Labels()) == whole
    hints = [hint.text for hint in check_prompt(text, 10.0) if hint.code == "slip"]
    assert len(hints) == bool(slip)
    assert not slip or slip in hints[0]
    assert not [hint for hint in check_prompt(text, 10.0) if hint.code in ("quotes", "grammar")]


def test_brackets_in_a_line_are_the_lines():
    turns = parse('a room, (man, speaking softly): "it is (almost): midnight" he yawns').turns
    assert [(turn.speaker, turn.line, turn.quoted, turn.after) for turn in turns] == [
        ("man", "it is (almost): midnight", True, "he yawns")
    ]
    assert parse('a sign (red) "OPEN"').turns == ()
    bare = complete("it is (almost) midnight", Labels("man", "soft"))
    assert bare == '(man, speaking softly): "it is (almost) midnight"'
    with pytest.raises(CaptionFault, match="does not parse"):
        complete("a room, (woman, whispering) close your eyes", Labels("man", "soft"))


@pytest.mark.parametrize("first", ["", "# mine\r\n"])
def test_a_script_with_a_byte_order_mark(tmp_path, first):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + f"{first}{GOOD}\r\n".encode())
    assert [part.prompt for part in read_script(tmp_path / "a.txt")] == [GOOD]
