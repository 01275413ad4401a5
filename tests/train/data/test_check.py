"""The data check, on a made set of 40 clips with faults planted in it."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.errors import UserError
from mlx_ltxw.train.data.check import clipped_share
from mlx_ltxw.train.data.clip import read_picture
from mlx_ltxw.train.data.findings import Finding, refuse_errors, table
from mlx_ltxw.train.data.prepare import DataOptions, prepare
from tests.properties import examples
from tests.train.recordings import RATE, SIZE, clean_set, spoken, write, write_mp4


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    clean_set(folder)
    return folder


@pytest.fixture
def some(clean, tmp_path):
    """A copy of some of the clean clips: `some(woman=3, man=3)` of each speaker and manner."""

    def copy(**counts):
        for folder in clean.iterdir():
            voice, speaker, _ = folder.name.split("-")
            for number in range(counts.get(voice, counts.get(speaker, 0))):
                for ending in ("wav", "txt"):
                    target = tmp_path / folder.name / f"{number}.{ending}"
                    target.parent.mkdir(exist_ok=True)
                    shutil.copy(folder / f"{number}.{ending}", target)
        return tmp_path

    return copy


def found(prepared):
    return {(finding.severity, finding.code, finding.file) for finding in prepared.findings}


def test_clean_set_has_no_findings(clean):
    prepared = prepare(clean, SIZE)
    assert prepared.findings == ()
    assert len(prepared.clips) == 40
    refuse_errors(prepared.findings)
    assert prepared.statistics["voices"] == 4
    assert prepared.statistics["measured_registers"] == {"soft": 20, "whispering": 20}
    assert prepared.statistics["speakers"] == {"man": 20, "woman": 20}
    # of a man's whispers the three whose caption is only what is said get the words that the public adapter needs
    assert prepared.statistics["manners"] == {"speaking softly": 20, "whispering": 14, "whispering quietly": 6}


PLANTED = {
    ("error", "no-sound", "anna-woman-soft/0.mp4"),
    ("error", "too-short", "anna-woman-soft/1.mp4"),
    ("error", "silent", "anna-woman-soft/2.wav"),
    ("error", "silent", "anna-woman-soft/3.wav"),
    ("error", "broken", "anna-woman-soft/4.mp4"),
    ("error", "caption", "bella-woman-soft/0.wav"),
    ("error", "caption", "bella-woman-soft/1.wav"),
    ("error", "caption", "bella-woman-soft/2.wav"),
    ("error", "no-caption", "bella-woman-soft/3.wav"),
    ("error", "too-short", "bella-woman-soft/4.wav"),
    ("error", "broken", "erik-man-soft/0.mp4"),
    ("error", "broken", "erik-man-soft/1.wav"),
    ("error", "too-long", "erik-man-soft/2.wav"),
    ("warning", "clipped", "erik-man-soft/3.wav"),
    ("warning", "clipped", "erik-man-soft/4.wav"),
    ("warning", "repeated-caption", "anna-woman-whispering/0.wav"),
    ("warning", "register", "erik-man-whispering/0.wav"),
    ("warning", "register", "erik-man-whispering/1.wav"),
    ("warning", "register", "erik-man-soft/3.wav"),
    ("warning", "register", "erik-man-soft/4.wav"),
    ("warning", "duplicate", "erik-man-whispering/2.wav"),
    ("warning", "quotes", "erik-man-whispering/3.wav"),
    ("warning", "mixed-registers", "erik-man-whispering/4.wav"),
    ("warning", "too-many-words", "frank-man-whispering/0.wav"),
    ("warning", "short", "frank-man-whispering/1.wav"),
    ("warning", "caption-alone", "frank-man-whispering/notes.txt"),
}


def plant(folder):
    """Puts each fault into its clip."""
    anna, bella, erik = (folder / name for name in ("anna-woman-soft", "bella-woman-soft", "erik-man-soft"))
    write_mp4(anna / "0.mp4", 97)
    write_mp4(anna / "1.mp4", 60, np.tile(spoken("open the door", manner="soft"), 2)[:120000])
    write(anna / "2.wav", np.zeros(3 * RATE))
    write(anna / "3.wav", 1e-4 * spoken("open the door"))
    write_mp4(anna / "4.mp4", 97, np.repeat(spoken("the last train leaves", manner="soft"), 2))
    (anna / "4.mp4").write_bytes((anna / "4.mp4").read_bytes()[:-20000])
    for number in (0, 1, 4):
        (anna / f"{number}.wav").unlink()

    (bella / "0.txt").write_text('woman whispering: "open the window"')
    (bella / "1.txt").write_text('a room, (woman, speaking softly): ""')
    (bella / "2.txt").write_bytes(b"caf\xe9")
    (bella / "3.txt").unlink()
    write(bella / "4.wav", spoken("yes", manner="soft", seconds=0.5))

    (erik / "0.wav").rename(erik / "0.mp4")
    (erik / "0.mp4").write_bytes(np.random.default_rng(0).bytes(30000))
    (erik / "1.wav").write_bytes(b"")
    write(erik / "2.wav", np.concatenate([spoken("the road goes down", "m2", "soft")] * 4))
    hot = np.clip(8 * spoken("bring me a glass of water", "m2"), -1, 1)
    write(erik / "3.wav", hot)
    write(erik / "4.wav", 0.6 * np.roll(hot, 100))  # clipped before it was turned down

    whispers = folder / "anna-woman-whispering"
    for number in (1, 2):
        shutil.copy(whispers / "0.txt", whispers / f"{number}.txt")
    whispers = folder / "erik-man-whispering"
    write(whispers / "0.wav", spoken("the cat is hiding", "m2", "normal"))
    write(whispers / "1.wav", spoken("the cat is sleeping", "m2", "soft"))
    shutil.copy(folder / "anna-woman-whispering" / "4.wav", whispers / "2.wav")
    (whispers / "3.txt").write_text("(man, whispering): he found a small key")
    (whispers / "4.txt").write_text('(man, whispering): "wait here", (woman, speaking softly): "for me"')
    whispers = folder / "frank-man-whispering"
    (whispers / "0.txt").write_text(" ".join(f"word{chr(97 + i)}" for i in range(20)))
    write(whispers / "1.wav", spoken("good night my friend", "m7", "whispering", seconds=1.8))
    (whispers / "notes.txt").write_text("to do")


def test_every_planted_fault_is_found_and_nothing_else(clean, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(clean, folder)
    plant(folder)
    prepared = prepare(folder, SIZE)
    assert found(prepared) == PLANTED
    wrong = {file for severity, _, file in PLANTED if severity == "error"}
    assert len(prepared.clips) == 40 - len(wrong)
    assert not {clip.name for clip in prepared.clips} & wrong
    with pytest.raises(UserError, match=r"faults.*12 more"):
        refuse_errors(prepared.findings)
    lines = table(prepared.findings).splitlines()
    assert len(lines) == len(PLANTED)
    assert all(line.startswith("error") for line in lines[: len(wrong)])
    assert all(any(file in line for line in lines) for _, _, file in PLANTED)


def test_faults_of_the_whole_set(some):
    folder = some(anna=4, erik=1)
    assert found(prepare(folder, SIZE)) == {("warning", "few-clips", ""), ("warning", "unbalanced", "")}


def test_few_voices_and_a_register_that_is_rare(some):
    folder = some(anna=5)
    for number in range(1, 5):
        (folder / "anna-woman-soft" / f"{number}.wav").unlink()
        (folder / "anna-woman-soft" / f"{number}.txt").unlink()
    assert found(prepare(folder, SIZE)) == {
        ("warning", "few-clips", ""), ("warning", "few-voices", ""), ("warning", "unbalanced", "")
    }  # fmt: skip


def test_picture_and_sound_alone_together(some):
    folder = some(anna=1, erik=1)
    write_mp4(folder / "anna-woman-soft" / "9.mp4", 97, np.repeat(spoken("the garden is full", "f2", "soft"), 2))
    (folder / "anna-woman-soft" / "9.txt").write_text("the garden is full")
    assert ("warning", "mixed-media", "") in found(prepare(folder, SIZE))
    alone = prepare(folder, SIZE, DataOptions(audio_only=True))
    assert ("warning", "mixed-media", "") not in found(alone)
    assert not any(clip.picture for clip in alone.clips)


def test_no_clips(tmp_path):
    with pytest.raises(UserError, match="no data"):
        prepare(tmp_path / "nowhere", SIZE)
    assert found(prepare(tmp_path, SIZE)) == {("error", "no-clips", "")}


def test_clipped_share():
    tone = np.sin(2 * np.pi * 201.37 * np.arange(48000) / 48000)[:, None]
    cut = np.clip(2 * tone, -1, 1)  # |sin| > 1/2 two thirds of the time
    assert clipped_share(cut) == pytest.approx(2 / 3, abs=0.03)
    assert clipped_share(0.3 * cut) == pytest.approx(2 / 3, abs=0.03)
    assert clipped_share(np.zeros((100, 2))) == 0
    assert clipped_share(np.zeros((0, 2))) == 0


@pytest.mark.parametrize("ending", ["wav", "mp3", "ogg"])
def test_clipping_shows_through_codecs(tmp_path, ending):
    voice = spoken("take a deep breath and count to ten")
    shares = []
    for wave in (0.9 * voice / np.abs(voice).max(), 0.6 * np.clip(8 * voice, -1, 1)):
        soundfile.write(tmp_path / f"clip.{ending}", wave, RATE)
        shares.append(clipped_share(soundfile.read(tmp_path / f"clip.{ending}")[0][:, None]))
    assert shares[0] < 1e-3  # where the check draws the line
    assert shares[1] > 1e-2


def test_table_is_empty_without_findings():
    assert table([]) == ""
    assert table([Finding("warning", "", "few-clips", "Few.")]) == "warning  few-clips  (all clips)  Few."


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """The same words in several containers."""
    folder = tmp_path_factory.mktemp("containers")
    wave = spoken("close your eyes", seconds=1.5)
    for ending in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"clip.{ending}", wave, RATE)
    write_mp4(folder / "clip.mp4", 97, np.repeat(wave, 2))
    return folder


@examples(40)
@given(data=st.data())
def test_broken_media_give_findings_and_never_a_traceback(containers, tmp_path, data):
    folder = tmp_path / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    ending = data.draw(st.sampled_from(["wav", "flac", "ogg", "mp3", "mp4"]))
    content = bytearray((containers / f"clip.{ending}").read_bytes())
    for _ in range(data.draw(st.integers(0, 20))):
        near_header = data.draw(st.booleans())
        at = data.draw(st.integers(0, min(len(content), 300 if near_header else len(content)) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    (folder / f"clip.{ending}").write_bytes(bytes(content))
    (folder / "clip.txt").write_text('(woman, whispering): "close your eyes"')
    prepared = prepare(folder, SIZE)
    assert prepared.clips or any(finding.severity == "error" for finding in prepared.findings)
    for clip in prepared.clips:
        if clip.picture:
            with contextlib.suppress(UserError):
                read_picture(clip)
