"""`mlx-ltxw generate` with the model that ships with the package."""

import io
import json
import os
import sys

import numpy as np
import pytest

from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.loudness import loudness
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.video import read_video

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
SMALL = ("--width", 64, "--height", 32, "--frames", 17, "--steps", 2)


def generate(cli, path, *more):
    done = cli("generate", PROMPT, "-o", path, *SMALL, *more)
    assert done.code == 0, done.err
    return done


def test_video_with_sound(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    path = tmp_path / "out.mp4"
    done = generate(cli, path, "--wav", "--spectrogram")
    assert done.out.split() == [str(path.with_suffix(end)) for end in (".mp4", ".wav", ".png")]
    clip = probe(path)
    assert (clip.width, clip.height, clip.fps, clip.rate, clip.channels) == (64, 32, 24, 48000, 2)
    assert clip.duration == pytest.approx(17 / 24, abs=0.001)
    assert read_video(path, 17, 24, 64, 32).std() > 1
    for words in ("small built-in model", "prompt encoded", "s/step", "peak", "register:"):
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
    assert events[-1]["register"] in ("normal", "soft", "whispering", "mixed", "no speech")
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
    click[: int(0.05 * 48000)] = 0.6
    click[1::2] *= -1  # no offset
    monkeypatch.setattr(pipeline, "decode_audio", lambda *_: (click, 48000))
    peaks = []
    for flag in ("--soften-onset", "--keep-onset"):
        generate(cli, tmp_path / "out.wav", "--audio-only", flag, "--overwrite")
        peaks.append(np.abs(read_audio(tmp_path / "out.wav", 48000)).max())
    assert peaks == pytest.approx([0.01, 0.6], abs=0.002)


def test_an_offset_is_taken_out_unless_kept(cli, tmp_path, monkeypatch):
    import mlx_ltxw.pipeline.run as pipeline

    monkeypatch.setattr(pipeline, "decode_audio", lambda *_: (np.full((48000, 2), 0.1, np.float32), 48000))
    path, peaks = tmp_path / "out.wav", []
    for flag in ("--remove-offset", "--keep-offset"):
        generate(cli, path, "--audio-only", flag, "--overwrite")
        peaks.append(np.abs(read_audio(path, 48000)).max())
        assert read_metadata(path)["remove_offset"] == (flag == "--remove-offset")
    assert peaks == pytest.approx([0, 0.1], abs=1e-4)


def test_peaks_leave_headroom(cli, tmp_path, monkeypatch):
    import mlx_ltxw.pipeline.run as pipeline

    loud = np.random.default_rng(0).normal(0, 1, (48000, 2)).cumsum(axis=0)  # falls with frequency, as voices do
    loud -= loud.mean(axis=0)
    loud = (loud / np.abs(loud).max()).astype(np.float32)
    monkeypatch.setattr(pipeline, "decode_audio", lambda *_: (loud, 48000))
    done = generate(cli, tmp_path / "out.mp4", "--wav", "--json")
    for end in (".mp4", ".wav"):
        assert loudness(read_audio(tmp_path / f"out{end}", 48000), 48000).true_peak <= -1
    heard = json.loads(done.out.splitlines()[-1])["lufs"]  # what is told is of the file
    assert heard == pytest.approx(loudness(read_audio(tmp_path / "out.wav", 48000), 48000).lufs, abs=0.05)


def test_a_line_that_is_not_the_models_own(cli, tmp_path):
    path = tmp_path / "o.wav"
    done = cli("generate", 'a man, (man): "look at stars over a lake"', "-o", path, "--audio-only", *SMALL)
    assert 'The nearest is "look at the stars above the lake".' in done.err
    assert "The nearest" not in generate(cli, path, "--audio-only", "--overwrite").err


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
        (["a", "-o", ""], "is a folder, and a clip is a file"),
        (["a", "-o", "/"], "'/' is a folder, and a clip is a file"),
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


def test_interrupted_run_leaves_its_last_step_alone(cli, tmp_path, monkeypatch):
    import mlx_ltxw.cli.progress as progress

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Bar, "step", interrupt)
    done = cli("generate", PROMPT, "-o", tmp_path / "out.mp4", *SMALL)
    assert done.code == 130
    assert "out.mp4.unfinished keeps the steps that are done, and the same command goes on from there." in done.err
    assert os.listdir(tmp_path) == ["out.mp4.unfinished"]


SOUND = ("--audio-only", "--frames", 9, "--steps", 1)


def test_nothing_is_replaced_without_a_word(cli, tmp_path):
    path = tmp_path / "out.wav"
    path.write_text("mine")
    done = cli("generate", PROMPT, "-o", path, *SOUND)
    assert done.code == 2
    assert "out.wav exists already. Give another output name, or replace it with --overwrite." in done.err
    assert path.read_text() == "mine"
    assert cli("generate", PROMPT, "-o", path, *SOUND, "--overwrite").code == 0
    assert read_metadata(path)["seeds"] == [10]


def test_a_random_seed_is_told_and_kept(cli, tmp_path):
    done = cli("generate", PROMPT, "-o", tmp_path / "out.wav", *SOUND, "--seed", -1)
    (seed,) = read_metadata(tmp_path / "out.wav")["seeds"]
    assert f"seed {seed}\n" in done.err
    other = cli("generate", PROMPT, "-o", tmp_path / "b.wav", *SOUND, "--seed", -1, "--json")
    assert json.loads(other.out.splitlines()[0])["settings"]["seeds"] != [seed]


def test_quiet_prints_names_alone(cli, tmp_path):
    done = cli("generate", PROMPT, "-o", tmp_path / "out.wav", *SOUND, "-q")
    assert (done.out, done.err) == (f"{tmp_path / 'out.wav'}\n", "")


def test_the_prompt_comes_from_a_file_or_from_standard_input(cli, tmp_path, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"\xef\xbb\xbf" + PROMPT.encode() + b"\n")
    assert cli("generate", "--prompt-file", file, "-o", tmp_path / "a.wav", *SOUND).code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROMPT.encode() + b"\n")))
    assert cli("generate", "-", "-o", tmp_path / "b.wav", *SOUND).code == 0
    assert [read_metadata(tmp_path / name)["prompt"] for name in ("a.wav", "b.wav")] == [PROMPT, PROMPT]


def test_without_a_terminal_progress_is_a_line_a_stage(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    done = cli("generate", PROMPT, "-o", tmp_path / "out.mp4", *SMALL, "--seed", 1, "--seed", 2)
    lines = [line for line in done.err.splitlines() if not line.startswith("Note")]
    starts = [
        "one-stage: 64x32 in 2 steps", "needs about",
        "prompt encoded in", "seed 1: 2 steps in", "seed 1: 17 frames decoded in", "written, peak",
        "seed 2: 2 steps in", "seed 2: 17 frames decoded in", "written, peak",
    ]  # fmt: skip
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    assert "\r" not in done.err


def test_with_a_terminal_one_bar_goes_on_through_decoding(monkeypatch):
    from mlx_ltxw.cli.progress import Bar
    from mlx_ltxw.pipeline.events import Step
    from mlx_ltxw.takes.events import Decoding

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    bar = Bar()
    for index in (1, 2):
        bar.step(Step(3, index, 2, 1.0, 0.5, 10**9, None, None, None))
    bar.decoding(Decoding(3, 9, 17))
    bar.decoding(Decoding(3, 17, 17))
    bar.close()
    shown = screen.getvalue()
    assert "seed 3: 100%" in shown
    assert "0.50 s/step" in shown
    assert "seed 3, decoding: 100%" in shown
    assert "17/17 frames" in shown
    assert "step/s" not in shown
    assert "it/s" not in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--audio-cfg", "nan"], "audio guidance's cfg is no finite number"),
        (["--video-cfg", "inf"], "video guidance's cfg"),
        (["--seed", "18446744073709551616"], "is no seed"),
        (["--seed", "-2"], "-2 is no seed"),
        (["--seed", "3", "--seed", "3"], "seed 3 is there 2 times"),
        (["--steps", "1000000000"], "--steps up to 1000"),
        (["--frames", "1000000001"], "--frames up to"),
        (["--prompt-file", "p"], "exclude each other"),
        (["--part", "1"], "--part and --keep-parts are a script's"),
    ],
)
def test_numbers_are_checked_before_the_run(cli, tmp_path, flags, words):
    done = cli("generate", "a", "-o", tmp_path / "x.mp4", *flags)
    assert done.code == 2
    assert words in done.err
    assert os.listdir(tmp_path) == []


def test_largest_seed(cli, tmp_path):
    assert cli("generate", PROMPT, "-o", tmp_path / "a.wav", *SOUND, "--seed", 2**64 - 1).code == 0
    assert read_metadata(tmp_path / "a.wav")["seeds"] == [2**64 - 1]


def test_a_script_is_made_again_from_its_metadata(cli, tmp_path):
    script, first, again = tmp_path / "script.yaml", tmp_path / "first.mp4", tmp_path / "again.mp4"
    script.write_text(
        "- {scene: a woman in dim light, speaker: woman, manner: whispering, line: close your eyes}\n"
        "- {speaker: woman, manner: normal, line: stay here, seed: 4}\n"
    )
    flags = ("--adapter", "whisper", "--wav", *SMALL)
    done = cli("generate", "--script", script, "-o", first, *flags)
    assert done.code == 0, done.err
    parts = read_metadata(first)["parts"]
    assert [(part["adapters"], part["seeds"]) for part in parts] == [(["whisper"], [10]), ([], [4])]
    done = cli("generate", "--from-metadata", first, "-o", again, "--wav")
    assert done.code == 0, done.err
    assert first.with_suffix(".wav").read_bytes() == again.with_suffix(".wav").read_bytes()
    assert np.array_equal(*(read_video(path, 32, 24, 64, 32) for path in (first, again)))
    shown = cli("inspect", first).out
    assert "kind            script" in shown
    assert "part 2" in shown
    assert json.loads(cli("inspect", first, "--json").out)["kind"] == "script"


def test_one_part_is_made_again_alone(cli, tmp_path):
    script, path = tmp_path / "script.txt", tmp_path / "talk.wav"
    script.write_text('a woman, (woman): "close your eyes"\na man, (man): "close your eyes"\n')
    common = ("generate", "--script", script, "-o", path, *SOUND)
    assert cli(*common, "--keep-parts").code == 0
    done = cli(*common, "--part", 2, "--seed", 5, "--overwrite")
    assert done.code == 0, done.err
    assert "part 1 of 2 (kept)" in done.err
    assert "part 2 of 2: a man" in done.err
    assert [part["seeds"] for part in read_metadata(path)["parts"]] == [[10], [5]]
    assert cli(*common, "--part", 3, "--overwrite").code == 2


def test_files_of_somebody_elses_request_are_not_read(cli, tmp_path):
    import shutil

    from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS

    mine = tmp_path / "my adapter.safetensors"
    shutil.copy(BUILTIN_ADAPTERS["whisper"], mine)
    path = tmp_path / "out.wav"
    assert cli("generate", PROMPT, "-o", path, *SOUND, "--adapter", f"{mine}:0.5").code == 0
    done = cli("generate", "--from-metadata", path, "-o", tmp_path / "again.wav")
    assert done.code == 2
    assert f"--adapter '{mine}:0.5'" in done.err
    given = cli("generate", "--from-metadata", path, "-o", tmp_path / "again.wav", "--adapter", f"{mine}:0.5")
    assert given.code == 0, given.err
    assert np.array_equal(read_audio(path, 48000), read_audio(tmp_path / "again.wav", 48000))


def test_each_clip_is_written_when_it_is_done(cli, tmp_path, monkeypatch):
    """Ctrl-C while the second is made leaves the first."""
    from mlx_ltxw.cli.progress import Bar

    step = Bar.step

    def interrupt(self, event):
        if event.seed == 2:
            raise KeyboardInterrupt
        step(self, event)

    monkeypatch.setattr(Bar, "step", interrupt)
    done = cli("generate", PROMPT, "-o", tmp_path / "out.wav", *SOUND, "--seed", 1, "--seed", 2)
    assert done.code == 130
    assert sorted(os.listdir(tmp_path)) == ["out-1.wav", "out.wav.unfinished"]


def test_no_cache_leaves_the_users_folder_alone(cli, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLX_LTXW_CACHE", str(folder))
    words = ("generate", 'a woman, (woman): "hush"', "--audio-only", "--frames", 9, "--steps", 1, "--overwrite")
    assert cli(*words, "-o", tmp_path / "a.wav", "--no-cache").code == 0
    assert not folder.exists()
    assert cli(*words, "-o", tmp_path / "b.wav").code == 0
    assert list(folder.glob("*.safetensors"))
    assert "prompt taken from the cache" in cli(*words, "-o", tmp_path / "b.wav").err
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
