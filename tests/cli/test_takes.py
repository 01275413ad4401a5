"""Takes as files: one picture, encoded once; each made again from what it says of itself."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.pipeline.takes import PlannedTake
from mlx_ltxw.takes.ranking import asked_register, ranked
from tests.media.signals import tone
from tests.numbers import relative_error

PROMPT = 'a woman in dim light, (woman): "close your eyes"'
SMALL = ("--width", 64, "--height", 32, "--frames", 17, "--steps", 2)


def packets(path, stream):
    """MD5 of each packet, by FFmpeg."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", f"0:{stream}", "-c", "copy", "-f", "framemd5", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]


def streams(path):
    command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", path]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["streams"]
    return [(s["codec_type"], s["tags"]["handler_name"], s["disposition"]["default"]) for s in found]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("takes")
    words = [
        "generate", PROMPT, "-o", folder / "out.mp4", *SMALL, "--adapter", "whisper:0.9", "--wav",
        "--takes", "whispering, soft, normal", "--take", "seed=+1 manner=soft adapter=whisper-mixed:0.5",
    ]  # fmt: skip
    command = [sys.executable, "-c", "from mlx_ltxw.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_files_and_table(made):
    folder, done = made
    names = [folder / f"out.take{number}{ending}" for number in (1, 2, 3, 4) for ending in (".mp4", ".wav")]
    assert done.stdout.split() == [str(name) for name in names]
    assert sorted(folder.iterdir()) == sorted(names)
    table = done.stderr[done.stderr.index("take  ") :]
    for words in ("manner=whispering", "asked for", "LUFS", "syll/s"):
        assert words in table


def test_the_picture_is_encoded_once_and_is_that_of_no_take(made, cli):
    folder, _ = made
    assert cli("generate", PROMPT, "-o", folder / "plain.mp4", *SMALL, "--wav").code == 0
    plain = packets(folder / "plain.mp4", "v:0")
    assert len(plain) == 17
    sounds = []
    for number in (1, 2, 3, 4):
        assert packets(folder / f"out.take{number}.mp4", "v:0") == plain
        sounds.append(read_audio(folder / f"out.take{number}.wav", 48000))
    assert np.array_equal(sounds[2], read_audio(folder / "plain.wav", 48000))  # a normal take is the base's own sound
    assert all(not np.array_equal(sounds[a], sounds[b]) for a in range(4) for b in range(a))
    for name in ("plain.mp4", "plain.wav"):
        (folder / name).unlink()


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_take_is_made_again_alone(made, cli, tmp_path, number):
    folder, _ = made
    take = folder / f"out.take{number}.mp4"
    done = cli("generate", "--from-metadata", take, "-o", tmp_path / "again.mp4", "--wav")
    assert done.code == 0, done.err
    again = tmp_path / "again.take1"
    waves = [read_audio(path, 48000) for path in (take.with_suffix(".wav"), Path(f"{again}.wav"))]
    assert relative_error(*waves) < 2e-3  # 16 bits of a quiet sound
    assert packets(take, "v:0") == packets(f"{again}.mp4", "v:0")
    assert read_metadata(f"{again}.mp4") == read_metadata(take)


def test_several_tracks(cli, tmp_path):
    path = tmp_path / "all.mp4"
    done = cli(
        "generate", PROMPT, "-o", path, *SMALL, "--adapter", "whisper", "--takes", "soft, normal", "--take-tracks",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    (order,) = (event["takes"] for event in events if event["event"] == "ranked")
    best = order[0]["take"]
    assert streams(path) == [
        ("video", "VideoHandler", 1),
        ("audio", "take 1: manner=soft", int(best == 1)),
        ("audio", "take 2: manner=normal", int(best == 2)),
    ]
    assert read_metadata(path)["takes"] == ["manner=soft", "manner=normal"]
    assert [event["files"] for event in events if event["event"] == "written"][-1] == [str(path)]
    assert packets(path, "a:0") != packets(path, "a:1")
    again = cli("generate", "--from-metadata", path, "-o", tmp_path / "again.mp4", "--take-tracks")
    assert again.code == 0, again.err
    assert [packets(path, s) == packets(tmp_path / "again.mp4", s) for s in ("v:0", "a:0", "a:1")] == [True] * 3


def test_takes_of_a_given_picture(made, cli, tmp_path):
    folder, _ = made
    source = folder / "out.take3.mp4"
    shared = ("generate", PROMPT, "--video", source, *SMALL, "--adapter", "whisper", "--takes", "soft, whispering")
    for name, more in (("each", ()), ("all", ("--take-tracks",))):
        done = cli(*shared, "-o", tmp_path / f"{name}.mp4", *more)
        assert done.code == 0, done.err
    files = [tmp_path / name for name in ("each.take1.mp4", "each.take2.mp4", "all.mp4")]
    assert all(packets(file, "v:0") == packets(source, "v:0") for file in files)
    assert packets(files[0], "a:0") == packets(files[2], "a:0")
    assert packets(files[1], "a:0") == packets(files[2], "a:1")


def test_several_seeds_and_a_number_of_them(cli, tmp_path):
    takes = ("--takes", 1, "--takes", "seed=+1")
    done = cli("generate", PROMPT, "-o", tmp_path / "a.wav", *SMALL, "--num", 2, "--seed", 4, *takes)
    assert done.code == 0, done.err
    names = [f"a-{seed}.take{take}.wav" for seed in (4, 5) for take in (1, 2)]
    assert done.out.split() == [str(tmp_path / name) for name in names]
    waves = [read_audio(tmp_path / name, 48000) for name in names]
    assert all(not np.array_equal(waves[a], waves[b]) for a in range(4) for b in range(a))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--takes", ""), "A take is empty"),
        (("--takes", "loud", "--takes", "2"), "no manner 'loud'"),
        (("--register-at", "0-1=loud", "--register-at", "1-2=soft", "--adapter", "whisper"), "'0-1=loud'"),
        (("--register-at", "0-1=soft", "--register-at", "0-2=soft", "--adapter", "whisper"), "'0-2=soft' does not"),
        (("--takes", "0"), "0 takes make nothing"),
        (("--takes", "1000"), "1000 takes are too many"),
        (("--takes", "loud"), "no manner 'loud'"),
        (("--takes", "soft"), "--adapter"),
        (("--takes", "2", "--no-lock-video"), "--no-lock-video"),
        (("--takes", "2", "--audio-only"), "--audio-only"),
        (("--take-tracks",), "--takes"),
        (("--num", "0"), "0 clips"),
        (("--num", "2", "--seed", "1", "--seed", "2"), "--num"),
        (("--num", "3", "--seed", str((1 << 64) - 2)), "3 clips"),
    ],
)
def test_one_sentence_for_what_cannot_be(cli, tmp_path, flags, words):
    done = cli("generate", PROMPT, "-o", tmp_path / "out.mp4", *SMALL, *flags)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced(made, cli):
    folder, _ = made
    done = cli("generate", PROMPT, "-o", folder / "out.mp4", *SMALL, "--takes", 2)
    assert done.code == 2
    assert "out.take1.mp4" in done.err


def test_ranking_by_hand():
    """As asked before not as asked; then the surer, the louder by 3 dB, the nearer to the usual rate."""
    quiet = measure(tone(220, 1.0), 48000)

    def heard(register, confidence, lufs=-20.0, rate=4.0):
        return type(quiet)(
            **{**vars(quiet), "register": register, "confidence": confidence, "lufs": lufs, "rate": rate}
        )

    whisper = PlannedTake('a room, (woman, whispering): "hush"', ("whisper",))
    plain, none = PlannedTake('a room, (woman): "hush"', ("whisper",)), PlannedTake('a room, (woman, soft): "hush"', ())
    assert [asked_register(take) for take in (whisper, plain, none)] == ["whispering", None, "normal"]
    takes = [whisper] * 6
    found = [
        heard("soft", 0.99), heard("whispering", 0.62), heard("whispering", 0.91, rate=7.0),
        heard("whispering", 0.93, rate=4.2), heard("whispering", 0.9, lufs=-12.0), heard("soft", 0.4),
    ]  # fmt: skip
    assert [row.number for row in ranked(takes, found)] == [5, 4, 3, 2, 6, 1]
    assert [row.as_asked for row in ranked(takes, found)] == [True] * 4 + [False] * 2
    assert not ranked([plain], [heard("no speech", 0.9)])[0].as_asked
    assert ranked([plain], [heard("normal", 0.9)])[0].as_asked
