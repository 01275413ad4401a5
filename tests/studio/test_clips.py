"""The table of clips, and captions that are edited: what is written is what a training run reads, and nowhere else."""

import json
import os

import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import clips
from mlx_ltxw.studio.clips import check_clips, folders_below, save_caption
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.train.data.captions import complete
from mlx_ltxw.train.data.dataset import find_sources
from tests.train.recordings import spoken, write

LINE = "close your eyes and listen to me"
WHOLE = f'a dim room, (woman, whispering): "{LINE}"'


@pytest.fixture
def studio(tmp_path):
    return StudioFolder.open(tmp_path / "studio")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write(folder / "anna-woman-whispering" / "1.wav", spoken(LINE, "f2", "whispering"))
    (folder / "anna-woman-whispering" / "1.txt").write_text(LINE)
    return folder


def looked(data, studio, **values):
    """The table, once the check has come to its end."""
    for _ in range(20):
        found = check_clips({"data": str(data), **values}, studio)
        if "rows" in found:
            return found
        assert found["done"] <= found["total"]
    raise AssertionError("the check comes to no end")


def edit(data, studio, text, seen=LINE, name="anna-woman-whispering/1.wav", **values):
    return save_caption({"data": str(data), "name": name, "text": text, "seen": seen, **values}, studio)


def test_each_file_has_its_findings(data, studio):
    write(data / "bob" / "2.wav", spoken(LINE, "f2", "normal"))
    (data / "bob" / "2.txt").write_text(WHOLE)
    write(data / "bob" / "3.wav", spoken(LINE, "m2", "normal"))
    found = looked(data, studio)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["anna-woman-whispering/1.wav"]["findings"] == []
    assert rows["anna-woman-whispering/1.wav"]["clips"][0]["caption"] == f'(woman, whispering): "{LINE}"'
    (mismatch,) = rows["bob/2.wav"]["findings"]
    assert mismatch["severity"] == "warning"
    assert "measures as normal" in mismatch["text"]
    (missing,) = rows["bob/3.wav"]["findings"]
    assert missing["severity"] == "error"
    assert "{field" not in missing["text"]
    assert rows["bob/3.wav"]["caption"] is None
    assert rows["bob/3.wav"]["clips"] == []
    assert found["statistics"]["clips"] == 2
    assert any("2 clips" in one["text"] for one in found["about"])


def test_a_long_file_shows_where_it_is_cut(tmp_path, studio):
    words = [
        "the",
        "rain",
        "has",
        "stopped",
        "in",
        "the",
        "garden",
        "and",
        "the",
        "boats",
        "came",
        "home",
        "at",
        "noon",
    ]
    wave = spoken(" ".join(words), "f2", "normal", 8.0)
    write(tmp_path / "long.wav", wave)
    times = np.linspace(0.2, 7.4, len(words) + 1)
    timed = [{"word": word, "start": times[i], "end": times[i] + 0.4} for i, word in enumerate(words)]
    line = {"file": "long.wav", "caption": " ".join(words), "speaker": "woman", "words": timed}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    (row,) = looked(tmp_path / "list.jsonl", studio)["rows"]
    assert len(row["clips"]) == 2
    assert row["clips"][0]["end"] <= row["clips"][1]["start"]
    assert not row["editable"]
    with pytest.raises(UserError, match="can be edited"):
        edit(tmp_path / "list.jsonl", studio, WHOLE, None, "long.wav")


def test_a_long_check_says_how_far_it_is_and_goes_on(data, studio, monkeypatch):
    for number in range(3):
        write(data / "woman" / f"{number}.wav", spoken(LINE, f"f{number + 1}", "normal"))
        (data / "woman" / f"{number}.txt").write_text(LINE)
    monkeypatch.setattr(clips, "AT_ONCE", -1.0)  # each answer does the least: one file
    stages = []
    while "rows" not in (found := check_clips({"data": str(data)}, studio)):
        stages.append((found["stage"], found["done"]))
        monkeypatch.setattr(clips, "AT_ONCE", -1.0 if len(stages) < 2 else 30.0)
    assert stages == [("find", 1), ("find", 1)]
    assert len(found["rows"]) == 4


def test_a_caption_is_written_as_training_reads_it(data, studio):
    saved = edit(data, studio, f"  {WHOLE}\n ")
    file = data / "anna-woman-whispering" / "1.txt"
    assert file.read_text() == saved["text"] == WHOLE + "\n"
    (source,), _ = find_sources(data)
    assert complete(source.text, source.labels) == saved["stands_for"] == WHOLE
    assert saved["slips"] == []
    only_words = edit(data, studio, "good night", WHOLE + "\n")
    assert only_words["stands_for"] == '(woman, whispering): "good night"'
    slip = edit(data, studio, '(woman, whispering) "good night"', "good night\n")
    assert any("colon" in text for text in slip["slips"])
    assert sorted(path.name for path in file.parent.iterdir()) == ["1.txt", "1.wav"]


def test_a_new_caption_gets_a_file(data, studio):
    write(data / "new.wav", spoken(LINE))
    edit(data, studio, WHOLE, None, "new.wav")
    assert (data / "new.txt").read_text() == WHOLE + "\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "says nothing"),
        ("   ", "says nothing"),
        ('(woman, whispering): ""', "says nothing"),
        ("word " * 2000, "characters"),
        ('he said "no" to (the woman)', "does not parse"),
        ("\ud800", "half a character"),
    ],
)
def test_what_is_no_caption_is_not_written(data, studio, text, why):
    with pytest.raises(UserError, match=why):
        edit(data, studio, text)
    assert (data / "anna-woman-whispering" / "1.txt").read_text() == LINE


def test_what_changed_meanwhile_is_not_overwritten(data, studio):
    file = data / "anna-woman-whispering" / "1.txt"
    file.write_text("somebody else's")
    with pytest.raises(UserError, match="changed by another program"):
        edit(data, studio, WHOLE)
    assert file.read_text() == "somebody else's"
    file.unlink()
    with pytest.raises(UserError, match="changed by another program"):
        edit(data, studio, WHOLE)
    assert not file.exists()


def test_nothing_is_written_outside_the_folder(data, studio, tmp_path):
    outside = tmp_path / "outside"
    write(outside / "x.wav", spoken(LINE))
    (outside / "y.txt").write_text("mine")
    (data / "linked").symlink_to(outside)
    os.link(data / "anna-woman-whispering" / "1.wav", data / "y.wav")
    (data / "y.txt").symlink_to(outside / "y.txt")
    names = ["linked/x.wav", "../outside/x.wav", str(outside / "x.wav"), "none.wav", "anna-woman-whispering/1.txt", ""]
    for name in names:
        with pytest.raises(UserError, match="can be edited"):
            edit(data, studio, WHOLE, None, name)
    with pytest.raises(UserError, match="link"):
        edit(data, studio, WHOLE, "mine", "y.wav")
    assert sorted(path.name for path in outside.iterdir()) == ["x.wav", "y.txt"]
    assert (outside / "y.txt").read_text() == "mine"
    rows = {row["name"]: row for row in looked(data, studio)["rows"]}
    assert not rows["linked/x.wav"]["editable"]
    assert not rows["linked/x.wav"]["playable"]


def test_only_sounds_are_played(data, studio):
    (data / "secret.wav").write_text("root:x:0:0")
    listing = data.parent / "list.jsonl"
    files = [data / "secret.wav", data / "anna-woman-whispering" / "1.wav", data / "none.wav"]
    listing.write_text("".join(json.dumps({"file": str(file), "caption": WHOLE}) + "\n" for file in files))
    assert [row["playable"] for row in looked(listing, studio)["rows"]] == [False, True, False]


def test_folders_complete_what_is_typed(tmp_path, studio):
    for name in ("alpha", "alps", "beta", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "alone.txt").touch()
    assert folders_below({"text": f"{tmp_path}/al"}, studio) == {
        "folders": [str(tmp_path / "alpha"), str(tmp_path / "alps")]
    }
    assert str(tmp_path / ".hidden") in folders_below({"text": f"{tmp_path}/."}, studio)["folders"]
    assert folders_below({"text": f"{tmp_path}/none/x"}, studio) == {"folders": []}


def test_a_folder_is_a_whole_path(studio):
    with pytest.raises(UserError, match="no whole path"):
        check_clips({"data": "clips"}, studio)
