"""The history: searched, changed, deleted and had back; whole after a kill at any moment."""

import sqlite3
import subprocess
import sys
import time

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio.store import Store
from tests.studio.drawn import kept

RECORD = {"kind": "clip", "prompt": 'a room, (woman): "50% off_now"', "seeds": [3]}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "studio.db")
    yield store
    store.close()


def add(store, name="000001.mp4", **fields):
    return store.add_take(kept(name, RECORD) | fields)


def test_words_are_found_as_they_are_written(store):
    first, second = add(store), add(store, "000002.mp4", prompt="another thing", note="")
    assert [take.id for take in store.takes("50% off_now")] == [first]
    assert [take.id for take in store.takes("5%w")] == []  # no wildcard of the search's own
    assert [take.id for take in store.takes("another THING")] == [second]
    store.update_take(second, note="the good one")
    assert [take.id for take in store.takes("good whispering")] == [second]
    assert [take.id for take in store.takes()] == [second, first]
    assert [take.id for take in store.takes(before=second)] == [first]


def test_stars_stay_within_five(store):
    number = add(store)
    store.update_take(number, stars=9)
    assert store.take(number).stars == 5
    assert [take.id for take in store.takes(starred=True)] == [number]
    store.update_take(number, stars=-1)
    assert store.takes(starred=True) == []


def test_the_largest_seed_is_kept(store):
    number = add(store, seed=2**64 - 1)
    assert store.take(number).seed == 2**64 - 1


def test_a_deleted_take_comes_back_or_goes_for_good(store):
    number = add(store)
    store.delete_take(number)
    assert store.takes() == []
    store.restore_take(number)
    assert [take.id for take in store.takes()] == [number]
    store.delete_take(number)
    assert store.forget_deleted(time.time() - 60) == []
    assert store.forget_deleted(time.time() + 60) == ["000001.mp4"]
    assert store.take(number) is None


def test_a_file_is_remembered_once(store):
    """A worker tells of a clip again when its server was killed before it had heard of it."""
    first = add(store)
    store.update_take(first, stars=3)
    assert add(store) == first
    assert store.take(first).stars == 3
    assert store.take(first).record == RECORD


def test_jobs_come_in_the_order_they_were_asked_for(store):
    one, two = (store.add_job("clip", name, {"n": name}) for name in "ab")
    assert store.next_job().id == one
    store.begin_job(one)
    assert [job.id for job in store.open_jobs()] == [one, two]
    assert store.next_job().id == two
    store.end_job(one, "failed", "why")
    assert store.last_jobs(5)[0].message == "why"
    assert store.job(two).asked == {"n": "b"}


def test_numbers_begin_after_files_that_an_older_database_named(tmp_path, store):
    store.begin_jobs_after(41)
    assert store.add_job("clip", "a", {}) == 42
    store.begin_jobs_after(7)
    assert store.add_job("clip", "b", {}) == 43


def test_a_later_version_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "studio.db") as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="later version"):
        Store(tmp_path / "studio.db")
    (tmp_path / "no.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "no.db")


WRITING = """
import sys
from pathlib import Path
from mlx_ltxw.studio.store import Store
store = Store(Path(sys.argv[1]))
n = 0
while True:
    n += 1
    store.add_job("clip", str(n), {"text": "x" * 5000})
    print(n, flush=True)
"""


def test_what_was_told_is_there_after_a_kill_in_the_middle_of_writing(tmp_path):
    path = tmp_path / "studio.db"
    told = 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(25):
            writer.stdout.readline()
            told += 1
        writer.kill()
        told += len(writer.stdout.read().splitlines())
        writer.wait()
        store = Store(path)
        jobs = store.open_jobs()
        assert len(jobs) >= told
        assert {len(job.asked["text"]) for job in jobs} == {5000}
        told = len(jobs)
        store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("no_room", ["PRAGMA max_page_count = 1", "PRAGMA query_only = 1"])
def test_a_disk_that_takes_nothing_is_one_sentence_and_no_end(store, no_room):
    """Full, or read-only: when it takes something again, everything goes on."""
    first = add(store)
    store._db.execute(no_room)
    for _ in range(2):
        with pytest.raises(UserError, match=r"studio\.db could not be written: .* Free some space"):
            add(store, "000002.mp4", prompt="long " * 10_000)
    assert [take.id for take in store.takes()] == [first]
    store._db.execute("PRAGMA max_page_count = 1000000")
    store._db.execute("PRAGMA query_only = 0")
    second = add(store, "000002.mp4")
    assert {take.id for take in store.takes()} == {first, second}


def test_a_transaction_whose_end_the_disk_refuses_is_no_more(store, monkeypatch):
    class Refusing:
        """A connection whose disk is full when a transaction ends."""

        def __init__(self, db):
            self.db = db

        def __getattr__(self, name):
            return getattr(self.db, name)

        def execute(self, query, *values):
            if query == "COMMIT":
                raise sqlite3.OperationalError("database or disk is full")
            return self.db.execute(query, *values)

    with monkeypatch.context() as full:
        full.setattr(store, "_db", Refusing(store._db))
        with pytest.raises(UserError, match="disk is full"):
            add(store)
    add(store)
    assert len(store.takes()) == 1


def test_a_disk_that_does_not_give_the_database_is_no_reason_to_move_it(tmp_path):
    (tmp_path / "studio.db").mkdir()
    with pytest.raises(
        UserError, match=r"studio\.db cannot be used: unable to open .* Free some space on that disk, see"
    ):
        Store(tmp_path / "studio.db")
