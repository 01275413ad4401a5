"""The cache of latents and text contexts, over a made model, against the official networks."""

import dataclasses
import gc
import shutil
import weakref

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_ltxw import files
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.train.data import cache
from mlx_ltxw.train.data.cache import build_cache, load_clip
from mlx_ltxw.train.data.clip import read_picture
from mlx_ltxw.train.data.prepare import prepare
from mlx_ltxw.train.record import RunArguments
from mlx_ltxw.train.start import begin
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import StreamedLayers
from mlx_ltxw.world import World
from tests.numbers import relative_error
from tests.reference import pipeline as reference
from tests.reference.audio import official_log_mel
from tests.reference.official import Official
from tests.reference.video import channels_first
from tests.train.recordings import spoken, write, write_mp4

CAPTIONS = ['(woman, whispering): "close your eyes"', 'a dim room, (man, speaking softly): "wait"']


@pytest.fixture(scope="module")
def model(made_model):
    return made_model


@pytest.fixture(scope="module")
def clips(model, tmp_path_factory):
    """Two with a picture, one without; two of them with one caption."""
    folder = tmp_path_factory.mktemp("clips")
    for number in (0, 1):
        wave = np.repeat(spoken(["close your eyes", "wait for me"][number], manner="soft", seconds=1.5), 2)
        write_mp4(folder / f"{number}.mp4", 33, wave, seed=number)
        (folder / f"{number}.txt").write_text(CAPTIONS[number])
    write(folder / "2.wav", spoken("the sound of rain", seconds=1.2))
    (folder / "2.txt").write_text(CAPTIONS[0])
    prepared = prepare(folder, Geometry(64, 64, 33, 24.0, latent_grid(model)))
    assert len(prepared.clips) == 3
    return prepared.clips


@pytest.fixture(scope="module")
def built(clips, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return [load_clip(path) for path in build_cache(clips, model, folder)]


def test_what_is_stored(clips, built):
    for clip, made in zip(clips, built, strict=True):
        size = clip.geometry
        assert (made.name, made.caption) == (clip.name, clip.caption)
        assert (made.width, made.height, made.frames, made.frame_rate) == (64, 64, 33, 24.0)
        assert (made.video is not None) == clip.picture
        assert made.audio.shape[0] == size.audio_tokens == 34  # 1.375 s, 25 a second, halves to even
        assert {made.audio.dtype, made.video_context.dtype, made.audio_context.dtype} == {mx.float32}
        assert made.video is None or (made.video.shape[0], made.video.dtype) == (size.video_tokens, mx.float32)
        assert made.video_context.shape[0] == made.audio_context.shape[0] == 1024
    assert len({made.key for made in built}) == 3


@torch.no_grad()
def test_latents_equal_the_official_encoders(clips, built, made_checkpoint):
    official = Official.open(made_checkpoint)
    for clip, made in zip(clips, built, strict=True):
        samples = 22000  # 1.375 s
        wave = read_audio(clip.path, 16000, 2, seconds=1.375)
        wave = np.pad(wave, ((0, samples - len(wave)), (0, 0)))[None]
        encoder = official.audio_encoder.double()
        latent = encoder(torch.from_numpy(official_log_mel(wave)).double().permute(0, 3, 1, 2))
        tokens = encoder.patchifier.patchify(latent)[0].numpy()
        assert len(tokens) == 35  # one more than the transformer has for 1.375 s
        assert relative_error(made.audio, tokens[:34]) < 1e-5
        if clip.picture:
            pixels = read_picture(clip)[None].astype(np.float64) / 127.5 - 1
            latent = official.video_encoder.double()(channels_first(pixels))[0]  # (C, F, H, W)
            assert relative_error(made.video, latent.flatten(1).T.numpy()) < 1e-5


def test_contexts_equal_the_official_ones(clips, built, made_checkpoint, made_gemma):
    official, gemma = Official.open(made_checkpoint), reference.load_text_encoder(made_gemma)
    for clip, made in zip(clips, built, strict=True):
        video, audio = reference.encode(official, gemma, clip.caption)
        assert relative_error(made.video_context, video[0].float().numpy()) < 1e-4
        assert relative_error(made.audio_context, audio[0].float().numpy()) < 1e-4


class Killed(Exception):
    pass


def counting(limit=None):
    """A progress function that notes its calls and gives up at the one numbered `limit`."""
    calls = []

    def progress(*call):
        calls.append(call)
        if len(calls) == limit:
            raise Killed

    return progress, calls


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_part_is_told_when_it_begins(clips, model, tmp_path):
    """By the plan's names, ahead of its work: MLX's CPU backend otherwise holds four times what encoding needs."""
    told = []
    build_cache(clips, model, tmp_path, lambda stage, done, total: told.append(stage), told.append)
    of_each = [["sounds' encoding", "pictures' encoding"]] * 2 + [["sounds' encoding"]]  # the third has no picture
    latents = [name for parts in of_each for name in (*parts, "latents")]
    assert told == [*latents, "captions' encoding", "text", "text", "connectors"]
    folder = tmp_path / "clips"
    folder.mkdir()
    begun = begin(tmp_path / "run", RunArguments(str(folder), str(model.path)), World())
    planned = {name: begun.budget.part(name) for name in {*told} - {"latents", "text"}}
    assert all(weights > 0 and activations > 0 for weights, activations in planned.values())


def test_captions_go_together_through_layers_that_are_read_and_let_go(model, monkeypatch):
    """Those of LTX-2.3's Gemma have 24 GB; a caption has the same features to the last bit, whoever goes with it."""
    read, captions = [], [f'(woman, whispering): "{"wait " * count}"' for count in (1, 4, 2)]
    begun = StreamedLayers._begin
    monkeypatch.setattr(StreamedLayers, "_begin", lambda self, index: read.append(index) or begun(self, index))

    def features(prompts):
        read.clear()
        return cache._features(prompts, model, lambda *_: None, lambda _: None)

    together, layers = features(captions), model.network_config("text_encoder").layers
    assert read == [*range(layers)]
    monkeypatch.setattr(cache, "PROMPT_TOKENS", 30)  # the first two, or the second and third, have more
    apart = features(captions)
    assert read == [*range(layers)] * 3
    for caption in captions:
        for one, other in zip(together[caption], apart[caption], strict=True):
            np.testing.assert_array_equal(np.array(one), np.array(other))


def test_groups_of_captions_have_the_tokens_of_one_prompt():
    assert cache._together([600, 424, 1, 1024, 3, 2]) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6)]
    assert cache._together([]) == []


@pytest.mark.parametrize("limit", [2, 5])
def test_a_cut_run_goes_on_and_ends_the_same(clips, model, tmp_path, limit):
    whole, calls = counting()
    build_cache(clips, model, tmp_path / "whole", whole)
    assert calls == [("latents", n, 3) for n in (1, 2, 3)] + [("text", n, 2) for n in (1, 2)]
    progress, _ = counting(limit)
    with pytest.raises(Killed):
        build_cache(clips, model, tmp_path / "cut", progress)
    rest, calls = counting()
    paths = build_cache(clips, model, tmp_path / "cut", rest)
    assert calls == [("latents", 1, 1)] * (limit == 2) + [("text", n, 2) for n in (1, 2)]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    nothing, calls = counting()
    assert build_cache(clips, model, tmp_path / "cut", nothing) == paths
    assert calls == []


def test_a_mended_caption_costs_only_its_text(clips, model, tmp_path):
    before = build_cache(clips, model, tmp_path)
    mended = [clips[0], dataclasses.replace(clips[1], caption='(man): "stay"'), clips[2]]
    progress, calls = counting()
    after = build_cache(mended, model, tmp_path, progress)
    assert calls == [("text", 1, 1)]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    old, new = load_clip(before[1]), load_clip(after[1])
    assert mx.array_equal(old.video, new.video)
    assert not mx.allclose(old.audio_context, new.audio_context)


def test_the_key_tells_what_matters_apart(clips, model, tmp_path):
    copy = shutil.copy(clips[0].path, tmp_path / "other.mp4")
    clip = dataclasses.replace(clips[0], path=copy, name="other")
    size = clip.geometry

    def key(clip, model=model):
        return cache._job(clip, model, tmp_path).key

    assert key(clip) == key(clips[0])  # the same content under another name
    others = [
        dataclasses.replace(clip, caption="x"),
        dataclasses.replace(clip, window=0.1),
        dataclasses.replace(clip, start=0.1),
        dataclasses.replace(clip, end=1.0),
        dataclasses.replace(clip, picture=False),
        dataclasses.replace(clip, geometry=dataclasses.replace(size, width=96)),
        dataclasses.replace(clip, geometry=dataclasses.replace(size, frame_rate=25.0)),
    ]
    assert len({key(other) for other in [clip, *others]}) == 8
    with open(copy, "ab") as file:
        file.write(b"\0")
    assert key(clip) != key(clips[0])


@pytest.mark.parametrize(
    ("file", "same"), [("audio_vae", False), ("connectors", False), ("text_encoder/", False), ("transformer", True)]
)
def test_the_key_follows_the_networks_that_are_used(clips, model, tmp_path, file, same):
    name = next(name for name in model.files if name.startswith(file) and name.endswith(".safetensors"))
    changed = {**model.files, name: dataclasses.replace(model.files[name], sha256="0")}
    other = dataclasses.replace(model, files=changed)
    keys = [cache._job(clips[0], used, tmp_path).key for used in (model, other)]
    assert (keys[0] == keys[1]) == same


def test_no_two_stages_are_in_memory_together(clips, model, tmp_path, monkeypatch):
    alive = weakref.WeakSet()
    seen = []
    load = ModelDir.load

    def note(name, network):
        gc.collect()
        seen.append((name, sorted(other.kind for other in alive)))
        mark = Mark(name)
        alive.add(mark)
        network.mark = mark  # dies with the network
        return network

    class Mark:
        def __init__(self, kind):
            self.kind = kind

    monkeypatch.setattr(ModelDir, "load", lambda self, name, *rest, **more: note(name, load(self, name, *rest, **more)))
    build_cache(clips, model, tmp_path)
    gc.collect()
    assert seen == [
        ("audio_vae", []), ("video_vae", ["audio_vae"]), ("text_encoder", []), ("text_projection", ["text_encoder"]),
        ("connectors", []),
    ]  # fmt: skip
    assert not alive


def test_sound_alone_opens_no_video_vae(clips, model, tmp_path, monkeypatch):
    loaded = []
    load = ModelDir.load
    monkeypatch.setattr(
        ModelDir, "load", lambda self, name, *rest, **more: loaded.append(name) or load(self, name, *rest, **more)
    )
    build_cache(clips[2:], model, tmp_path)
    assert "video_vae" not in loaded


def test_faults_name_the_clip(clips, model, tmp_path):
    gone = dataclasses.replace(clips[0], path=tmp_path / "gone.mp4")
    with pytest.raises(UserError, match=r"gone\.mp4"):
        build_cache([gone], model, tmp_path)
    long = dataclasses.replace(clips[2], caption="word " * 1500)
    with pytest.raises(UserError, match=r"2\.wav: .*too long"):
        build_cache([long], model, tmp_path)
    short = dataclasses.replace(clips[0], window=1.0)
    with pytest.raises(UserError, match=r"0\.mp4: .*too short"):
        build_cache([short], model, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        build_cache(clips, model, tmp_path / "file")


def test_a_full_disk_is_told_before_anything_is_encoded(clips, model, tmp_path, monkeypatch):
    """What is asked for is what the files take, but for their headers."""
    build_cache(clips, model, tmp_path / "whole")
    taken = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*.safetensors"))
    asked = []
    monkeypatch.setattr(cache, "check_free", lambda folder, needed, *words: asked.append(needed))
    build_cache(clips, model, tmp_path / "again")
    assert 0.95 * taken < asked[0] < taken
    monkeypatch.undo()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"1\.0 kB of free space, and the encoded clips need about"):
        build_cache(clips, model, tmp_path / "none")
    assert not list((tmp_path / "none").rglob("*.safetensors"))


def test_a_damaged_file_is_said_to_be_damaged(clips, model, tmp_path):
    (path,) = build_cache(clips[2:], model, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged\. Delete it"):
        load_clip(path)
    with pytest.raises(UserError, match="Build the cache again"):
        load_clip(tmp_path / "nothing.safetensors")
    mx.save_safetensors(str(path), {"audio": mx.zeros(3)}, {"key": "x"})
    with pytest.raises(UserError, match="damaged"):
        load_clip(path)
