"""What machines say to each other beside MLX's collectives, without any process or collective."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from mlx_ltxw import files, links, world
from mlx_ltxw.errors import UserError
from mlx_ltxw.links import Links
from mlx_ltxw.machines.crew import Crew
from mlx_ltxw.world import Pulse, World

TIMEOUT = 60.0
"""No test waits for it, and no machine that is busy otherwise comes to it."""


class Told(Pulse):
    """Says what a test wants: seconds since the last piece, or None."""

    now: float | None = None

    @property
    def quiet(self):
        return self.now


@pytest.fixture(scope="module", autouse=True)
def ended():
    """How this process would have been ended: the others' threads may be at it for a moment after a test."""
    told = queue.SimpleQueue()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(links, "end_here", lambda *end: told.put(end))
        yield told


class Two:
    """The links of two machines in this process."""

    def __init__(self):
        near, far = socket.socketpair()
        near.settimeout(TIMEOUT)
        far.settimeout(TIMEOUT)
        self.pulses, hosts = [Told(), Told()], ["one (rank 0)", "two (rank 1)"]
        self.lead = Links(0, hosts, TIMEOUT, {1: near}, pulse=self.pulses[0])
        self.other = Links(1, hosts, TIMEOUT, {0: far}, pulse=self.pulses[1])

    def are_quiet(self, *seconds):
        """So long they have not got on; the leading one knows it of the other."""
        for pulse, now in zip(self.pulses, seconds, strict=True):
            pulse.now = now
        until = time.monotonic() + TIMEOUT
        while self.lead._quiet[1] != seconds[1]:
            assert time.monotonic() < until
            time.sleep(0.01)

    def heard(self):
        """What the leading one hears within some beats."""
        time.sleep(0.2)
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
    both = Two()
    yield both
    both.close()


def test_when_no_machine_gets_on_the_link_hangs(two):
    two.are_quiet(59.0, 58.0)
    assert not two.heard()
    two.are_quiet(62.0, 61.0)
    first = two.lead.inbox.get(timeout=60).values
    assert "No machine has got on for 61 s, though all of them live" in first["hung"]


def test_leave_is_taken_of_a_machine_that_goes_meanwhile(two):
    """Its listener takes its connection out, between two shutdowns."""

    class Leaving:
        def shutdown(self, how):
            two.lead._sockets.pop(7, None)

        def sendall(self, data):
            """It hears nothing."""

    two.lead._sockets.update({7: Leaving(), 8: Leaving()})
    two.lead._locks.update({7: threading.Lock(), 8: threading.Lock()})
    two.lead.close()


def test_a_machine_at_work_of_its_own_keeps_the_others_waiting(two):
    """It reads weights, or has the longer share: however long, that is no hung link."""
    two.are_quiet(99.0, None)
    assert not two.heard()
    two.are_quiet(99.0, 0.1)
    assert not two.heard()


def test_a_pulse_counts_from_the_last_piece_of_the_common_work(monkeypatch):
    now = 100.0
    monkeypatch.setattr(world.time, "monotonic", lambda: now)
    pulse = Pulse()
    assert pulse.quiet is None
    with pulse:
        now = 103.0
        assert pulse.quiet == 3.0
        pulse.beat()
        now = 104.0
        assert pulse.quiet == 1.0
    assert pulse.quiet is None


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


@pytest.mark.parametrize(("content", "launched"), [("\n", False), ('[["127.0.0.1:1"], ["127.0.0.1:2"]]', True)])
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


def exchanges():
    """What two machines that are threads here exchange by, one for each."""
    said, meet = {}, threading.Barrier(2)

    def exchange(rank):
        def every(data):
            said[rank] = data
            meet.wait(60)
            return [said[0], said[1]]

        return every

    return exchange


def test_training_ends_when_the_link_hangs(monkeypatch, ended):
    monkeypatch.setattr(links, "_BEAT", 0.05)
    monkeypatch.setattr(links, "own_addresses", lambda: ["127.0.0.1"])
    exchange, meet = exchanges(), threading.Barrier(3)

    def sums(rank):
        pulse = Told()
        with links.watched(rank, 2, exchange(rank), "The last checkpoint goes on.", TIMEOUT, pulse):
            meet.wait(60)
            time.sleep(0.2)  # at work of its own
            early = ended.qsize()
            meet.wait(60)
            pulse.now = 61.0
            meet.wait(60)  # until it is told
        return early

    with ThreadPoolExecutor(2) as pool:
        early = [pool.submit(sums, rank) for rank in range(2)]
        meet.wait(60)
        meet.wait(60)
        text, code = ended.get(timeout=60)
        meet.wait(60)
        assert [each.result(60) for each in early] == [0, 0]
    assert code == 2
    assert text.startswith("Error: No machine has got on for 61 s")
    assert text.endswith("see its cable and its addresses. The last checkpoint goes on.")


def test_a_machine_is_called_at_its_next_address(monkeypatch):
    """As in a ring of cables, where the first address is that of a cable to another machine."""
    monkeypatch.setattr(links, "own_addresses", lambda: ["192.0.2.1", "127.0.0.1"])
    monkeypatch.setattr(links, "_CALL", 0.3)
    exchange = exchanges()
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(Links.open, rank, 2, exchange(rank), TIMEOUT) for rank in range(2)]
        one, other = (each.result(100) for each in opened)
    other.say({"told": 1})
    assert one.inbox.get(timeout=60).values == {"told": 1}
    one.close()
    other.close()


def test_addresses_are_those_of_the_launcher_first(tmp_path, monkeypatch):
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["10.7.0.1:32323"], ["10.7.0.2:32324"]]')
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    found = links.own_addresses()
    assert found[0] == "10.7.0.1"
    assert not [one for one in found if one.startswith("127.")]
    hosts.write_text('[["127.0.0.1:32323"], ["127.0.0.1:32324"]]')
    assert links.own_addresses()[0] == "127.0.0.1"


def test_a_stranger_is_not_taken_for_the_leading_machine():
    """What listens at an address may be another program: it is passed over, and the sentence says so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=lambda: server.accept()[0].sendall(b"SSH-2.0-"), daemon=True).start()
        place = {"host": "studio", "addresses": ["127.0.0.1"], "port": port, "token": "t"}
        with pytest.raises(UserError, match=r"does not reach studio \(127.0.0.1 is another machine\)"):
            links._called(place, 1, 2.0)
