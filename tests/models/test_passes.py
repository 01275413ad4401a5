"""Guidance passes that go over the blocks side by side: what each gives is what a walk of its own gives, to the bit."""

import weakref

import mlx.core as mx
import pytest

import tests.reference.transformer as official
from mlx_ltxw.models.transformer import (
    NO_SKIPS,
    Accompaniment,
    Skips,
    Transformer,
    TransformerConfig,
    Walk,
    accompanied_forward,
    audio_forward,
    joint_forward,
)
from mlx_ltxw.models.transformer.attention import Attention
from mlx_ltxw.models.transformer.block import Block
from mlx_ltxw.models.transformer.inputs import Sharing
from mlx_ltxw.models.transformer.walk import Abreast
from mlx_ltxw.tree import share
from tests.models.test_transformer import both, streams

LAYERS = 5
PERTURBED = Skips(video_self=frozenset({3}), audio_self=frozenset({2}))
WALKS = {"whole": Walk(), "blocks": Walk(1, 1), "parts": Walk.bounded()}


@pytest.fixture(scope="module")
def model():
    return Transformer(TransformerConfig.read(official.small_config(layers=LAYERS)))


@pytest.fixture(scope="module")
def adapted(model):
    """Another audio side, as an adapter would make."""
    made = Transformer(model.config)
    made.update(model.parameters())
    for block in made.transformer_blocks:
        for attention in (block.audio_attn1, block.audio_attn2, block.video_to_audio_attn):
            attention.to_q.weight = attention.to_q.weight * 1.5
    return made


@pytest.fixture(params=[False, True], ids=["one level", "a level each token"])
def modalities(model, request):
    return both(model, *streams(model.config, per_token=request.param))


def other_text(modality):
    return modality._replace(context=mx.random.normal(modality.context.shape, key=mx.random.key(9)))


def takes(audio):
    """Three rows with two texts of their own."""
    repeated = mx.random.normal((3, *audio.latent.shape[1:]), key=mx.random.key(3))
    texts = mx.random.normal((2, *audio.context.shape[1:]), key=mx.random.key(4))
    return audio._replace(latent=repeated, context=texts, sharing=Sharing(text=(1, 2), video=(3,)))


def runs_of(kind, model, adapted, video, audio, walk):
    """Of each pass: its forward with what it leaves out, and the same by a walk of its own."""
    negative = other_text(video), other_text(audio)
    if kind == "audio alone":
        first = audio_forward(model, audio)
        second = audio_forward(model, negative[1], first)
        passes = [(first, NO_SKIPS, audio), (second, NO_SKIPS, negative[1]), (first, PERTURBED, audio)]
        return [(forward, skips, model.audio_alone(one, skips, walk)) for forward, skips, one in passes]
    others = {"joint": None, "locked": [audio, negative[1]], "takes": [takes(audio), takes(negative[1])]}[kind]
    if others is None:
        first = joint_forward(model, video, audio)
        second = joint_forward(model, *negative, first)
        calls = [lambda skips: model(video, audio, skips, walk), lambda skips: model(*negative, skips, walk)]
    else:
        beside = [[Accompaniment(adapted, one)] for one in others]
        first = accompanied_forward(model, beside[0], video, audio)
        second = accompanied_forward(model, beside[1], *negative, first)
        calls = [
            lambda skips: model.accompanied(beside[0], video, audio, skips, walk),
            lambda skips: model.accompanied(beside[1], *negative, skips, walk),
        ]
    passes = [(first, NO_SKIPS, 0), (second, NO_SKIPS, 1), (first, PERTURBED, 0), (first, Skips(cross=True), 0)]
    return [(forward, skips, calls[text](skips)) for forward, skips, text in passes]


def flat(tree):
    return [tree] if isinstance(tree, mx.array) else [leaf for part in tree for leaf in flat(part)]


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
@pytest.mark.parametrize("kind", ["joint", "audio alone", "locked", "takes"])
def test_each_pass_is_as_by_itself(model, adapted, modalities, kind, walk):
    runs = runs_of(kind, model, adapted, *modalities, walk)
    together = walk.together([(forward, skips) for forward, skips, _ in runs])
    for got, (_, _, want) in zip(together, runs, strict=True):
        assert all(mx.array_equal(g, w) for g, w in zip(flat(got), flat(want), strict=True))
    assert not mx.array_equal(flat(together[0])[-1], flat(together[2])[-1])  # the perturbation is one


@pytest.fixture
def counted(monkeypatch):
    """Calls of a block, and readings of a context, by the attention's name."""
    counts = {"block": 0, "text": 0}
    block, read = Block.__call__, Attention.read

    def counting_block(self, **given):
        counts["block"] += 1
        return block(self, **given)

    def counting_read(self, context, *more):
        counts["text"] += context.shape[1] == 6  # the tokens of these texts, and of nothing else
        return read(self, context, *more)

    monkeypatch.setattr(Block, "__call__", counting_block)
    monkeypatch.setattr(Attention, "read", counting_read)
    return counts


def test_what_passes_have_in_common_is_made_once(model, modalities, counted):
    video, audio = modalities
    first = joint_forward(model, video, audio)
    second = joint_forward(model, other_text(video), other_text(audio), first)
    Walk().together([(first, NO_SKIPS), (second, NO_SKIPS), (first, PERTURBED), (first, Skips(cross=True))])
    shared = 2  # the perturbed pass is the plain one before its first block that leaves something out
    assert counted == {"block": 4 * LAYERS - shared, "text": 2 * 2 * LAYERS}


class Fetched:
    """Blocks that exist when they are asked for, as if they were read from disk."""

    def __init__(self, blocks):
        self.blocks, self.indices, self.latest, self.alive_at_once = blocks, [], lambda: None, 0

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, index):
        self.indices.append(index)
        self.alive_at_once = max(self.alive_at_once, 1 + (self.latest() is not None))
        made = share(self.blocks[index])
        self.latest = weakref.ref(made)
        return made


@pytest.mark.parametrize("kind", ["joint", "audio alone", "locked"])
def test_each_block_is_fetched_once(model, adapted, kind):
    """And is gone before the next one is fetched."""
    modalities = both(model, *streams(model.config))
    runs = runs_of(kind, model, adapted, *modalities, WALKS["blocks"])
    want = [each for _, _, each in runs]
    fetched = [Fetched(one.transformer_blocks) for one in ([model, adapted] if kind == "locked" else [model])]
    blocks = Abreast(*fetched) if kind == "locked" else fetched[0]
    passes = {id(forward): forward._replace(blocks=blocks) for forward, _, _ in runs}
    got = WALKS["blocks"].together([(passes[id(forward)], skips) for forward, skips, _ in runs])
    assert all(mx.array_equal(g, w) for g, w in zip(flat(got), flat(want), strict=True))
    for one in fetched:
        assert one.indices == [*range(LAYERS)]
        assert one.alive_at_once == 1
