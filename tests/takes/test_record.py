"""What a made file says of itself, and which files of this machine it may make the program read."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.source import Located
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.record import Record, clip_record, local_files, read_record, with_given
from mlx_ltxw.takes.sources import is_local, pinned

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def made(path, metadata):
    write_wav(path, np.zeros((480, 2), np.float32), metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("metadata", "kind", "prompts"),
    [
        ({"prompt": "a", "seeds": [3], "mlx_ltxw": "0.1.0", "model": {"name": "x"}}, "clip", ["a"]),
        ({"kind": "clip", "prompt": "a", "seeds": [3]}, "clip", ["a"]),
        ({"script": [{"prompt": "a"}, {"prompt": "b"}], "mlx_ltxw": "0.1.0"}, "script", ["a", "b"]),
        ({"kind": "script", "parts": [{"prompt": "a"}, {"prompt": "b"}]}, "script", ["a", "b"]),
        ({"prompt": "a", "training_step": 40}, "sample", ["a"]),
        ({"kind": "sample", "prompt": "a", "seeds": [3], "training_step": 40}, "sample", ["a"]),
    ],
)
def test_records_of_now_and_of_before_there_were_kinds(tmp_path, metadata, kind, prompts):
    record = read_record(made(tmp_path / "a.wav", metadata))
    assert record.kind == kind
    assert [request.prompt for request in record.requests] == prompts
    assert record.training_step == (40 if kind == "sample" else None)


@pytest.mark.parametrize(
    "metadata",
    [
        {"kind": "dance", "prompt": "a"}, {"kind": "script"}, {"kind": "script", "parts": []},
        {"kind": "script", "parts": [1]}, {"kind": ["clip"], "prompt": "a"}, {"prompt": "a", "model": 3},
        {"prompt": "a", "adapter_sha256": []}, {"prompt": "a", "later": 1}, {"kind": "sample", "training_step": 1},
    ],
)  # fmt: skip
def test_what_is_no_record(tmp_path, metadata):
    with pytest.raises(UserError):
        read_record(made(tmp_path / "a.wav", metadata))


def record(*requests, kind="clip", hashes=None):
    return Record(kind, requests, {}, None, None, hashes or {})


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("whisper", False),
        ("owner/name", False),
        (f"owner/name@{COMMIT}", False),
        (f"owner/name/file.safetensors@{COMMIT}", False),
        ("lora.safetensors", True),
        ("/etc/passwd", True),
        ("../x.safetensors", True),
        ("a/b/c/d.txt", True),
    ],
)
def test_which_adapters_are_files_of_this_machine(source, local):
    assert is_local(source) is local


def test_a_folder_that_looks_like_a_repository_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert is_local("owner/name")
    assert not is_local(f"owner/name@{COMMIT}")


def test_files_are_only_read_when_they_are_given():
    of_others = record(Request("a", adapters=("whisper", "/home/x/my.safetensors:0.5"), video="/home/x/clip.mp4"))
    assert local_files(of_others.requests[0]) == {
        "adapters": ["/home/x/my.safetensors:0.5"], "images": [], "video": ["/home/x/clip.mp4"], "audio": [],
        "distilled_lora": [],
    }  # fmt: skip
    with pytest.raises(UserError) as raised:
        with_given(of_others, (), None, "out.mp4")
    for words in ("out.mp4", "adapters=whisper", "adapters=/home/x/my.safetensors:0.5", "video=/home/x/clip.mp4"):
        assert words in str(raised.value)
    with pytest.raises(UserError, match="video="):
        with_given(of_others, ("my.safetensors",), None, "out.mp4")
    (request,) = with_given(of_others, ("whisper", "my.safetensors:0.5"), "mine.mp4", "out.mp4")
    assert request.adapters == ("whisper", "my.safetensors:0.5")
    assert request.video == "mine.mp4"
    assert with_given(record(Request("a", adapters=("whisper:0.3",))), (), None, "x")[0].adapters == ("whisper:0.3",)


def test_pictures_and_sounds_are_only_read_when_they_are_given():
    of_others = record(Request("a", images=("/home/x/face.png@last:0.5",), audio="/home/x/line.wav"))
    with pytest.raises(UserError) as raised:
        with_given(of_others, (), None, "out.mp4")
    for words in ("images=/home/x/face.png@last:0.5", "audio=/home/x/line.wav"):
        assert words in str(raised.value)
    with pytest.raises(UserError, match=r"audio=/home/x/line\.wav"):
        with_given(of_others, (), None, "out.mp4", images=("my.png",))
    (request,) = with_given(of_others, (), None, "out.mp4", images=("my.png",), audio="my.wav")
    assert (request.images, request.audio) == (("my.png",), "my.wav")


@pytest.mark.parametrize("strength", ["", ":0.8", ":0.25/0.5"])
def test_a_distilled_lora_is_only_read_when_it_is_given(strength):
    of_others = record(Request("a", pipeline="hq", distilled_lora=f"/home/x/lora.safetensors{strength}"))
    assert local_files(of_others.requests[0])["distilled_lora"] == [f"/home/x/lora.safetensors{strength}"]
    with pytest.raises(UserError, match=f"distilled_lora=/home/x/lora.safetensors{strength}"):
        with_given(of_others, (), None, "out.mp4")
    (request,) = with_given(of_others, (), None, "out.mp4", distilled_lora=f"mine.safetensors{strength}")
    assert request.distilled_lora == f"mine.safetensors{strength}"
    hub = record(Request("a", distilled_lora=f"owner/name/lora.safetensors@{COMMIT}{strength}"))
    assert with_given(hub, (), None, "out.mp4") == hub.requests
    located = Located("n", Path(f"/cache/snapshots/{COMMIT}/lora.safetensors"), None)
    spec = f"owner/name/lora.safetensors{strength}"
    kept = pinned(spec, located, "owner/name/lora.safetensors")
    assert kept == f"owner/name/lora.safetensors@{COMMIT}{strength}"


def test_a_file_of_this_machine_is_named_with_its_content(tmp_path):
    """What is on the Hub or comes with the package has its name alone; without any there is no table."""
    mine = tmp_path / "mine.safetensors"
    shutil.copy(BUILTIN_ADAPTERS["whisper"], mine)
    size = {"width": 64, "height": 32, "frames": 17, "steps": 1}
    specs = (f"{mine}:0.5", "whisper")
    record = clip_record(plan(Request("a", adapters=specs, **size), open_model()), 3)
    assert record["adapter_sha256"] == {specs[0]: hashlib.sha256(mine.read_bytes()).hexdigest()}
    assert "adapter_sha256" not in clip_record(plan(Request("a", adapters=specs[1:], **size), open_model()), 3)


def test_files_of_before_there_were_recipes_are_made_in_one_stage(tmp_path):
    """Whatever their model would do by default now."""
    (old,) = read_record(made(tmp_path / "a.wav", {"prompt": "a", "seeds": [3]})).requests
    (new,) = read_record(made(tmp_path / "b.wav", {"prompt": "a", "pipeline": "two-stage"})).requests
    assert (old.pipeline, new.pipeline) == ("one-stage", "two-stage")


def test_each_part_of_a_script_finds_its_adapter_among_those_given(tmp_path):
    mine, other, wrong = (tmp_path / f"{name}.safetensors" for name in ("mine", "b", "a2"))
    mine.write_bytes(b"one")
    other.write_bytes(b"two")
    script = record(
        Request("a", adapters=("/x/a.safetensors:0.5",)), Request("b", adapters=("/x/b.safetensors",)),
        Request("c", adapters=("whisper",)),
        kind="script", hashes={"/x/a.safetensors:0.5": hashlib.sha256(b"one").hexdigest()},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"adapters=/x/b\.safetensors"):
        with_given(script, (str(mine),), None, "out.mp4")
    wrong.write_bytes(b"three")
    requests = with_given(script, (str(wrong), str(mine), str(other)), None, "out.mp4")
    assert [one.adapters for one in requests] == [(f"{mine}:0.5",), (str(other),), ("whisper",)]


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("owner/name", f"owner/name@{COMMIT}"),
        ("owner/name:0.5", f"owner/name@{COMMIT}:0.5"),
        ("owner/name@main:audio_attn1=0.5", f"owner/name@{COMMIT}:audio_attn1=0.5"),
        ("owner/name/a.safetensors", f"owner/name/a.safetensors@{COMMIT}"),
        (f"owner/name@{COMMIT}", f"owner/name@{COMMIT}"),
        ("whisper:0.5", "whisper:0.5"),
        ("/x/a.safetensors", "/x/a.safetensors"),
    ],
)
def test_an_adapter_of_the_hub_is_kept_with_its_commit(spec, kept):
    cached = Path(f"/cache/hub/models--owner--name/snapshots/{COMMIT}/a.safetensors")
    assert pinned(spec, Located("owner/name", cached, None)) == kept
