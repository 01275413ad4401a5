"""Long files into clips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.train.data.cutting import HOP, LEAD, RATE, Word, cut, levels, read_levels, read_mono, sounds
from tests.properties import examples
from tests.train.recordings import write

WINDOW = 4.04


def bursts(spans, seconds, level=0.1):
    """(N,) at 16 kHz: noise in the spans, near silence elsewhere."""
    random = np.random.default_rng(0)
    wave = 1e-5 * random.standard_normal(round(seconds * RATE))
    for start, end in spans:
        wave[round(start * RATE) : round(end * RATE)] += level * random.standard_normal(round((end - start) * RATE))
    return wave.astype(np.float32)


def test_sounds_are_what_stands_between_pauses():
    spans = [(0.5, 1.5), (1.6, 2.0), (3.0, 3.02), (4.0, 4.5)]
    found = sounds(levels([bursts(spans, 6)]).rms, 3.0)
    wanted = [(0.5, 2.0), (4.0, 4.5)]  # a gap of 0.1 s is a consonant, 20 ms of sound are a click
    assert [(w.start, w.end) for w in found] == [pytest.approx(span, abs=0.011) for span in wanted]


def test_sounds_of_a_whisper_after_a_loud_voice_are_found():
    wave = bursts([(1, 3)], 30, 0.3) + bursts([(21, 23)], 30, 0.01)
    assert [round(word.start) for word in sounds(levels([wave]).rms, 4.0)] == [1, 21]


def test_speech_without_pause_is_parted_where_it_is_quietest():
    wave = bursts([(0, 3.0), (3.0, 6.0)], 6)
    wave[round(2.7 * RATE) : round(2.75 * RATE)] *= 0.3  # still speech
    found = sounds(levels([wave]).rms, 3.5)
    assert found[0].end == found[1].start == pytest.approx(2.72, abs=0.05)
    assert max(word.end - word.start for word in found) <= 3.5


def test_cut_in_the_widest_pause():
    # windows of 4.04 s hold words up to 3.94 s after the first; of the pauses after 2.955 s the one at 3.4 is widest
    words = [
        Word(" a", 0.2, 1.0),
        Word(" b", 1.8, 3.4),
        Word(" c", 3.7, 3.9),
        Word(" d", 3.95, 4.1),
        Word(" e", 4.15, 6),
    ]
    first, second = cut(words, WINDOW, 0.0, 9.0)
    assert first.text == " a b"
    assert (first.start, first.end) == pytest.approx((0.2 - LEAD, (3.4 + 3.7) / 2))
    assert second.text == " c d e"
    assert (second.start, second.end) == pytest.approx((3.6, 3.6 + WINDOW))


def test_a_word_longer_than_a_clip_is_in_none():
    words = [Word(" a", 0.5, 1.0), Word(" long", 1.2, 6.0), Word(" b", 6.2, 7.0)]
    first, second = cut(words, WINDOW, 0.0, 9.0)
    assert (first.text, second.text) == (" a", " b")
    assert first.end <= 1.2
    assert second.start >= 6.0


@examples(200)
@given(st.lists(st.tuples(st.floats(0, 1.5), st.floats(0.05, 4.5)), max_size=30), st.floats(1.0, 6.0))
def test_no_cut_inside_a_word_and_no_word_twice(steps, window):
    words, now = [], 0.0
    for gap, length in steps:
        words.append(Word(f" {len(words)}", now + gap, now + gap + length))
        now += gap + length
    end = now + 1
    segments = cut(words, window, 0.0, end)
    fitting = [word for word in words if word.end - word.start <= window - LEAD]
    assert [word for segment in segments for word in segment.words] == fitting
    for segment in segments:
        assert 0 <= segment.start < segment.end <= end
        assert segment.end - segment.start <= window + 1e-9
        inside = set(segment.words)
        for word in words:
            if word in inside:
                assert segment.start - 1e-9 <= word.start < word.end <= segment.end + 1e-9
            else:
                assert word.end <= segment.start + 1e-9 or word.start >= segment.end - 1e-9


def test_read_mono_in_blocks_equals_the_file(tmp_path):
    wave = np.sin(np.arange(3 * RATE + 500) * 0.05).astype(np.float32)
    write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    assert np.array_equal(read_mono(tmp_path / "a.wav"), wave)
    assert np.array_equal(read_mono(tmp_path / "a.wav", 0.5, 2.25), wave[RATE // 2 : RATE * 9 // 4])
    assert not len(read_mono(tmp_path / "a.wav", 5.0))


def test_levels_in_blocks_are_those_of_the_whole(tmp_path):
    random = np.random.default_rng(0)
    wave = random.uniform(-0.5, 0.5, RATE * 12 + 77).astype(np.float32)
    write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    found = read_levels(tmp_path / "a.wav", 0.5)
    stretch = wave[RATE // 2 :]
    assert found.seconds == len(stretch) / RATE
    size = round(HOP * RATE)
    frames = stretch[: len(stretch) // size * size].astype(np.float64).reshape(-1, size)
    np.testing.assert_allclose(found.rms, np.sqrt((frames**2).mean(axis=1)), rtol=1e-12)
    odd = levels(np.split(stretch, [1, 100, 5000, 5001, 90_000]))
    np.testing.assert_allclose(odd.rms, found.rms, rtol=1e-12)
    assert levels([]).seconds == 0
