"""Train in a browser: a folder looked over, a caption mended, ten steps of the built-in model, its adapter used."""

import json
from pathlib import Path

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.runs import finished_adapters, run_folder, run_names, sample_file
from mlx_ltxw.studio.store import Store
from tests.studio.conftest import start, until
from tests.train.recordings import spoken, write

LINES = ["the rain has stopped", "close your eyes"]
HOSTILE = "<img src=x onerror='window.hit=1'>"
FOLDER = "Folder of clips, or a JSONL"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two whispered clips of a woman, and one whose name and caption are hostile."""
    folder = tmp_path_factory.mktemp("clips")
    for number, line in enumerate(LINES):
        write(folder / f"{number}.wav", spoken(line, "f2", "whispering", 2.0))
        (folder / f"{number}.txt").write_text(f'a dim room, (woman, whispering): "{line}"')
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = start(tmp_path_factory.mktemp("train") / "studio")
    yield server
    server.stop()
    server.process.stdout.close()


def look(page, server, folder):
    page.goto(f"{server.url}/train")
    page.get_by_label(FOLDER, exact=True).fill(str(folder))
    page.get_by_role("button", name="Look").click()
    page.wait_for_selector(".train-clip")


def test_a_caption_is_mended_in_its_place_and_a_bad_name_is_refused(page, server, tmp_path, shot):
    folder = tmp_path / "clips"
    write(folder / "a.wav", spoken(LINES[0], "f2", "whispering"))
    write(folder / f"{HOSTILE.replace('/', '')}.wav", spoken(LINES[1], "f2", "normal"))
    (folder / "a.txt").write_text(LINES[0])
    (folder / f"{HOSTILE.replace('/', '')}.txt").write_text(f'{HOSTILE}, (woman): "{HOSTILE}"')
    look(page, server, folder)
    row = page.locator(".train-clip", has_text="a.wav")
    row.get_by_text("It is not known who speaks").wait_for()
    page.wait_for_selector(".clip[data-ready]")
    row.get_by_role("button", name="Play: a.wav").click()
    page.wait_for_function("document.querySelector('[data-clip=\"1\"] audio').currentTime > 0.1")
    caption = row.get_by_label("Caption of a.wav")
    caption.fill("(woman, whispering):")
    caption.blur()
    row.get_by_text("not saved").wait_for()
    assert (folder / "a.txt").read_text() == LINES[0]
    caption.fill(f'(woman, whispering): "{LINES[0]}"')
    caption.blur()
    row.get_by_text("saved", exact=True).wait_for()
    assert (folder / "a.txt").read_text() == f'(woman, whispering): "{LINES[0]}"\n'
    row.get_by_text("It is not known who speaks").wait_for(state="detached")  # it was checked again
    (folder / "a.txt").write_text("by another hand")
    caption.fill('(woman, whispering): "good night"')
    caption.blur()
    row.get_by_text("changed by another program").wait_for()
    assert (folder / "a.txt").read_text() == "by another hand"
    row.get_by_role("button", name="Take the file's").click()
    page.wait_for_function("document.querySelector('[data-clip=\"1\"] textarea').value === 'by another hand'")
    (folder / "a.txt").write_text("by a third")
    caption.fill('(woman, whispering): "good night"')
    caption.blur()
    row.get_by_role("button", name="Write mine over it").click()
    row.get_by_text("saved", exact=True).wait_for()
    assert (folder / "a.txt").read_text() == '(woman, whispering): "good night"\n'
    assert page.evaluate("window.hit") is None
    assert page.locator("main img[src=x]").count() == 0
    shot(page, "train-clips")
    until(lambda: page.locator(".train-clip").count() == 2)
    page.get_by_text("Only with findings").click()
    page.wait_for_function("document.querySelectorAll('.train-clip').length < 2")
    page.get_by_text("Only with findings").click()
    page.wait_for_function("document.querySelectorAll('.train-clip').length === 2")
    (StudioFolder(server.folder).runs / "there").mkdir()
    for name, why in (("../away", "cannot be the name"), ("", "cannot be the name"), ("there", "is a run there")):
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_role("button", name="Start training").click()
        page.get_by_text(why).wait_for()
    assert not (server.folder / "away").exists()


def test_ten_steps_and_the_adapter_is_there_to_use(page, server, data, shot):
    look(page, server, data)
    page.get_by_label("Name", exact=True).fill("quiet")
    page.get_by_label("Steps", exact=True).fill("10")
    page.get_by_label("Rank", exact=True).fill("4")
    page.get_by_text("Sound alone, without pictures").click()
    page.get_by_text("All options").click()
    for name, value in {"preview_steps": 1, "preview_every": 0, "preview_prompts": "a voice", "held_out": 0.5,
                        "held_out_every": 5, "frames": 49}.items():  # fmt: skip
        page.get_by_label(name, exact=True).fill(str(value))
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("quiet is in the queue.").wait_for()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.reload()  # the run goes on, and the page finds it
    page.get_by_text("step 10 of 10 · finished").wait_for(timeout=120000)
    page.wait_for_selector(".deck[data-ready]")
    until(lambda: page.locator(".deck-title").all_inner_texts() == ["base model", "after 10 steps"])
    page.get_by_text("at step 10").wait_for()
    run = StudioFolder(server.folder).runs / "quiet"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["step"] for line in lines if "held_out_loss" in line] == [1, 5, 10]
    points = [[line["step"], line["audio_loss"]] for line in lines]
    until(lambda: page.evaluate("document.querySelector('.curves').curves.data.lines[0].points") == points)
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('.deck').deck.sounds.time() > 0.2")
    shot(page, "train")
    page.get_by_role("button", name="Use in Make").click()
    page.wait_for_url(f"{server.url}/")
    adapter = page.get_by_label("Adapter", exact=True).first
    until(lambda: adapter.input_value() == str(run / "adapter.safetensors"))


@pytest.mark.slow
def test_stopped_and_gone_on_with(page, server, data, made_model, shot):
    """A run of the tiny model is stopped after a step, which is saved, and goes on to more steps."""
    look(page, server, data)
    fields = {
        "Name": "stopped", "Steps": "4000", "Rank": "2", texts.MODEL: str(made_model.path), "preview_steps": "1",
        "preview_every": "0", "preview_prompts": "a tone", "width": "64", "height": "64", "checkpoint_every": "1000",
    }  # fmt: skip
    page.get_by_text("All options").click()
    for name, value in fields.items():
        page.get_by_label(name, exact=True).fill(value)
    page.get_by_role("button", name="Start training").click()
    run = StudioFolder(server.folder).runs / "stopped"
    until(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes().count(b"\n") > 2)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Go on").wait_for()
    done = steps_of(run)
    assert 2 < done < 4000
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{done:06d}"]
    page.get_by_label("Steps in all").fill(str(done + 3))
    page.get_by_role("button", name="Go on").click()
    page.get_by_text(f"step {done + 3} of {done + 3} · finished").wait_for()
    assert steps_of(run) == done + 3
    assert (run / "adapter.safetensors").exists()


def steps_of(run):
    return len((run / "metrics.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_the_studio_may_end_in_the_middle_of_a_run(tmp_path, data, made_model):
    """The step at work is saved, and the next server goes on from it without being told."""
    folder = StudioFolder.open(tmp_path / "studio")
    settings = ["steps=4000", "rank=2", "preview_every=0", "preview_prompts=a tone", "width=64", "height=64"]
    store = Store(folder.database)
    number = store.add_job("train", "cut", {"run": "cut", "data": str(data), "model": str(made_model.path),
                                            "settings": settings})  # fmt: skip
    store.close()
    run = folder.runs / "cut"
    server = start(folder.path)
    until(lambda: (run / "metrics.jsonl").exists() and steps_of(run) > 2)
    server.stop()
    done = steps_of(run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{done:06d}"]
    server = start(folder.path)
    until(lambda: steps_of(run) > done + 2)
    worker = server.children()
    server.kill()  # no time to say anything; the worker saves its step, and ends
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in worker))
    assert (run / "checkpoints" / f"step-{steps_of(run):06d}").exists()
    store = Store(folder.database)
    assert store.job(number).state == "running"  # the next server takes it up
    store.close()


def test_runs_are_found_by_name_alone(tmp_path):
    folder = StudioFolder.open(tmp_path)
    for name in ("one", "two"):
        (folder.runs / name).mkdir()
        (folder.runs / name / "run.json").write_text("{}")
    (folder.runs / "two" / "adapter.safetensors").touch()
    (folder.runs / "no-run").mkdir()
    assert sorted(run_names(folder)) == ["one", "two"]
    assert finished_adapters(folder) == {"two": str(folder.runs / "two" / "adapter.safetensors")}
    (folder.runs / "out").symlink_to(tmp_path)
    for name in ("..", ".", "../x", "a/b", "a\0", "out", "-x", "é"):
        with pytest.raises(UserError):
            run_folder(folder, name)
    with pytest.raises(UserError, match="no such sample"):
        sample_file(folder, "one", 0, 1)
