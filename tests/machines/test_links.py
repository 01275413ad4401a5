"""What machines say to each other beside MLX's collectives, without any process or collective."""

import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mlx_ltxw import files, links
from mlx_ltxw.errors import UserError
from mlx_ltxw.links import Links
from mlx_ltxw.machines.crew import Crew
from mlx_ltxw.world import Pulse, World


class Two:
    """The links of two machines in this process."""

    def __init__(self, timeout):
        near, far = socket.socketpair()
        near.settimeout(timeout)
        far.settimeout(timeout)
        self.pulses, hosts = [Pulse(), Pulse()], ["one (rank 0)", "two (rank 1)"]
        self.lead = Links(0, hosts, timeout, {1: near}, pulse=self.pulses[0])
        self.other = Links(1, hosts, timeout, {0: far}, pulse=self.pulses[1])

    def heard(self, seconds):
        """What the leading one hears within a time."""
        time.sleep(seconds)
        said = []
        while not self.lead.inbox.empty():
            said.append(self.lead.inbox.get().values)
        return said

    def close(self):
        self.lead.close()
        self.other.close()


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(links, "_BEAT", 0.05)
    both = Two(0.4)
    yield both
    both.close()


def test_when_no_machine_gets_on_the_link_hangs(two):
    with two.pulses[0], two.pulses[1]:
        assert not two.heard(0.2)
        (first, *_) = two.heard(0.6)
        assert "No machine has got on for 0 s, though all of them live" in first["hung"]


def test_a_machine_at_work_of_its_own_keeps_the_others_waiting(two):
    """It reads weights, or has the longer share: however long, that is no hung link."""
    with two.pulses[0]:
        assert not two.heard(0.8)
    with two.pulses[0], two.pulses[1]:
        for _ in range(8):
            two.pulses[1].beat()
            assert not two.heard(0.1)


def crew(facts, leads=True):
    """One whose machines say these facts."""
    world = SimpleNamespace(leads=leads, exchange=lambda own: [json.dumps(one).encode() for one in facts])
    return Crew(world, SimpleNamespace(hosts=["one (rank 0)", "two (rank 1)", "three (rank 2)"]))


ALIKE = {"version of mlx-ltxw": "1.0", "version of MLX": "0.32", "model": "abc", "request": "def"}


@pytest.mark.parametrize("name", ALIKE)
def test_a_machine_that_has_something_else_is_named(name):
    crew([ALIKE] * 3).agree(ALIKE)
    with pytest.raises(UserError, match=rf"two \(rank 1\) has another {name} than one \(rank 0\): zzz and not"):
        crew([ALIKE, ALIKE | {name: "zzz"}, ALIKE]).agree(ALIKE)


def test_a_machine_that_cannot_take_part_says_why():
    told = {"error": "There is no file face.png. Check the path."}
    with pytest.raises(UserError, match=r"three \(rank 2\): There is no file face.png"):
        crew([ALIKE, ALIKE, told]).agree(ALIKE)


def test_what_is_half_written_goes_when_a_machine_ends_in_the_middle(tmp_path):
    code = f"""
from mlx_ltxw.files import replacing
from mlx_ltxw.links import end_here
with replacing({str(tmp_path / "clip.wav")!r}) as partial:
    partial.write_bytes(b"half")
    end_here("ended", 7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "ended\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_log_on_a_full_disk_ends_nothing(monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115  # closing it fails
    monkeypatch.setattr(sys, "stderr", full)
    links.log("a line")
    with pytest.raises(OSError, match="No space left"):
        full.close()


@pytest.mark.parametrize(("content", "launched"), [("", False), ('[["127.0.0.1:1"], ["127.0.0.1:2"]]', True)])
def test_one_process_of_the_launcher_is_alone(tmp_path, monkeypatch, content, launched):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(content)
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    assert World.launched() is launched


def test_partial_files_are_forgotten_when_they_are_whole(tmp_path):
    files.write_bytes(tmp_path / "a", b"whole")
    files.abandon()
    assert (tmp_path / "a").read_bytes() == b"whole"
