"""What ends a run of several machines from outside: signals, full disks, links that hang, hosts that differ."""

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from mlx_ltxw.media.spectrogram import write_png
from tests.machines.launched import Relay, ended, ranks
from tests.machines.test_crew import GUIDED, alone, command, steps_kept, wait_for

pytestmark = pytest.mark.slow
LONG = ("--steps", "60", *GUIDED)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("a disk can be made by root alone")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk can be made here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(("hosts", "mlx-ltxw", "whole")))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_the_leading_machine_stops_all(cli, made_model, tmp_path, number, code):
    out, whole, more = tmp_path / "out.wav", tmp_path / "whole.wav", ("--steps", "60", *GUIDED)
    three = ranks(3, tmp_path, *command(made_model, out, *more, "--split", "tokens"), SLOW_FROM="4")
    wait_for(lambda: steps_kept(out) >= 2, three)
    three[0].send_signal(number)
    found, _, err = ended(three, 30)
    assert found == code
    assert [other.returncode for other in three[1:]] == [0, 0]
    assert "out.wav.unfinished keeps the steps that are done" in err
    assert "Traceback" not in err
    assert names(tmp_path) == ["out.wav.unfinished"]
    assert "The leading machine has ended." in (tmp_path / f"mlx-ltxw-{os.getuid()}-rank2.log").read_text()
    two = ranks(2, tmp_path, *command(made_model, out, *more, "--split", "passes"))  # one fewer, in another way
    assert ended(two, 100)[0] == 0
    alone(cli, made_model, whole, *more)
    assert out.read_bytes() == whole.read_bytes()


def test_who_stops_another_machine_stops_a_split_clip(made_model, tmp_path):
    out = tmp_path / "out.wav"
    two = ranks(2, tmp_path, *command(made_model, out, *LONG, "--split", "tensor"), SLOW_FROM="4")
    wait_for(lambda: steps_kept(out) >= 2, two)
    two[1].send_signal(signal.SIGTERM)
    code, _, err = ended(two, 30)
    assert code == 2
    assert "(rank 1) was asked to end." in err
    assert "goes on from there" in err
    assert names(tmp_path) == ["out.wav.unfinished"]


def test_who_stops_another_machine_leaves_its_clip_to_the_others(made_model, tmp_path):
    more = ("--steps", "30", "--seed", "1", "--num", "4")
    slow = {"SLOW_FROM": "2"}
    two = ranks(2, tmp_path, *command(made_model, tmp_path / "out.wav", *more), own=lambda rank: slow if rank else {})
    log = tmp_path / f"mlx-ltxw-{os.getuid()}-rank1.log"
    wait_for(lambda: log.exists() and "makes" in log.read_text(), two)
    two[1].send_signal(signal.SIGTERM)
    code, _, err = ended(two, 100)
    assert code == 0, err
    assert err.count("(rank 1)") == 1
    assert "(rank 1) was asked to end; its clip, seed" in err
    assert names(tmp_path) == [f"out-{seed}.wav" for seed in range(1, 5)]


def test_a_link_that_hangs_alone_ends_all(made_model, tmp_path):
    """Both machines live and say so, and what they gather does not arrive."""
    relay, out = Relay(), tmp_path / "out.wav"
    asked = command(made_model, out, *LONG, "--split", "tokens", "--link-timeout", "8")
    two = ranks(2, tmp_path, *asked, relay=relay, SLOW_FROM="4")
    wait_for(lambda: steps_kept(out) >= 2, two)
    relay.hang()
    code, _, err = ended(two, 60)
    assert code == 2, err
    assert re.search(r"No machine has got on for \d+ s, though all of them live\.", err), err
    assert "goes on from there" in err
    assert names(tmp_path) == ["out.wav.unfinished"]


def test_a_full_disk_of_another_machine(made_model, tmp_path, small_disk):
    """Its files for the leading one do not fit: all end, and the sentence names the host and the disk."""
    more = ("--steps", "5", "--seed", "1", "--num", "4")
    own = {"TMPDIR": str(small_disk)}
    command_of_all = command(made_model, tmp_path / "out.wav", *more)
    two = ranks(2, tmp_path, *command_of_all, own=lambda rank: own if rank else {})
    code, _, err = ended(two, 100)
    assert code == 2
    assert "(rank 1): " in err
    assert "could not be written: No space left on device. Free some space" in err
    assert not list(tmp_path.rglob("*.part"))
    assert [path.name for path in small_disk.iterdir()] == [f"mlx-ltxw-{os.getuid()}-rank1.log"]


def test_a_log_that_fills_its_disk_ends_nothing(made_model, tmp_path, small_disk):
    (small_disk / "filled").write_bytes(bytes(4096))
    out, own = tmp_path / "out.wav", {"TMPDIR": str(small_disk)}
    more = ("--steps", "500", "--split", "passes", *GUIDED)
    two = ranks(2, tmp_path, *command(made_model, out, *more), own=lambda rank: own if rank else {})
    code, _, err = ended(two, 300)
    assert code == 0, err
    assert out.exists()
    assert (small_disk / f"mlx-ltxw-{os.getuid()}-rank1.log").stat().st_size == 4096


def test_the_disk_of_the_leading_machine_is_looked_at_first(made_model, tmp_path, small_disk):
    two = ranks(2, tmp_path, *command(made_model, small_disk / "out.wav", "--steps", "5", *GUIDED))
    code, _, err = ended(two, 100)
    assert code == 2
    assert "of free space, and the clip needs about" in err
    assert not list(small_disk.iterdir())


def test_a_picture_that_differs_between_machines(made_model, tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        write_png(tmp_path / str(rank) / "face.png", np.full((64, 64, 3), 90 * rank, np.uint8))
    out = tmp_path / "out.wav"
    arguments = [*map(str, command(made_model, out, "--image", "face.png", *GUIDED))]
    code = "import os, sys; os.chdir(os.environ['MLX_RANK']); from mlx_ltxw.cli import main; main()"
    runner = tmp_path / "in_own_folder.py"
    runner.write_text(code)
    two = ranks(2, tmp_path, "in_own_folder", *arguments[1:])
    found, _, err = ended(two, 100)
    assert found == 2, err
    assert "(rank 1) has another request than" in err
    assert not out.exists()


def test_a_host_that_cannot_be_reached_is_named(tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "nowhere.invalid", "ips": ["10.255.0.9"]}]')
    asked = [sys.executable, "-m", "mlx_ltxw", "doctor", "--hosts", hosts]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout
    assert "nowhere.invalid" in done.stderr
    assert "Traceback" not in done.stderr
