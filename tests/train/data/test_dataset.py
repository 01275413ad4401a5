"""From files to clips: folders, JSONL, long files, transcripts, and what each clip sounds and looks like."""

import json
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.video import picture_seconds
from mlx_ltxw.train.data.captions import Labels
from mlx_ltxw.train.data.clip import TrainingClip, read_picture, read_sound
from mlx_ltxw.train.data.cutting import RATE, Word
from mlx_ltxw.train.data.dataset import find_sources, write_listing
from mlx_ltxw.train.data.prepare import DataOptions, clips_of, prepare
from mlx_ltxw.train.data.transcribe import Remembered, Transcript, from_whisper, whisper
from tests.properties import examples
from tests.train.data.test_cutting import bursts
from tests.train.recordings import SIZE, pictures, spoken, write, write_mp4

WHOLE = '(woman, whispering): "close your eyes"'


def listing(folder, *records):
    path = folder / "clips.jsonl"
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def only(findings):
    (finding,) = findings
    return finding


# --- finding


def test_folder(tmp_path):
    for name in ("woman-soft/b.wav", "woman-soft/a.flac", "c.mp3", ".hidden/d.wav", "woman-soft/e.dat"):
        write(tmp_path / name, np.zeros(4000), format="WAV")
    (tmp_path / "woman-soft" / "a.txt").write_text("close")
    for name in ("readme.md", "picture.png", "noise.bin", "c.txt"):
        (tmp_path / name).write_bytes(b"text")
    sources, findings = find_sources(tmp_path, Labels(speaker="man", scene="a room"))
    assert findings == []
    assert [source.name for source in sources] == ["c.mp3", "woman-soft/a.flac", "woman-soft/b.wav", "woman-soft/e.dat"]
    assert [source.text for source in sources] == ["text", "close", None, None]
    assert sources[0].labels == Labels("man", None, "a room")
    assert sources[1].labels == Labels("woman", "soft", "a room")


def test_the_data_folder_itself_may_tell(tmp_path):
    write(tmp_path / "woman-whispering" / "a.wav", np.zeros(4000))
    (source,), _ = find_sources(tmp_path / "woman-whispering")
    assert source.labels == Labels("woman", "whispering")


def test_jsonl(tmp_path):
    path = listing(
        tmp_path,
        {"file": "man-soft/a.wav", "caption": "close"},
        "",
        {"file": str(tmp_path / "b.wav"), "caption": WHOLE, "speaker": "man", "manner": "crying", "scene": "a room",
         "voice": "erik", "start": 1, "end": 2.5, "words": [{"word": "close", "start": 1.1, "end": 1.4}]},
    )  # fmt: skip
    (first, second), findings = find_sources(path, Labels(manner="normal", scene="a wood"))
    assert findings == []
    assert (first.path, first.labels) == (tmp_path / "man-soft" / "a.wav", Labels("man", "soft", "a wood"))
    assert (first.start, first.end, first.words) == (0, float("inf"), ())
    assert second.labels == Labels("man", "crying", "a room", "erik")
    assert (second.start, second.end, second.words) == (1, 2.5, (Word(" close", 1.1, 1.4),))


@pytest.mark.parametrize(
    "record",
    [
        "{", "[]", "3", {"caption": "x"}, {"file": ""}, {"file": 3}, {"file": "a\0.wav"}, {"file": "a", "lines": "x"},
        {"file": "a", "start": "0"}, {"file": "a", "start": -1}, {"file": "a", "start": True}, {"file": "a", "end": 0},
        '{"file": "a", "end": NaN}', '{"file": "\\ud800"}', '{"\\ud800": 1}', {"file": "a", "words": 3},
        {"file": "a", "words": [1]}, '{"file": "a", "file": "b"}', '{"file": "a", "end": 1e999}',
        {"file": "a", "words": [{"word": "x", "start": 1}]}, "[" * 100000,
        {"file": "a", "words": [{"word": "x", "start": 2, "end": 1}]}, '{"file": "a", "end": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_a_bad_line_is_found_with_its_number(tmp_path, record):
    sources, findings = find_sources(listing(tmp_path, {"file": "a.wav"}, record))
    assert len(sources) == 1
    assert (only(findings).severity, only(findings).file, only(findings).code) == ("error", "clips.jsonl:2", "listing")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.dictionaries(st.sampled_from(["file", "caption", "speaker", "start", "end", "words", "x"]), json_values)


@examples(150)
@given(st.one_of(fields.map(json.dumps), st.text(max_size=50)))
def test_any_jsonl_is_sources_or_findings(tmp_path, line):
    path = tmp_path / "any.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogatepass"))
    try:
        prepared = prepare(path, SIZE)
    except UserError:
        return
    assert not prepared.clips
    assert prepared.findings


def test_not_data(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(UserError, match="neither a folder nor a JSONL"):
        find_sources(tmp_path / "a.wav")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        find_sources(tmp_path / "a.jsonl")


def test_a_name_that_is_no_text(tmp_path):
    try:
        write(tmp_path / "a.wav", np.zeros(4000))
        (tmp_path / "a.wav").rename(tmp_path / "\udcff.wav")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no such names")
    _, findings = find_sources(tmp_path)
    assert only(findings).code == "broken"
    assert only(findings).file.encode("utf-8")


def test_listing_gives_the_same_clips_again(tmp_path):
    wave = np.concatenate([spoken("the road goes down", seconds=2.5), spoken("wait for me", seconds=2.2)] * 2)
    write(tmp_path / "anna-woman" / "long.wav", wave)
    write(tmp_path / "anna-woman" / "short.wav", spoken("close your eyes"))
    (tmp_path / "anna-woman" / "short.txt").write_text("close your eyes")
    options = DataOptions(Labels(manner="normal"), transcribe=True)
    first = prepare(tmp_path, SIZE, options, transcriber=lambda mono: Transcript(f"words {len(mono)}"))
    assert len(first.clips) > 2
    write_listing(tmp_path / "clips.jsonl", first.clips)
    again = prepare(tmp_path / "clips.jsonl", SIZE)
    keep = [(c.path.name, c.caption, c.window, c.start, c.end, c.picture, c.voice) for c in first.clips]
    assert [(c.path.name, c.caption, c.window, c.start, c.end, c.picture, c.voice) for c in again.clips] == keep


# --- cutting


def long_file(folder, **fields):
    write(folder / "a.wav", bursts([(1, 3), (3.5, 5), (7, 9.5)], 12), RATE)
    return only(find_sources(listing(folder, {"file": "a.wav", **fields}))[0])


def test_known_words_are_shared_out(tmp_path):
    times = {"one": (1, 2), "two": (2, 3), "three": (3.5, 5), "four": (7, 9.5)}
    words = [{"word": word, "start": start, "end": end} for word, (start, end) in times.items()]
    source = long_file(tmp_path, caption='a room, (woman, softly): "one two three four"', words=words)
    clips, findings = clips_of(source, SIZE)
    assert findings == []
    # up to 3.94 s of words fit: one (1 s) two three (5 s, 4 s after) do not; the pause at 3 is the widest and the only
    assert [clip.caption for clip in clips] == [
        'a room, (woman, softly): "one two"', 'a room, (woman, softly): "three"', 'a room, (woman, softly): "four"'
    ]  # fmt: skip
    assert [(c.start, c.end) for c in clips] == [pytest.approx(s) for s in [(0.9, 3.25), (3.4, 6), (6.9, 10.941667)]]
    assert clips[1].name == "a.wav 3.40-6.00 s"


def test_a_long_file_whose_words_have_no_times_is_refused(tmp_path):
    clips, findings = clips_of(long_file(tmp_path, caption=WHOLE), SIZE)
    assert (clips, only(findings).code) == ([], "too-long")


def test_a_long_file_with_little_speech_is_one_clip_around_it(tmp_path):
    write(tmp_path / "a.wav", bursts([(6, 8)], 12), RATE)
    (tmp_path / "a.txt").write_text(WHOLE)
    (clip,), findings = clips_of(only(find_sources(tmp_path)[0]), SIZE)
    assert findings == []
    assert (clip.window, clip.start, clip.end) == pytest.approx((5.9, 5.9, 5.9 + SIZE.seconds), abs=0.011)


def test_transcriber_without_times_hears_each_piece(tmp_path):
    heard = []

    def listen(mono):
        heard.append(len(mono) / RATE)
        return Transcript(["all of it", "first", "second", "third"][len(heard) - 1])

    source = long_file(tmp_path, speaker="man", manner="whispering")
    clips, findings = clips_of(source, SIZE, hears=listen)
    assert findings == []
    assert [clip.caption for clip in clips] == [
        f'(man, whispering quietly): "{text}"' for text in ("first", "second", "third")
    ]
    assert heard == pytest.approx([12, *(clip.end - clip.start for clip in clips)], abs=1e-3)


def test_transcriber_with_times(tmp_path):
    words = (Word(" One,", 1, 3), Word(" two.", 3.5, 5), Word(" Three", 7, 9.5), Word("", 9.5, float("nan")))
    source = long_file(tmp_path, caption='(woman, softly): "something else"')
    clips, _ = clips_of(source, SIZE, hears=lambda mono: Transcript("One, two. Three", words))
    assert [clip.caption for clip in clips] == [f'(woman, softly): "{text}"' for text in ("One,", "two.", "Three")]


def test_nothing_understood(tmp_path):
    write(tmp_path / "woman" / "a.wav", spoken("close your eyes"))
    _, findings = clips_of(only(find_sources(tmp_path)[0]), SIZE, hears=lambda mono: Transcript(" [silence] "))
    assert only(findings).code == "no-words"


def test_leftovers_are_told(tmp_path):
    write(tmp_path / "a.wav", bursts([(1, 4.5), (7, 7.3)], 12), RATE)
    source = only(find_sources(listing(tmp_path, {"file": "a.wav", "speaker": "man"}))[0])
    clips, findings = clips_of(source, SIZE, hears=lambda mono: Transcript("word"))
    assert len(clips) == 1
    assert (only(findings).severity, only(findings).code) == ("warning", "left-over")


# --- what a clip holds


def clip(path, window=0.0, start=0.0, end=100.0, picture=False):
    return TrainingClip(path, path.name, WHOLE, SIZE, window, start, end, picture)


def test_sound_is_padded_doubled_and_muted_outside(tmp_path):
    wave = np.sin(np.arange(6 * RATE) * 0.1).astype(np.float32)
    write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    samples = -int(-97 * RATE // 24)
    heard = read_sound(clip(tmp_path / "a.wav", window=1.0), RATE)
    assert heard.shape == (samples, 2)
    assert np.array_equal(heard[:, 0], wave[RATE : RATE + samples])
    assert np.array_equal(heard[:, 0], heard[:, 1])
    late = read_sound(clip(tmp_path / "a.wav", window=3.0), RATE)
    assert late.shape == (samples, 2)
    assert np.array_equal(late[: 3 * RATE, 0], wave[3 * RATE :])
    assert not late[3 * RATE :].any()
    part = read_sound(clip(tmp_path / "a.wav", window=1.0, start=1.5, end=3.0), RATE)
    own, fade = slice(RATE // 2, 2 * RATE + 1), 80  # 5 ms
    assert np.array_equal(part[own], heard[own])
    assert not part[: RATE // 2 - fade].any()
    assert not part[2 * RATE + fade :].any()
    assert np.all(np.abs(part) <= np.abs(heard))


@pytest.mark.parametrize(("have", "held"), [(97, 0), (96, 1), (89, 8)])
def test_a_picture_may_be_a_latent_frame_short(tmp_path, have, held):
    write_mp4(tmp_path / "a.mp4", have, np.zeros(48000))
    frames = read_picture(clip(tmp_path / "a.mp4", picture=True))
    assert frames.shape == (97, 64, 64, 3)
    # the made brightness rises by 5 a frame (modulo 256)
    wanted = pictures(have)[[*range(have), *[have - 1] * held]]
    distance = np.abs(frames.astype(int) - wanted)
    assert np.median(distance) <= 4
    assert np.array_equal(frames[have - 1 :], np.repeat(frames[have - 1 : have], held + 1, axis=0))
    assert picture_seconds(tmp_path / "a.mp4") == pytest.approx(have / 24, abs=1e-3)


def test_a_shorter_picture_is_refused(tmp_path):
    write_mp4(tmp_path / "a.mp4", 88, np.zeros(48000))
    with pytest.raises(UserError, match="too short"):
        read_picture(clip(tmp_path / "a.mp4", picture=True))
    (tmp_path / "a.txt").write_text(WHOLE)
    _, findings = clips_of(only(find_sources(tmp_path)[0]), SIZE)
    assert only(findings).code == "too-short"


def test_another_rate_and_size_are_conformed(tmp_path):
    write_mp4(tmp_path / "a.mp4", 130, np.zeros(48000), rate=30.0)
    frames = read_picture(clip(tmp_path / "a.mp4", picture=True))
    wanted = pictures(130)[(np.arange(97) * 30 / 24 + 1e-6).astype(int)]
    assert np.median(np.abs(frames.astype(int) - wanted)) <= 4


# --- transcripts


def test_whisper_without_its_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlx_whisper", None)
    with pytest.raises(UserError, match=r"mlx-ltxw\[asr\]"):
        prepare(tmp_path, SIZE, DataOptions(transcribe=True))


def test_whisper_is_asked_for_word_times(monkeypatch):
    asked = []

    def transcribe(audio, **options):
        asked.append((audio, options))
        return {
            "text": " Close your eyes.",
            "segments": [{"words": [{"word": " Close", "start": np.float64(0.1), "end": 0.4, "probability": 0.9}]}],
        }

    monkeypatch.setitem(sys.modules, "mlx_whisper", types.SimpleNamespace(transcribe=transcribe))
    mono = np.zeros(16000, np.float32)
    assert whisper("a/model")(mono) == Transcript("Close your eyes.", (Word(" Close", 0.1, 0.4),))
    assert asked[0][0] is mono
    assert asked[0][1] == {"path_or_hf_repo": "a/model", "word_timestamps": True}
    assert from_whisper({"text": ""}) == Transcript("")


def test_nothing_is_heard_twice(tmp_path):
    heard = []

    def listen(mono):
        heard.append(len(mono))
        return Transcript("close", (Word(" close", 0.1, 0.5),))

    write(tmp_path / "data" / "woman" / "a.wav", spoken("close your eyes"))
    options = DataOptions(transcribe=True)
    for _ in range(2):
        prepared = prepare(tmp_path / "data", SIZE, options, folder=tmp_path / "run", transcriber=listen)
        assert prepared.clips[0].caption == '(woman): "close"'
    assert len(heard) == 1
    kept = Remembered(listen, tmp_path / "run" / "transcripts.json")
    assert kept(np.ones(5, np.float32)) == kept(np.ones(5, np.float32)) == listen(np.zeros(1))
    assert heard == [heard[0], 5, 1]
    (tmp_path / "run" / "transcripts.json").write_text('{"a": 3}')
    with pytest.raises(UserError, match="Delete it"):
        Remembered(listen, tmp_path / "run" / "transcripts.json")
