"""Training in the worker: stopped after a step that is saved, gone on with, told to the page."""

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.place import Place
from mlx_ltxw.studio.run_state import about_run, check_new
from mlx_ltxw.studio.work_train import work
from tests.train.recordings import spoken, write

SETTINGS = [
    "steps=6", "rank=2", "preview_steps=1", "preview_every=0", "preview_prompts=a tone", "width=64", "height=64",
    "frames=49",
]  # fmt: skip


@pytest.fixture
def asked(tmp_path, made_model):
    for number, line in enumerate(("the rain has stopped", "close your eyes")):
        write(tmp_path / "data" / f"{number}.wav", spoken(line, "f2", "whispering", 2.0))
        (tmp_path / "data" / f"{number}.txt").write_text(f'(woman, whispering): "{line}"')
    return {"run": "quiet", "data": str(tmp_path / "data"), "model": str(made_model.path), "settings": SETTINGS}


def done(asked, folder, stop_at=None):
    """Runs the job; what it told. It is cancelled once the step is done."""
    told = []
    steps = lambda: [values["step"] for event, values in told if values.get("what") == "step"]  # noqa: E731
    tell = lambda event, /, **values: told.append((event, values))  # noqa: E731
    work(asked, Place(1, folder, False), tell, lambda: stop_at is not None and stop_at in steps())
    return told, steps()


@pytest.mark.slow
def test_a_stopped_run_saves_its_step_and_goes_on_there(asked, tmp_path):
    folder = StudioFolder.open(tmp_path / "studio")
    assert check_new(asked, folder) == {"run": "quiet"}
    told, steps = done(asked, folder, stop_at=2)
    run = folder.runs / "quiet"
    assert steps == [1, 2, 3]  # the step that was at work when it was asked
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000003"]
    assert told[-1] == ("train", {"run": "quiet", "what": "stopped", "step": 3})
    (findings,) = [values["findings"] for _, values in told if values.get("what") == "data"]
    assert any(one["code"] == "few-clips" for one in findings)
    state = about_run({"run": "quiet"}, folder)
    assert (state["step"], state["steps"], state["saved"], state["finished"]) == (3, 6, 3, False)
    with pytest.raises(UserError, match="is a run quiet already"):
        check_new(asked, folder)
    told, steps = done({"run": "quiet"}, folder)  # nothing but the name is said again
    assert steps == [4, 5, 6]
    assert told[-1] == ("train", {"run": "quiet", "what": "finished"})
    state = about_run({"run": "quiet"}, folder)
    assert state["finished"]
    assert [point[0] for point in state["losses"]] == [1, 2, 3, 4, 5, 6]
    assert [(one["step"], one["number"], one["prompt"]) for one in state["samples"]] == [
        (0, 1, "a tone"), (6, 1, "a tone"),
    ]  # fmt: skip


def test_an_option_that_does_not_exist_is_refused_before_the_queue(tmp_path):
    with pytest.raises(UserError, match="no training option 'speed'"):
        check_new({"run": "quiet", "data": "/data", "settings": ["speed=9"]}, StudioFolder.open(tmp_path / "studio"))
