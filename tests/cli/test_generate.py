"""`mlx-ltxw generate` with the model that ships with the package."""

import json
import os

import numpy as np
import pytest

from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.video import read_video

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
SMALL = ("--width", 64, "--height", 32, "--frames", 17, "--steps", 2)


def generate(cli, path, *more):
    done = cli("generate", PROMPT, "-o", path, *SMALL, *more)
    assert done.code == 0, done.err
    return done


def test_video_with_sound(cli, tmp_path):
    path = tmp_path / "out.mp4"
    done = generate(cli, path, "--wav", "--spectrogram")
    assert done.out.split() == [str(path.with_suffix(end)) for end in (".mp4", ".wav", ".png")]
    clip = probe(path)
    assert (clip.width, clip.height, clip.fps, clip.rate, clip.channels) == (64, 32, 24, 48000, 2)
    assert clip.duration == pytest.approx(17 / 24, abs=0.001)
    assert read_video(path, 17, 24, 64, 32).std() > 1
    for words in ("small built-in model", "prompt encoded", "s/step", "peak", "heard:"):
        assert words in done.err
    rms = np.sqrt((read_audio(path.with_suffix(".wav"), 48000) ** 2).mean())
    assert rms > 10 ** (-50 / 20), "near silence: a fault others shipped"


def test_metadata_makes_the_same_clip_again(cli, tmp_path):
    first, again, other = tmp_path / "first.mp4", tmp_path / "again.mp4", tmp_path / "other.mp4"
    generate(cli, first, "--seed", 3, "--wav")
    assert cli("generate", "--from-metadata", first, "-o", again, "--wav").code == 0
    assert cli("generate", "--from-metadata", first, "-o", other, "--wav", "--seed", 4).code == 0
    waves = [read_audio(path.with_suffix(".wav"), 48000) for path in (first, again, other)]
    pictures = [read_video(path, 17, 24, 64, 32) for path in (first, again, other)]
    assert np.array_equal(waves[0], waves[1])
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(waves[0], waves[2])
    assert not np.array_equal(pictures[0], pictures[2])
    assert read_metadata(again)["seeds"] == [3]


def test_several_seeds_are_several_files(cli, tmp_path):
    done = generate(cli, tmp_path / "out.wav", "--audio-only", "--seed", 1, "--seed", 2)
    files = [tmp_path / "out-1.wav", tmp_path / "out-2.wav"]
    assert done.out.split() == [str(file) for file in files]
    assert [read_metadata(file)["seeds"] for file in files] == [[1], [2]]
    alone = tmp_path / "alone.wav"
    generate(cli, alone, "--audio-only", "--seed", 2)
    assert np.array_equal(read_audio(alone, 48000), read_audio(files[1], 48000))


def test_json_is_one_event_a_line(cli, tmp_path):
    done = generate(cli, tmp_path / "out.wav", "--audio-only", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["event"] for event in events] == ["started", "conditioned", "step", "step", "written"]
    assert events[-1]["files"] == [str(tmp_path / "out.wav")]
    assert events[-1]["register"] in ("normal", "soft", "whispering", None)
    assert events[0]["settings"]["steps"] == 2
    assert done.err == ""


def test_a_clip_gets_a_new_voice_and_keeps_its_picture(cli, tmp_path):
    source, voiced = tmp_path / "source.mp4", tmp_path / "voiced.mp4"
    generate(cli, source)
    done = cli("generate", PROMPT, "--video", source, "-o", voiced, *SMALL, "--seed", 5)
    assert done.code == 0, done.err
    assert np.array_equal(read_video(source, 17, 24, 64, 32), read_video(voiced, 17, 24, 64, 32))
    assert not np.array_equal(read_audio(source, 48000), read_audio(voiced, 48000))


def test_a_clip_of_any_length_gets_a_voice_of_its_length(cli, tmp_path):
    """20 frames are no 8k + 1: the picture is seen with its last frame held, and copied as it is."""
    from mlx_ltxw.media.mp4 import write_mp4

    source, voiced = tmp_path / "source.mp4", tmp_path / "voiced.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (20, 32, 64, 3), dtype=np.uint8)
    write_mp4(source, [frames], 24, None)
    done = cli("generate", PROMPT, "--video", source, "-o", voiced, "--width", 64, "--height", 32, "--steps", 2)
    assert done.code == 0, done.err
    assert read_metadata(voiced)["frames"] == 25
    assert np.array_equal(read_video(source, 20, 24, 64, 32), read_video(voiced, 20, 24, 64, 32))
    assert probe(voiced).duration == pytest.approx(20 / 24, abs=0.001)


def test_a_wav_is_the_sound_of_the_clip(cli, tmp_path):
    """Not that of a run without a picture, which `--audio-only` makes."""
    generate(cli, tmp_path / "clip.mp4", "--wav")
    done = generate(cli, tmp_path / "sound.WAV", "--wav")
    assert "murmurs" not in done.err
    assert done.out.split() == [str(tmp_path / "sound.WAV")]
    assert "murmurs without one" in generate(cli, tmp_path / "alone.wav", "--audio-only").err
    clip, sound, alone = (read_audio(tmp_path / name, 48000) for name in ("clip.wav", "sound.WAV", "alone.wav"))
    assert np.array_equal(clip, sound)
    assert not np.array_equal(sound, alone)


def test_a_script_too_makes_a_wav(cli, tmp_path):
    script, path = tmp_path / "script.txt", tmp_path / "talk.wav"
    script.write_text('a woman, (woman): "close your eyes"\na man, (man): "close your eyes"\n')
    done = cli("generate", "--script", script, "-o", path, *SMALL)
    assert done.code == 0, done.err
    assert len(read_audio(path, 48000)) / 48000 == pytest.approx((17 + 17 - 2) / 24, abs=0.001)
    notes = [line for line in done.err.splitlines() if line.startswith("Note: ")]
    assert notes
    assert len(notes) == len(set(notes))  # none of them once more for the second part


def test_sentence_built_for_the_user(cli, tmp_path):
    path = tmp_path / "out.wav"
    words = ("--scene", "man by a window", "--speaker", "man", "--manner", "whispering", "--line", "stay here")
    assert cli("generate", *words, "-o", path, "--audio-only", *SMALL).code == 0
    assert read_metadata(path)["prompt"] == 'a man by a window, (man, whispering quietly): "stay here"'


def test_onset_click_is_taken_down_unless_kept(cli, tmp_path, monkeypatch):
    """A decoder that starts with the click others heard: 65 ms near clipping, then quiet."""
    import mlx_ltxw.pipeline.run as pipeline

    click = np.full((48000, 2), 0.01, np.float32)
    click[: int(0.05 * 48000)] = 0.9
    monkeypatch.setattr(pipeline, "decode_audio", lambda *_: (click, 48000))
    peaks = []
    for flag in ("--soften-onset", "--keep-onset"):
        generate(cli, tmp_path / "out.wav", "--audio-only", flag, "--overwrite")
        peaks.append(np.abs(read_audio(tmp_path / "out.wav", 48000)).max())
    assert peaks == pytest.approx([0.01, 0.9], abs=0.002)


def test_hints_before_the_run(cli, tmp_path):
    done = cli("generate", 'a man, (man, whispering): "hi"', "-o", tmp_path / "o.wav", "--audio-only", *SMALL)
    assert "add --adapter" in done.err


def test_script_is_made_part_by_part_and_goes_on(cli, tmp_path):
    script = tmp_path / "script.yaml"
    script.write_text(
        "- {scene: a woman in dim light, speaker: woman, manner: whispering, line: close your eyes}\n"
        "- {speaker: woman, manner: soft, line: now sleep}\n"
    )
    path = tmp_path / "whole.mp4"
    folder = tmp_path / "whole.mp4.parts"
    folder.mkdir()
    (folder / "taken").write_text("")
    done = cli("generate", "--script", script, "-o", path, *SMALL)
    assert done.code == 0, done.err
    clip = probe(path)
    assert clip.duration == pytest.approx((17 + 17 - 2) / 24, abs=0.001)
    assert done.out.split() == [str(path)]
    assert os.listdir(folder) == ["taken"]
    assert "part 2 of 2: a woman in dim light, (woman, speaking softly)" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "-o", "x.avi"], "Give a name that ends in .mp4 or .wav"),
        (["a", "-o", "x.mp4", "--audio-only"], "Give a name that ends in .wav"),
        (["a", "-o", "missing/x.mp4"], "is not a folder"),
        (["-o", "x.mp4"], "no prompt"),
        (["", "-o", "x.mp4"], "prompt is empty"),
        (["a", "-o", "x.mp4", "--width", "100"], "nearest: 96 or 128"),
        (["a", "-o", "x.mp4", "--frames", "50"], "nearest: 49 or 57"),
        (["a", "-o", "x.mp4", "--steps", "0"], "0 denoising steps"),
        (["word " * 2000, "-o", "x.mp4"], "tokens"),
        (["a", "-o", "x.mp4", "-m", "nowhere"], "no model directory nowhere"),
        (["a", "-o", "x.mp4", "-m", "."], "mlx-ltxw convert"),
        (["a", "-o", "x.mp4", "--adapter", "nothing.safetensors"], "no adapter 'nothing.safetensors'"),
        (["a", "-o", "x.mp4", "--register-at", "0-1=normal"], "no adapter to act on"),
        (["a", "-o", "x.mp4", "--drift"], "nothing to measure"),
        (["a", "-o", "x.mp4", "--scene", "b"], "exclude each other"),
        (["-o", "x.mp4", "--scene", "b", "--line", "c"], "--speaker is missing"),
        (["-o", "x.mp4", "--from-metadata", "empty.wav"], "empty.wav"),
        (["a", "-o", "x.mp4", "--video", "empty.wav"], "empty.wav"),
        (["a", "-o", "x.mp4", "--script", "s.yaml"], "brings its own prompts"),
        (["-o", "x.mp4", "--script", "s.yaml"], "cannot be read"),
        (["a", "-o", "x.mp4", "--unknown"], "No such option"),
        (["a", "-o", "x.mp4", "--width", "wide"], "not a valid integer"),
        (["a"], "Missing option"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.wav").write_bytes(b"")
    done = cli("generate", *arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert os.listdir(tmp_path) == ["empty.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(cli, tmp_path):
    tmp_path.chmod(0o500)
    done = cli("generate", "a", "-o", tmp_path / "x.mp4")
    assert done.code == 2
    assert "not writable" in done.err


def test_interrupted_run_leaves_nothing(cli, tmp_path, monkeypatch):
    import mlx_ltxw.cli.progress as progress

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "step", interrupt)
    done = cli("generate", PROMPT, "-o", tmp_path / "out.mp4", *SMALL)
    assert done.code == 130
    assert os.listdir(tmp_path) == []
