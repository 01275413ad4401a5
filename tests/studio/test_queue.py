"""The queue with a worker of its own, in this process: deaths, cancelling, and what the pages hear."""

import asyncio
import os
import signal

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.queue import MOST_WAITING
from mlx_ltxw.studio.state import Studio
from tests.studio.test_restart import asked


@pytest.fixture
def studio(tmp_path):
    studio = Studio.open(StudioFolder.open(tmp_path / "studio"))
    yield studio
    studio.store.close()


def run(studio, play):
    """Plays with a started studio; the news it told."""
    news = []
    studio.hub.follow(news.append)

    async def all_of_it():
        await studio.queue.start()
        try:
            await asyncio.wait_for(play(news), 90)
        finally:
            await studio.queue.stop()

    asyncio.run(all_of_it())
    return news


async def heard(news, **wanted):
    while True:
        for one in news:
            if wanted.items() <= one.items():
                return one
        await asyncio.sleep(0.02)


def add(studio, job):
    return studio.queue.add(job.kind, job.title, job.as_dict(), 100.0)


def test_a_worker_that_dies_is_replaced_and_its_job_goes_on_where_it_was(studio):
    async def play(news):
        number = add(studio, asked(steps=24))
        while studio.queue.progress.done < 3:
            await asyncio.sleep(0.01)
        os.kill(studio.queue.worker_pid, signal.SIGKILL)
        await heard(news, event="done", job=number)

    news = run(studio, play)
    steps = [one["done"] for one in news if one["event"] == "progress" and one.get("stage") == "denoising"]
    again = next(at for at in range(1, len(steps)) if steps[at] <= steps[at - 1])
    assert steps[again] >= 3  # not from the first step
    assert steps[-1] == 23
    (take,) = studio.store.takes()
    assert (take.seed, take.asked_register, take.seconds) == (10, "whispering", pytest.approx(9 / 24, abs=0.05))
    assert studio.queue.seconds_for(None, 100.0) is None  # a job that was cut tells no pace


def test_takes_on_one_picture_are_kept_as_what_each_was_asked_for(studio):
    async def play(news):
        takes = ("manner=soft", "adapter=none manner=normal")
        number = add(studio, asked(steps=1, takes=takes))
        await heard(news, event="done", job=number)

    run(studio, play)
    takes = studio.store.takes()[::-1]
    assert [take.asked_register for take in takes] == ["soft", "normal"]
    assert [take.prompt.partition(":")[0] for take in takes] == [
        "a woman in dim light, (woman, speaking softly)", "a woman in dim light, (woman)",
    ]  # fmt: skip
    assert [(take.number, take.file) for take in takes] == [(1, "000001.take1.mp4"), (2, "000001.take2.mp4")]


@pytest.mark.slow  # a single death is met above
def test_a_job_that_kills_two_workers_fails_and_the_next_one_runs(studio):
    async def play(news):
        bad, good = add(studio, asked(steps=200)), add(studio, asked(steps=1))
        for tries in (1, 2):
            while studio.store.job(bad).tries < tries or studio.queue.running != bad:
                await asyncio.sleep(0.01)
            os.kill(studio.queue.worker_pid, signal.SIGKILL)
        await heard(news, event="failed", job=bad)
        await heard(news, event="done", job=good)

    run(studio, play)
    assert "signal 9" in studio.store.job(1).message
    assert studio.queue.seconds_for(None, 200.0) == pytest.approx(2 * studio.queue.seconds_for(None, 100.0))


def test_what_cannot_be_made_fails_with_a_sentence_in_the_pages_words(studio):
    async def play(news):
        add(studio, asked(steps=0))
        add(studio, asked(adapters=("nowhere.safetensors",)))
        await heard(news, event="failed", job=2)

    run(studio, play)
    assert studio.store.job(1).message == "0 denoising steps make nothing. Ask for at least 1."
    assert "nowhere.safetensors" in studio.store.job(2).message
    assert "{field" not in studio.store.job(2).message


def test_a_cancelled_job_ends_soon_and_can_be_taken_up_again(studio):
    async def play(news):
        number = add(studio, asked(steps=60))
        while studio.queue.progress.done < 2:
            await asyncio.sleep(0.01)
        studio.queue.cancel(number)
        await heard(news, event="cancelled", job=number)
        assert list(studio.folder.takes.glob("*.unfinished")) == []
        short = add(studio, asked(steps=1))
        await heard(news, event="done", job=short)
        studio.queue.again(number)
        await heard(news, event="started", job=number)
        while studio.queue.running != number or studio.queue.progress.done < 1:
            await asyncio.sleep(0.01)
        studio.queue.cancel(number)
        studio.queue.cancel(number)
        while studio.store.job(number).state != "cancelled":
            await asyncio.sleep(0.01)

    run(studio, play)


def test_two_hundred_wait_and_one_more_is_refused(studio):
    for _ in range(MOST_WAITING + 1):  # one that runs, and those that wait
        add(studio, asked())
    with pytest.raises(UserError, match="200 jobs wait already"):
        add(studio, asked())
    studio.queue.cancel(3)
    assert studio.store.job(3).state == "cancelled"
    add(studio, asked())


def test_a_page_that_fails_keeps_no_news_from_the_others(studio):
    told = []

    def broken(news):
        raise ValueError("gone")

    studio.hub.follow(broken)
    end = studio.hub.follow(told.append)
    studio.hub.tell("queued", job=1)
    end()
    studio.hub.tell("queued", job=2)
    assert told == [{"event": "queued", "job": 1}]
