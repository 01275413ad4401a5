"""Machines that are lost, hang or differ: every run ends, nothing is half-written, and the same command goes on."""

import os
import random
import signal
import time

import pytest

from mlx_ltxw.takes.unfinished import file_beside
from tests.machines.launched import ended, ranks

PROMPT = 'a woman, (woman, whispering): "hush"'
SIZE = ("--width", "64", "--height", "64", "--frames", "9")
GUIDED = ("--video-cfg", "3", "--audio-cfg", "3")


def command(model, out, *more):
    return ["tests.slowed", "generate", PROMPT, "-m", model.path, "-o", out, *SIZE, *more]


def alone(cli, model, out, *more):
    done = cli(*command(model, out, *more)[1:], "-q")
    assert done.code == 0, done.err


def wait_for(condition, processes, seconds=100):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until and all(each.poll() is None for each in processes):
        time.sleep(0.02)
    assert condition(), [each.communicate() if each.poll() is not None else "goes on" for each in processes]


def half_written(folder):
    """Files; a killed process's folder for a while goes with the next one's."""
    return [path for path in folder.glob(".*.part") if path.is_file()]


def steps_kept(out):
    from mlx_ltxw.weights.header import read_header

    file = file_beside(out)
    try:
        return int(read_header(file).metadata["mlx_ltxw_unfinished"].partition('"index": ')[2].partition(",")[0])
    except Exception:
        return 0


def test_a_lost_machine_ends_a_split_clip_which_goes_on(cli, made_model, tmp_path):
    more = ("--steps", "60", *GUIDED)
    out, whole = tmp_path / "out.wav", tmp_path / "whole.wav"
    two = ranks(2, tmp_path, *command(made_model, out, *more, "--split", "passes"), SLOW_FROM="4")
    wait_for(lambda: steps_kept(out) >= 2, two)
    two[1].send_signal(signal.SIGKILL)
    code, _, err = ended(two, 60)
    assert code == 2, err
    assert err.count("was lost") == 1
    assert "(rank 1) was lost" in err
    assert "goes on from there" in err
    assert sorted(path.name for path in tmp_path.glob("*out.wav*")) == ["out.wav.unfinished"]
    alone(cli, made_model, whole, *more)
    alone(cli, made_model, out, *more)  # the machine that is left
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_lost_machine_gives_its_clip_back(cli, made_model, tmp_path):
    more = ("--steps", "50", "--seed", "1", "--num", "4")
    (tmp_path / "alone").mkdir()
    alone(cli, made_model, tmp_path / "alone/out.wav", *more)
    slow = {"SLOW_FROM": "2"}
    two = ranks(2, tmp_path, *command(made_model, tmp_path / "out.wav", *more), own=lambda rank: slow if rank else {})
    log = tmp_path / f"mlx-ltxw-{os.getuid()}-rank1.log"
    wait_for(lambda: log.exists() and "makes" in log.read_text(), two)
    two[1].send_signal(signal.SIGKILL)
    code, out, err = ended(two, 100)
    assert code == 0, err
    assert "(rank 1) was lost" in err
    assert "goes back to the others" in err
    made = sorted(path.name for path in tmp_path.glob("out-*.wav"))
    assert made == [f"out-{seed}.wav" for seed in range(1, 5)]
    assert sorted(out.split()) == sorted(str(tmp_path / name) for name in made)
    for name in made:
        assert (tmp_path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not file_beside(tmp_path / "out.wav").exists()


def test_machines_with_different_models_do_not_begin(made_model, tmp_path, make_other):
    other = make_other(made_model)
    two = ranks(2, tmp_path, "tests.machines.differing", made_model.path, other, tmp_path / "out.wav")
    code, _, err = ended(two, 100)
    assert code == 2, err
    assert "(rank 1) has another model than" in err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_a_machine_that_hangs_counts_as_lost(made_model, tmp_path):
    out = tmp_path / "out.wav"
    more = ("--steps", "500", *GUIDED, "--split", "tokens", "--link-timeout", "4")
    two = ranks(2, tmp_path, *command(made_model, out, *more), SLOW_FROM="4")
    wait_for(lambda: steps_kept(out) >= 2, two)
    two[1].send_signal(signal.SIGSTOP)
    try:
        out, err = two[0].communicate(timeout=60)
        assert two[0].returncode == 2, err
        assert "has been silent for 4 s" in err
    finally:
        two[1].kill()
        two[1].communicate()


@pytest.mark.slow
def test_thirty_kills_at_random_moments(cli, made_model, tmp_path):
    """Whichever machine it is, and whatever it is at: all end, nothing is half-written but by a leading machine that
    was killed itself, and the same command ends in the same bits (with `tensor` but for roundings)."""
    more = ("--steps", "40", *GUIDED, "--seed", "7")
    whole, draw = tmp_path / "whole.wav", random.Random(19)
    alone(cli, made_model, whole, *more)
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        out, count = folder / "out.wav", draw.choice((2, 3))
        split = ("passes", "tokens", "tensor")[number % 3]
        group = ranks(count, folder, *command(made_model, out, *more, "--split", split, "--link-timeout", "20"))
        victim, moment = draw.randrange(count), draw.uniform(0.5, 9)
        time.sleep(moment)
        group[victim].send_signal(signal.SIGKILL)
        began = time.monotonic()
        for each in group:
            each.communicate(timeout=60)
        took = time.monotonic() - began
        left = sorted(path.name for path in folder.iterdir() if path.name.startswith("out"))
        assert victim == 0 or not half_written(folder), number
        assert left in ([], ["out.wav"], ["out.wav.unfinished"]), (number, left)
        print(number, count, split, victim, round(moment, 1), f"{took:.1f} s", steps_kept(out), left, flush=True)
        if left != ["out.wav"]:
            alone(cli, made_model, out, *more)
        assert not half_written(folder), number
        if split != "tensor":
            assert out.read_bytes() == whole.read_bytes(), number


@pytest.mark.slow
def test_thirty_kills_while_clips_are_shared_out(cli, made_model, tmp_path):
    """Another machine's loss costs nothing; after the leading one's the same command makes what is left."""
    more, seeds, draw = ("--steps", "12", "--seed", "1", "--num", "4"), range(1, 5), random.Random(23)
    (tmp_path / "alone").mkdir()
    alone(cli, made_model, tmp_path / "alone/out.wav", *more)
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        out, count = folder / "out.wav", draw.choice((2, 3))
        group = ranks(count, folder, *command(made_model, out, *more, "--split", "clips", "--link-timeout", "20"))
        victim, moment = draw.randrange(count), draw.uniform(0.5, 12)
        time.sleep(moment)
        group[victim].send_signal(signal.SIGKILL)
        began = time.monotonic()
        for each in group:
            each.communicate(timeout=100)
        made = sorted(path.name for path in folder.glob("out-*.wav"))
        print(number, count, victim, round(moment, 1), f"{time.monotonic() - began:.1f} s", len(made), flush=True)
        assert victim == 0 or not half_written(folder), number
        if group[0].returncode and (len(made) < len(seeds) or file_beside(out).exists()):  # it was not at its end
            alone(cli, made_model, out, *more)
        for seed in seeds:
            name = f"out-{seed}.wav"
            assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), (number, seed)
