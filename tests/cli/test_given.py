"""`--image`, `--audio`, `--revoice`, `--retake`, `--extend`, with the model that ships with the package."""

import os
import re
import subprocess

import av
import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.cli.generate import generate as generate_command
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.video import read_video

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
SMALL = ("--width", 64, "--height", 32, "--steps", 2)
RATE = 48000
WAVE = np.repeat(np.sin(np.arange(RATE) * 0.05).astype(np.float32)[:, None] * 0.3, 2, axis=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A picture, sounds, and a clip of 33 frames (1.375 s) of noise, with sound and without."""
    folder = tmp_path_factory.mktemp("given")
    random = np.random.default_rng(8)
    Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / "face.png")
    frames = random.integers(0, 256, (33, 4, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    write_mp4(folder / "clip.mp4", [frames], 24, np.pad(WAVE, ((0, RATE), (0, 0))))
    write_mp4(folder / "mute.mp4", [frames], 24, None)
    write_wav(folder / "line.wav", WAVE, RATE)
    write_wav(folder / "silent.wav", WAVE * 0, RATE)
    write_wav(folder / "nothing.wav", WAVE[:0], RATE)
    return folder


def generate(cli, path, *more, prompt=PROMPT):
    done = cli("generate", prompt, "-o", path, *SMALL, *more)
    assert done.code == 0, done.err
    return done


def packets(path, kind):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def test_a_picture_at_the_beginning_and_the_end(cli, files, tmp_path):
    made, again = tmp_path / "made.mp4", tmp_path / "again.mp4"
    face = files / "face.png"
    images = ("--image", face, "--image", f"{face}@last:0.5")
    done = generate(cli, made, *images, "--frames", 17)
    assert "face.png is 64x48: 33% of its height is cropped to 64x32" in done.err
    assert done.err.count("is cropped") == 1
    assert read_metadata(made)["images"] == [str(face), f"{face}@last:0.5"]
    refused = cli("generate", "--from-metadata", made, "-o", again)
    assert refused.code != 0
    assert f"--image {face}" in refused.err
    assert cli("generate", "--from-metadata", made, "-o", again, *images).code == 0
    assert np.array_equal(*(read_video(path, 17, 24, 64, 32) for path in (made, again)))


def test_a_picture_to_a_sound_of_its_length(cli, files, tmp_path):
    """1 s makes 25 frames; samples that mp4 players would not read as they are come back but for AAC's loss."""
    made = tmp_path / "made.mp4"
    done = generate(cli, made, "--audio", files / "line.wav", "--wav")
    assert read_metadata(made)["frames"] == 25
    assert "lasts 1.00 s; silence follows" not in done.err
    assert "add --adapter" not in done.err  # nothing of the prompt is said
    wave = read_audio(made.with_suffix(".wav"), RATE)
    assert np.abs(wave[:RATE] - WAVE).max() < 1e-4
    longer = generate(cli, tmp_path / "b.mp4", "--audio", files / "line.wav", "--frames", 17)
    assert "line.wav lasts 1.00 s; its first 0.71 s are used" in longer.err
    shorter = generate(cli, tmp_path / "c.mp4", "--audio", files / "silent.wav", "--frames", 41)
    assert "silent.wav lasts 1.00 s; silence follows to 1.71 s" in shorter.err
    assert "silent.wav is silent" in shorter.err


def test_a_sound_of_six_channels(cli, files, tmp_path):
    """The model hears them mixed down; in the file they stay as they were."""
    surround = tmp_path / "surround.m4a"
    call = ["ffmpeg", "-v", "error", "-i", "line.wav", "-af", "pan=5.1|FL=c0|FR=c1|FC=c0|LFE=c0|BL=c0|BR=c1"]
    subprocess.run([*call, "-c:a", "aac", surround], cwd=files, check=True)
    done = generate(cli, tmp_path / "made.mp4", "--audio", surround, "--frames", 25)
    assert "surround.m4a has 6 channels; the model hears them mixed down to two." in done.err
    assert probe(tmp_path / "made.mp4").channels == 6


def test_a_sound_that_mp4_holds_is_copied(cli, files, tmp_path):
    made = tmp_path / "made.mp4"
    generate(cli, made, "--audio", files / "clip.mp4", "--frames", 33)
    theirs, ours = packets(files / "clip.mp4", "audio"), packets(made, "audio")
    assert len(ours) > 60
    assert ours == theirs[: len(ours)]


def test_a_voice_again_keeps_the_picture(cli, files, tmp_path):
    made = tmp_path / "made.mp4"
    more = ("--video", files / "clip.mp4", "--revoice", "--adapter", "whisper")
    done = generate(cli, made, *more)
    assert "The sound is made again from noise level" in done.err
    assert packets(made, "video") == packets(files / "clip.mp4", "video")
    assert read_metadata(made)["revoice"] > 0
    alone = tmp_path / "alone.wav"
    generate(cli, alone, "--audio", files / "line.wav", "--revoice", 0.5, "--audio-only", "--frames", 25)
    assert len(read_audio(alone, RATE)) > 0.9 * RATE


def test_the_lock_keeps_the_picture_that_the_given_sound_gets(cli, files, tmp_path):
    plain, adapted = tmp_path / "plain.mp4", tmp_path / "adapted.mp4"
    generate(cli, plain, "--audio", files / "line.wav")
    generate(cli, adapted, "--audio", files / "line.wav", "--revoice", 0.8, "--adapter", "whisper")
    assert packets(plain, "video") == packets(adapted, "video")
    assert np.abs(read_audio(plain, RATE) - read_audio(adapted, RATE)).max() > 0.01


def test_the_sound_of_a_stretch(cli, files, tmp_path):
    """The picture's packets are copied; samples outside of the stretch are the clip's."""
    made, clip = tmp_path / "made.mp4", files / "clip.mp4"
    more = ("--video", clip, "--retake", "0.5-0.8", "--retake-what", "sound", "--adapter", "whisper", "--wav")
    done = generate(cli, made, *more)
    assert "Made anew, in whole tokens: the sound from 0.49 to 0.81 s of 1.38 s." in done.err
    assert "The picture is copied as it is." in done.err
    assert "The rest of the sound is kept sample by sample, and encoded again (AAC)." in done.err
    assert packets(made, "video") == packets(clip, "video")
    ours, theirs = read_audio(made.with_suffix(".wav"), RATE), read_audio(clip, RATE)
    found = measure(ours[round(0.49 * RATE) : round(0.81 * RATE)], RATE)
    assert f"register from 0.49 to 0.81 s: {found.register} ({found.confidence:.0%}), {found.lufs:.1f} LUFS" in done.err
    before, after = slice(0, round(0.49 * RATE)), slice(round(0.81 * RATE), round(1.3 * RATE))
    for kept in (before, after):
        assert np.abs(ours[kept] - theirs[kept]).max() < 1e-4  # 16 bits
    inside = slice(round(0.52 * RATE), round(0.78 * RATE))
    assert np.abs(ours[inside] - theirs[inside]).max() > 0.05


def test_the_picture_of_a_stretch(cli, files, tmp_path):
    """The sound's packets are copied; frames outside of the stretch are the clip's, but for H.264's loss."""
    made, clip = tmp_path / "made.mp4", files / "clip.mp4"
    done = generate(cli, made, "--video", clip, "--retake", "0.5-0.8", "--retake-what", "picture")
    assert "the picture from 0.38 to 1.04 s of 1.38 s." in done.err  # latent frames 2 and 3: video frames 9 to 24
    assert "The sound is copied as it is." in done.err
    assert "The rest of the picture is kept frame by frame, and encoded again (H.264, CRF 18)." in done.err
    assert packets(made, "audio") == packets(clip, "audio")[: len(packets(made, "audio"))]
    ours, theirs = (read_video(path, 33, 24, 64, 32).astype(int) for path in (made, clip))
    change = np.abs(ours - theirs).mean((1, 2, 3))
    assert change[:9].max() < 10
    assert change[25:].max() < 10
    assert change[9:25].min() > 20


def test_a_clip_that_ends_within_the_last_latent_frame(cli, files, tmp_path):
    """36 frames: the model makes 41, in pieces of which the last has nothing of the clip's own."""
    clip, made = tmp_path / "clip.mp4", tmp_path / "made.mp4"
    frames = np.random.default_rng(3).integers(0, 256, (36, 4, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    six = tmp_path / "six.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-i", files / "line.wav", "-ac", "6", six], check=True)
    write_mp4(tmp_path / "mute.mp4", [frames], 24, None)
    join = ["ffmpeg", "-v", "error", "-i", tmp_path / "mute.mp4", "-i", six, "-c:v", "copy", "-c:a", "aac", clip]
    subprocess.run(join, check=True)
    done = generate(cli, made, "--video", clip, "--retake", "0.5-0.8")
    assert "the picture from 0.38 to 1.04 s, the sound from 0.49 to 0.81 s of 1.50 s." in done.err
    assert "The rest of the sound is kept sample by sample of its 6 channels mixed down to two" in done.err
    assert len(packets(made, "video")) == 36
    whole = generate(cli, tmp_path / "whole.mp4", "--video", clip, "--retake", "0-1.5")
    assert "the picture from 0.00 to 1.50 s, the sound from 0.00 to 1.50 s of 1.50 s." in whole.err
    assert "The rest of the" not in whole.err


@pytest.mark.parametrize("seconds", [0.3, -0.3])
def test_a_longer_clip(cli, files, tmp_path, seconds):
    made, again, clip = tmp_path / "made.mp4", tmp_path / "again.mp4", files / "clip.mp4"
    done = generate(cli, made, "--video", clip, "--extend", seconds, "--wav")
    span = "from 1.38 to 1.71 s" if seconds > 0 else "from 0.00 to 0.33 s"
    assert f"the picture {span}" in done.err
    ours, theirs = read_video(made, 41, 24, 64, 32).astype(int), read_video(clip, 33, 24, 64, 32).astype(int)
    kept = ours[:33] if seconds > 0 else ours[8:]
    assert np.abs(kept - theirs).mean((1, 2, 3)).max() < 10
    shift = 0 if seconds > 0 else RATE // 3
    wave, source = read_audio(made.with_suffix(".wav"), RATE), read_audio(clip, RATE)
    inside = slice(round(0.1 * RATE), round(0.9 * RATE))
    assert np.abs(wave[shift:][inside] - source[inside]).max() < 1e-4
    assert cli("generate", "--from-metadata", made, "--video", clip, "-o", again).code == 0
    assert packets(made, "video") == packets(again, "video")


def test_a_clip_without_sound_is_silent_outside_of_its_stretch(cli, files, tmp_path):
    made = tmp_path / "made.mp4"
    generate(cli, made, "--video", files / "mute.mp4", "--retake", "0.5-0.8", "--wav")
    wave = read_audio(made.with_suffix(".wav"), RATE)
    assert np.abs(wave[: round(0.48 * RATE)]).max() == 0
    assert np.abs(wave[round(0.6 * RATE) : round(0.7 * RATE)]).max() > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--image", "none.png"), "none.png does not exist"),
        (("--image", "face.png@90"), "is outside of the clip, which has frames 0 to 16"),
        (("--image", "face.png", "--image", "face.png@first"), "Two pictures are given for frame 0"),
        (("--image", "face.png:1.5"), "has a strength of 1.5"),
        (("--image", "face.png@1.5"), "'@1.5' behind face.png is no frame and no strength"),
        (("--image", "face.png:0,5"), "':0,5' behind face.png is no frame and no strength"),
        (("--image", "face.png:0.8@last"), "':0.8@last' behind face.png is no frame and no strength"),
        (("--image", "line.wav"), "line.wav is no picture"),
        (("--image", "face.png", "--audio-only"), "--image and --audio-only exclude each other"),
        (("--audio", "line.wav", "--adapter", "whisper"), "Add --revoice to give it a new register"),
        (("--audio", "line.wav", "--audio-only"), "nothing is left to make"),
        (("--audio", "face.png"), "has no sound that can be decoded"),
        (("--audio", "nothing.wav"), "nothing.wav holds no sound"),
        (("--revoice",), "--revoice has no sound to make again"),
        (("--audio", "line.wav", "--revoice", "0"), "0.0 is no strength for --revoice"),
        (("--audio", "line.wav", "--revoice", "nan"), "nan is no strength for --revoice"),
        (("--video", "mute.mp4", "--revoice"), "mute.mp4 has no sound to make again"),
        (("--retake", "1-2"), "--retake has no clip to change"),
        (("--adapter", ""), "One of --adapter is empty"),
        (("--video", ""), "--video is empty"),
        (("--video", "clip.mp4", "--retake", "1-5"), "which lasts 1.38 s"),
        (("--video", "clip.mp4", "--retake", "3-5"), "which lasts 1.38 s"),
        (("--video", "clip.mp4", "--retake", "1-1"), "is empty"),
        (("--video", "clip.mp4", "--retake", "0-0.3", "--retake", "1-1.2"), "--retake is given 2 times"),
        (("--video", "clip.mp4", "--retake", "soon"), "'soon' is no stretch of time"),
        (("--video", "clip.mp4", "--retake-what", "sound"), "Add --retake"),
        (("--video", "clip.mp4", "--retake", "0-1", "--extend", "1"), "--retake and --extend exclude each other"),
        (("--video", "clip.mp4", "--extend", "0"), "0.0 is no number of seconds"),
        (("--video", "clip.mp4", "--extend", "inf"), "inf is no number of seconds"),
        (("--video", "clip.mp4", "--extend", "1e9"), "Give --extend fewer seconds: a clip has up to 65536 frames"),
        (
            ("--video", "clip.mp4", "--retake", "0-1", "--retake-what", "picture", "--adapter", "whisper"),
            "there is no sound for an adapter to act on",
        ),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(cli, files, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(files)
    frames = () if "--video" in flags else ("--frames", 17)
    done = cli("generate", PROMPT, "-o", tmp_path / "out.mp4", *SMALL, *frames, *flags)
    assert done.code != 0
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.mp4").exists()


def test_help_groups_every_option_once(cli):
    done = cli("generate", "-h")
    headings = ["What is said and seen", "What is given", "Size and steps", "Adapters"]
    headings += ["Several sounds on one picture", "Guidance", "Options"]
    places = [done.out.index(f"\n{heading}:\n") for heading in headings]
    assert places == sorted(places)
    for option in generate_command.params:
        if option.name != "prompt":
            flag = max(option.opts, key=len)
            assert len(re.findall(rf"^  (-\w, )?{flag}\b(?!-)", done.out, re.M)) == 1, flag
    assert places[1] < done.out.index("  --image FILE") < places[2]
    assert "\n  [PROMPT]" not in done.out  # it stands in the usage line and needs no row


NOT_FILES = {
    "--image": "Give a PNG, JPEG, WebP, AVIF, TIFF or HEIC picture.",
    "--audio": "Give a file with sound.",
    "--video": "Give a video file.",
    "--prompt-file": "Name a text file that holds the prompt.",
    "--script": "Give a UTF-8 text or YAML file.",
    "--from-metadata": "Give a file that mlx-ltxw wrote and that no other program has saved again.",
}


@pytest.mark.parametrize("flag", NOT_FILES)
def test_a_folder_a_pipe_or_a_device_is_told_what_is_wanted(cli, tmp_path, flag):
    """Of its own kind; and no pipe is waited for."""
    os.mkfifo(tmp_path / "pipe")
    prompt = [] if flag in ("--prompt-file", "--script", "--from-metadata") else [PROMPT]
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe"), ("/dev/null", "a pipe or device")):
        done = cli("generate", *prompt, flag, path, "-o", tmp_path / "made.mp4")
        assert done.code == 2
        assert f"{path} is {kind}" in done.err
        assert NOT_FILES[flag] in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--adapter", "--distilled-lora", "--take"])
def test_what_is_no_adapter_is_told_so(cli, tmp_path, flag):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.safetensors").write_bytes(bytes([8, *[0] * 7]) + b"{}      ")
    wanted = {"pipe": "Give a .safetensors file, a folder", "empty": "the folder or repository of an adapter",
              "none.safetensors": "it has no tensors at all. Give a LoRA"}  # fmt: skip
    for name, hint in wanted.items():
        spec = f"adapter={tmp_path / name}" if flag == "--take" else tmp_path / name
        done = cli("generate", PROMPT, flag, spec, "-o", tmp_path / "made.mp4")
        assert done.code == 2
        assert hint in done.err


def test_a_single_picture_is_no_clip(cli, files, tmp_path):
    Image.new("P", (64, 64)).save(tmp_path / "one.gif")
    for path in (files / "face.png", tmp_path / "one.gif"):
        for more in ((), ("--retake", "0-0.01"), ("--extend", 1)):
            done = cli("generate", PROMPT, "--video", path, *more, "-o", tmp_path / "made.mp4")
            assert done.code == 2
            assert f"{path} is a single picture, and no clip. Give a video file, or the picture as --image." in done.err
