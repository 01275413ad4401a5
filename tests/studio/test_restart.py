"""A studio that is killed, or stopped, in the middle of a job: the next one goes on, and nothing is left running."""

import os
import signal
import time
from pathlib import Path

import pytest

from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.studio.asked import Asked
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.store import Store
from tests.studio.conftest import until
from tests.studio.drawn import PROMPT

SMALL = {"frames": 9, "width": 64, "height": 64, "adapters": ("whisper",)}


@pytest.fixture
def folder(tmp_path):
    return StudioFolder.open(tmp_path / "studio")


def asked(steps=2, seed=10, **fields):
    return Asked(Request(PROMPT, seeds=(seed,), steps=steps, **SMALL | fields))


def put(folder, *jobs):
    store = Store(folder.database)
    numbers = [store.add_job(job.kind, job.title, job.as_dict()) for job in jobs]
    store.close()
    return numbers


def read(folder, look):
    store = Store(folder.database)
    try:
        return look(store)
    finally:
        store.close()


def states(folder, numbers):
    return read(folder, lambda store: [store.job(number).state for number in numbers])


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")


@linux
def test_a_killed_server_loses_nothing_and_leaves_nobody_behind(studio_server, folder):
    numbers = put(folder, asked(steps=24), asked(steps=0, seed=11))
    unfinished = folder.takes / "000001.mp4.unfinished"
    server = studio_server(folder.path)
    until(unfinished.exists)
    workers = server.children()
    assert workers
    server.kill()
    until(lambda: not any(map(alive, workers)))
    assert states(folder, numbers) == ["running", "waiting"]
    assert not (folder.takes / "000001.mp4").exists()
    server = studio_server(folder.path)
    until(lambda: states(folder, numbers) == ["done", "failed"])  # the second asks for no steps
    takes = read(folder, lambda store: store.takes())
    assert [(take.file, take.seed) for take in takes] == [("000001.mp4", 10)]
    assert not unfinished.exists()
    assert read(folder, lambda store: store.job(1).tries) == 2
    assert server.stop() == 130
    assert sorted(path.name for path in folder.takes.iterdir()) == ["000001.mp4"]


def test_a_clip_that_was_written_and_not_heard_of_is_found(studio_server, folder):
    """The server was killed between the worker's last file and its own note of it."""
    (number,) = put(folder, asked())
    server = studio_server(folder.path)
    until(lambda: states(folder, [number]) == ["done"])
    server.stop()
    store = Store(folder.database)
    before = (folder.takes / "000001.mp4").stat().st_mtime_ns
    store._db.execute("DELETE FROM takes")
    store._db.execute("UPDATE jobs SET state = 'running'")
    store.close()
    studio_server(folder.path)
    until(lambda: states(folder, [number]) == ["done"])
    (take,) = read(folder, lambda store: store.takes())
    assert (take.file, take.register is not None) == ("000001.mp4", True)
    assert (folder.takes / "000001.mp4").stat().st_mtime_ns == before  # it was not made again


@linux
def test_one_folder_has_one_studio_and_idle_it_does_nothing(studio_server, folder):
    server = studio_server(folder.path)
    with pytest.raises(AssertionError):
        studio_server(folder.path)
    until(lambda: len(server.children()) == 1)
    pids = [server.process.pid, *server.children()]

    def ticks():
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats)

    def idle():  # 3 % of one core, and mostly none
        before = ticks()
        time.sleep(2.0)
        return (ticks() - before) / os.sysconf("SC_CLK_TCK") < 0.06

    until(idle)  # as soon as the worker has loaded what it will need


def test_the_signal_that_ends_it_is_told(studio_server, folder):
    server = studio_server(folder.path)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 143
