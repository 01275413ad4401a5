"""Files that several processes look at: the same results in the same order, and no process outlives the work."""

import dataclasses
import os
import signal
import time
from functools import partial

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.train.data import workers
from mlx_ltxw.train.data.prepare import prepare
from tests.train.recordings import SIZE, spoken, write


@dataclasses.dataclass(frozen=True)
class Item:
    name: str


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(workers, "LEAST", 1)
    monkeypatch.setattr(workers, "_cores", lambda: 2)


ITEMS = [Item(str(number)) for number in range(6)]


def work(item, first):
    if item.name == first:
        time.sleep(0.3)  # the others are done sooner
    if item.name == "wrong":
        raise UserError(f"{item.name} says {{field:steps=3}}.", "Mend it.")
    if item.name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    print("noise that is no answer")
    return item.name, os.getpid()


def gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_results_are_in_order_and_by_two_processes(two):
    found = list(workers.each(partial(work, first="0"), ITEMS))
    assert [name for name, _ in found] == [item.name for item in ITEMS]
    assert len({process for _, process in found} - {os.getpid()}) == 2
    assert all(gone(process) for _, process in found)


def test_few_items_stay_in_this_process():
    assert {process for _, process in workers.each(partial(work, first=""), ITEMS)} == {os.getpid()}


@pytest.mark.parametrize(("name", "words"), [("wrong", "wrong says steps=3"), ("crash", "read crash was ended")])
def test_what_goes_wrong_there_is_an_error_here(two, name, words):
    with pytest.raises(UserError, match=words):
        list(workers.each(partial(work, first=""), [*ITEMS, Item(name)]))


def test_processes_end_when_the_work_is_left(two):
    results = workers.each(partial(work, first=""), ITEMS)
    _, process = next(results)
    assert not gone(process)
    results.close()
    assert gone(process)


def test_data_is_found_the_same(two, tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        write(path, spoken(f"the boats came home at {number}", seconds=4.0))
        path.with_suffix(".txt").write_text(f'a room, (woman): "the boats came home at {number}"')
    (tmp_path / "3.wav").write_bytes((tmp_path / "3.wav").read_bytes()[:40])
    several = prepare(tmp_path, SIZE)
    workers.LEAST = 100  # put back by the fixture
    assert prepare(tmp_path, SIZE) == several
    assert [(finding.code, finding.file) for finding in several.findings if finding.file] == [("broken", "3.wav")]
