"""A process of the server's: started, given up on, stopped and killed at any moment."""

import asyncio
import dataclasses

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.takes import read_take
from mlx_ltxw.studio.asked import AskedPart
from mlx_ltxw.studio.asking import Helper
from mlx_ltxw.studio.child import Child
from mlx_ltxw.studio.folder import StudioFolder
from tests.studio.test_restart import asked


def played(play, seconds=30):
    async def within():
        return await asyncio.wait_for(play(), seconds)

    return asyncio.run(within())


@pytest.fixture
def folder(tmp_path):
    return StudioFolder.open(tmp_path / "studio")


def test_who_gives_up_on_the_first_question_blocks_nobody(folder):
    """Each key pressed gives up on the plan before it, also while the helper starts."""

    async def play():
        helper = Helper(folder)
        try:
            for pause in (0.0, 0.001, 0.01):
                first = asyncio.create_task(helper.ask("plan", asked().as_dict()))
                await asyncio.sleep(pause)
                first.cancel()
            return await helper.ask("plan", asked(steps=3).as_dict())
        finally:
            await helper.stop()

    assert played(play)["steps"] == 3


def test_a_stop_that_meets_a_start_leaves_no_process(folder, tmp_path):
    ended = []

    async def play():
        child = Child("json.tool", ["-"], tmp_path / "log", lambda line: None, ended.append)
        start = asyncio.create_task(child.start())
        while not child._changing.locked():  # it is being started
            await asyncio.sleep(0)
        await child.stop()
        await start
        assert not child.running
        await child.start()
        assert not child.running

    played(play)
    assert len(ended) == 1


def test_a_question_is_refused_in_words_and_asked_again_after_a_death(folder):
    async def play():
        helper = Helper(folder)
        try:
            with pytest.raises(UserError, match="denoising steps make nothing"):
                await helper.ask("plan", asked(steps=0).as_dict())
            with pytest.raises(UserError, match="no file of the studio"):
                await helper.ask("record", {"file": "../../etc/passwd"})
            helper._child.kill()
            with pytest.raises(UserError, match="its process ended"):
                await helper.ask("plan", asked().as_dict())
            return await helper.ask("plan", asked(steps=2).as_dict())
        finally:
            await helper.stop()

    assert played(play)["steps"] == 2


def test_what_is_not_on_this_disk_is_planned_as_such_and_not_downloaded(folder):
    async def play():
        helper = Helper(folder)
        try:
            shared = asked(adapters=("own/repo:0.5",), seed=-1)
            takes = asked(adapters=("own/repo:0.5",), seed=-1, takes=("seed=-1", "seed=+1"))
            parts = tuple(AskedPart("a room", "woman", "soft", "stay here", seed=seed) for seed in (-1, 3, None))
            return [
                await helper.ask("plan", one.as_dict()) for one in (takes, dataclasses.replace(shared, parts=parts))
            ]
        finally:
            await helper.stop()

    clip, script = played(play)
    assert "own/repo" in clip["unknown"]
    assert clip["asked"]["request"]["seeds"][0] >= 0  # drawn, so that a cut run goes on with it
    drawn, next_one = clip["asked"]["request"]["takes"]
    assert (read_take(drawn).seed >= 0, next_one) == (True, "seed=+1")
    first, *others = (part["seed"] for part in script["asked"]["parts"])
    assert (first >= 0, others) == (True, [3, None])


def test_a_line_that_cannot_be_used_silences_no_other(tmp_path):
    heard = []

    def hear(line):
        heard.append(line)
        raise ValueError(line)

    script = tmp_path / "speaks.py"
    script.write_text("print('{\"a\": 1}'); print('no json'); print('{\"a\": 2}')")

    async def play():
        ended = asyncio.Event()
        found = {"PYTHONPATH": str(tmp_path)}
        child = Child("speaks", [], tmp_path / "log", hear, lambda code: ended.set(), found)
        await child.start()
        await ended.wait()
        await child.stop()

    played(play)
    assert heard == [{"a": 1}, {"a": 2}]
