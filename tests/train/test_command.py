"""`mlx-ltxw train` from clips to the adapter, and its refusals."""

import dataclasses
import json

import mlx.core as mx
import pytest
import yaml
from click.testing import CliRunner

from mlx_ltxw.cli import group
from mlx_ltxw.errors import UserError
from mlx_ltxw.train.config import TrainConfig
from tests.train.clips import metrics
from tests.train.recordings import spoken, write

QUICK = ("steps=2", "rank=2", "preview_steps=1", "preview_every=0", "preview_prompts=a tone", "width=64", "height=64")
LINES = ["the rain has stopped in the garden", "close your eyes and listen to me", "seven boats came home at noon"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i, line in enumerate(LINES):
        path = folder / f"{i}.wav"
        write(path, spoken(line, "f2", "whispering"))
        path.with_suffix(".txt").write_text(f'a dim room, (woman, whispering): "{line}"')
    return folder


def train(*arguments, **sets):
    options = [part for text in QUICK for part in ("--set", text)]
    options += [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(group, ["train", *map(str, arguments), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_from_clips_to_the_adapter(tiny_model, data, tmp_path):
    run = tmp_path / "run"
    common = ("--data", data, "-o", run, "-m", tiny_model, "--cache", tmp_path / "cache")
    assert "3 clips are encoded" in train(*common, "--prepare-only").output
    assert len((run / "clips.jsonl").read_text().splitlines()) == 3
    assert not (run / "adapter.safetensors").exists()
    output = train(*common).output
    assert "on 3 clips (" in output
    assert ", 2 steps" in output
    assert "step 2/2 · loss audio" in output
    assert len(mx.load(str(run / "adapter.safetensors"))) == 32  # sound alone: no video_to_audio_attn
    assert "| woman, whispering | 3 |" in (run / "README.md").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 2
    assert json.loads((run / "data.json").read_text())
    with pytest.raises(UserError, match="--resume"):
        train(*common)
    with pytest.raises(UserError, match="rank 2 to 3"):
        train(*common, "--resume", rank=3)
    with pytest.raises(UserError, match="coupled False to True"):
        train(*common, "--resume", "--coupled")
    before = metrics(run)
    assert "from step 2" in train("-o", run, "--resume").output  # nothing but the folder is said again
    assert metrics(run) == before
    lines = [json.loads(line) for line in train("-o", run, "--resume", "--json", steps=3).stdout.splitlines()]
    events = [line["event"] for line in lines]
    assert (events[0], events[-1]) == ("data", "finished")
    assert next(line for line in lines if line["event"] == "progress")["step"] == 3
    note = "The learning rate falls over 3 steps now, not 2: at step 2 it goes from 2e-05 to 8e-05."
    assert note in next(line for line in lines if line["event"] == "started")["notes"]
    seconds = json.loads((run / "data.json").read_text())["seconds"]
    assert f"3 clips, {seconds:.0f} s together" in (run / "README.md").read_text()
    page = (run / "index.html").read_text()
    assert '<a href="adapter.safetensors">' in page
    assert "optimizer steps" in page
    assert "<b>Warnings</b>" in page
    assert "<td>learning_rate</td>" in page


def test_findings_name_flags_for_machines_too(tiny_model, data, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "0.wav").write_bytes((data / "0.wav").read_bytes())
    arguments = ["train", "--data", folder, "-o", tmp_path / "run", "-m", tiny_model, "--json", "--set", "steps=1"]
    result = CliRunner().invoke(group, [*map(str, arguments)])
    (event,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert "or add --transcribe." in event["findings"][0]["text"]
    assert "{field" not in result.output


def test_every_option_is_in_the_help():
    text = CliRunner().invoke(group, ["train", "-h"]).output
    assert all(f"\n  {field.name}" in text for field in dataclasses.fields(TrainConfig))


def test_an_upload_is_checked_before_the_work(tiny_model, data, tmp_path, monkeypatch):
    from huggingface_hub.errors import HTTPError

    class Api:
        def whoami(self):
            raise HTTPError("no route\nto the host\nfor many lines")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    run = tmp_path / "run"
    said = r"can be uploaded to me/quiet: the Hub cannot be reached \(no route\)\. Connect"
    with pytest.raises(UserError, match=said):
        train("--data", data, "-o", run, "-m", tiny_model, "--upload", "me/quiet")
    assert not run.exists()
    monkeypatch.setattr(Api, "whoami", lambda self: {"name": "somebody", "orgs": []})
    with pytest.raises(UserError, match="somebody cannot write to me/quiet"):
        train("--data", data, "-o", run, "-m", tiny_model, "--upload", "me/quiet")
    with pytest.raises(UserError, match="is no name of a Hub repo"):
        train("--data", data, "-o", run, "-m", tiny_model, "--upload", "a/b/c")


def test_refusals_come_before_any_work(tiny_model, data, tmp_path):
    common = ("--data", data, "-o", tmp_path / "run", "-m", tiny_model)
    with pytest.raises(UserError, match="dropout"):
        train(*common, dropout=0.1)
    with pytest.raises(UserError, match="audio_draws acts only under the video lock"):
        train(*common, "--coupled", audio_draws=2)
    with pytest.raises(UserError, match="--prepare-only"):
        train(*common, "--prepare-only", "--upload", "me/quiet")
    with pytest.raises(UserError, match="no model directory"):
        train("--data", data, "-o", tmp_path / "run", "-m", tmp_path / "none")
    assert train("-o", tmp_path / "run").exit_code == 2
    assert not (tmp_path / "run").exists()
