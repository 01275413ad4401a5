"""Contexts on disk: the same bits, of the same model and words alone, and never more than a few."""

import dataclasses
import os
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_ltxw import files
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.prompt_cache import PromptCache, default_folder
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run

PROMPTS = ('a woman, (woman, whispering): "hush"', "noise", 'a man, (man): "wait"')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_LTXW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(one, two):
    return mx.array_equal(one.video_contexts, two.video_contexts) and mx.array_equal(
        one.audio_contexts, two.audio_contexts
    )


def test_a_second_run_loads_no_text_encoder(dev, folder, monkeypatch):
    first = Networks(dev, mx.float32).contexts(PROMPTS[:2])
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 2
    assert all("woman" not in str(file) and b"hush" not in file.read_bytes() for file in files)
    for file in files:
        os.utime(file, (1, 1))
    with monkeypatch.context() as patched:
        patched.setattr("mlx_ltxw.pipeline.networks.encode_prompts", None)
        again = Networks(dev, mx.float32).contexts(PROMPTS[:2])
        turned = Networks(dev, mx.float32).contexts(PROMPTS[1::-1])
    assert same(first, again)
    assert mx.array_equal(turned.audio_contexts, first.audio_contexts[::-1])
    assert all(file.stat().st_mtime > 1e9 for file in files)


def test_contexts_do_not_depend_on_their_company(dev, folder, monkeypatch):
    together = Networks(dev, mx.float32).contexts(PROMPTS)
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    for row, prompt in enumerate(PROMPTS):
        alone = Networks(dev, mx.float32).contexts([prompt])
        assert mx.array_equal(alone.video_contexts[0], together.video_contexts[row])
        assert mx.array_equal(alone.audio_contexts[0], together.audio_contexts[row])


def test_the_name_covers_all_that_made_it(dev, tmp_path):
    def file(prompt="hush", model=dev, dtype=mx.float32):
        return PromptCache(model, dtype, tmp_path).file(prompt)

    changed = {}
    for name in ("config.json", "text_encoder/config.json", "text_encoder/tokenizer.json"):
        record = dataclasses.replace(dev.files[name], sha256="0" * 64)
        changed[name] = dataclasses.replace(dev, files=dev.files | {name: record})
    shards = [name for name in dev.files if name.endswith(".safetensors")]
    for part in ("text_encoder", "text_projection", "connectors"):
        name = next(name for name in shards if name.startswith(part))
        changed[name] = dataclasses.replace(
            dev, files=dev.files | {name: dataclasses.replace(dev.files[name], sha256="1" * 64)}
        )
    other = [file(model=model) for model in changed.values()]
    names = [file(), file("Hush"), file(dtype=mx.bfloat16), *other]
    assert len(set(names)) == len(names) == 9
    vocoder = next(name for name in shards if name.startswith("vocoder"))
    unrelated = dataclasses.replace(
        dev, files=dev.files | {vocoder: dataclasses.replace(dev.files[vocoder], sha256="2" * 64)}
    )
    assert file(model=unrelated) == file()


def test_what_is_damaged_is_made_again(dev, folder):
    first = Networks(dev, mx.float32).contexts(PROMPTS[:1])
    (file,) = folder.glob("*.safetensors")
    for data in (b"", file.read_bytes()[:-100], b"no tensors at all", b"\xff" * 200):
        file.write_bytes(data)
        assert same(Networks(dev, mx.float32).contexts(PROMPTS[:1]), first)
        assert len(file.read_bytes()) > 1000


def test_contexts_are_those_of_one_blas(dev, tmp_path, monkeypatch):
    """In two threads OpenBLAS adds in another order than in one: with such contexts a clip is not the same again."""
    cache = PromptCache(dev, mx.float32, tmp_path)
    monkeypatch.setattr("mlx_ltxw.blas.identity", lambda: "another")
    assert PromptCache(dev, mx.float32, tmp_path).file("a") != cache.file("a")


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_other_tensors_than_were_written_are_made_again(dev, folder, dtype):
    """A header that was changed, and a file of somebody else's: neither ends a run, nor makes another clip."""
    first = Networks(dev, dtype).contexts(PROMPTS[:1])
    (file,) = folder.glob("*.safetensors")
    arrays, metadata = mx.load(str(file), return_metadata=True)
    changes = {
        "narrow": lambda x: x[..., :-1], "short": lambda x: x[:, :-3], "flat": lambda x: x[0], "none": lambda x: x * 0,
        "whole": lambda x: x.astype(mx.int32), "lost": lambda x: x * mx.nan,
    }  # fmt: skip
    changed = [{name: mx.contiguous(change(x)) for name, x in arrays.items()} for change in changes.values()]
    for tensors in [*changed, {"video": arrays["audio"], "audio": arrays["video"]}]:
        mx.save_safetensors(str(file), tensors, metadata)
        assert same(Networks(dev, dtype).contexts(PROMPTS[:1]), first)


def test_the_oldest_go_first(dev, tmp_path):
    context = mx.zeros((1, 8, 16)), mx.zeros((1, 8, 16))
    cache = PromptCache(dev, mx.float32, tmp_path, largest=3000)
    for number, name in enumerate("abcd"):
        cache.write(name, context)
        os.utime(cache.file(name), (number, number))
        if name == "b":
            cache.read("a")
    assert [name for name in "abcd" if cache.read(name)] == ["a", "d"]
    assert not list(tmp_path.glob(".mlx-ltxw-*"))


def test_what_a_killed_process_left_goes_with_the_next(dev, tmp_path, monkeypatch):
    """Half of a prompt's contexts."""
    context = mx.zeros((1, 8, 16)), mx.zeros((1, 8, 16))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for owner, name in ((mx, "save_safetensors"), (os, "fsync")):
            patch.setattr(owner, name, killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            PromptCache(dev, mx.float32, tmp_path).write("a", context)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    monkeypatch.setattr(files, "_swept", set())
    PromptCache(dev, mx.float32, tmp_path).write("b", context)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".safetensors"]


def test_a_folder_that_cannot_be_is_no_reason_to_stop(dev, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLX_LTXW_CACHE", str(tmp_path / "file" / "cache"))
    assert len(Networks(dev, mx.float32).contexts(PROMPTS[:1]).audio_contexts) == 1


@pytest.mark.parametrize(("value", "wanted"), [("0", None), ("/somewhere/else", "/somewhere/else")])
def test_the_variable_names_the_folder(value, wanted, monkeypatch):
    monkeypatch.setenv("MLX_LTXW_CACHE", value)
    assert (default_folder() and str(default_folder())) == wanted


def test_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MLX_LTXW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_folder() == tmp_path / "mlx-ltxw" / "prompts"


def test_a_run_without_the_cache_reads_and_keeps_nothing(dev, folder):
    """The flag of the command and the argument of `load`; what is made is the same."""
    request = Request(PROMPTS[0], width=64, height=32, frames=9, steps=1)

    def made(cache):
        job = dataclasses.replace(plan(request, dev), cache=cache)
        return next(event.latents for event in run(job) if isinstance(event, Step))

    without = made(cache=False)
    assert not folder.exists()
    kept = made(cache=True)
    files = list(folder.glob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        os.utime(file, (1, 1))  # what is read is marked as read
    again = made(cache=False)
    assert all(file.stat().st_mtime == 1 for file in files)
    for latents in (kept, again):
        assert all(mx.array_equal(a, b) for a, b in zip(latents[:2], without[:2], strict=True))
