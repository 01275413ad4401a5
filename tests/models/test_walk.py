"""The walk over the blocks: what is submitted when, what is waited for, and how long a block is held."""

import gc
import weakref

import mlx.core as mx
import numpy as np
import pytest

import tests.reference.transformer as official
from mlx_ltxw.models.transformer import Skips, Transformer, TransformerConfig, Walk, feed_forward
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.inputs import BlockSkips
from mlx_ltxw.models.transformer.walk import Abreast
from tests.models.test_transformer import both, streams
from tests.numbers import relative_error

LAYERS = 5


@pytest.fixture(scope="module")
def model():
    return Transformer(TransformerConfig.read(official.small_config(layers=LAYERS)))


@pytest.fixture(scope="module")
def inputs(model):
    return both(model, *streams(model.config))


@pytest.fixture
def device(monkeypatch):
    """What is handed over and what is waited for, in order: ("submit" or "wait", number of the submission)."""
    log, submitted = [], []
    submit, wait = mx.async_eval, mx.eval

    def number(arrays):
        return next(i for i, known in enumerate(submitted) if known is arrays)

    monkeypatch.setattr(mx, "async_eval", lambda x: (submitted.append(x), log.append(("submit", number(x))), submit(x)))
    monkeypatch.setattr(mx, "eval", lambda x: (log.append(("wait", number(x))), wait(x)))
    return log


def forwards(model, video, audio, walk):
    return {
        "joint": lambda: model(video, audio, walk=walk),
        "audio alone": lambda: [model.audio_alone(audio, walk=walk)],
        "locked": lambda: model.locked(model, video, audio, audio, walk=walk),
        "watched": lambda: [shared.video for shared in model.watch(video, audio, walk)],
    }


@pytest.mark.parametrize("name", ["joint", "audio alone", "locked", "watched"])
@pytest.mark.parametrize(
    ("walk", "expected"),
    [
        (Walk(), []),
        (Walk(submit_every=1), [("submit", i) for i in range(LAYERS)]),
        (Walk(submit_every=2), [("submit", 0), ("submit", 1)]),
        (Walk(submit_every=1, window=0), [(what, i) for i in range(LAYERS) for what in ("submit", "wait")]),
        (
            Walk(submit_every=1, window=2),
            [("submit", 0), ("submit", 1), ("submit", 2), ("wait", 0), ("submit", 3), ("wait", 1), ("submit", 4),
             ("wait", 2)],
        ),
    ],
    ids=["whole", "each", "every second", "waited for", "a window of two"],
)  # fmt: skip
def test_work_is_submitted_as_the_walk_says_and_changes_nothing(model, inputs, device, name, walk, expected):
    want = forwards(model, *inputs, Walk())[name]()
    assert device == []
    got = forwards(model, *inputs, walk)[name]()
    assert device == expected
    assert all(mx.array_equal(g, w) for g, w in zip(got, want, strict=True))


class Lazy:
    """Blocks that exist when they are asked for, as if they were read from disk."""

    def __init__(self, model):
        self.made, self.alive_at_once, self.model = [], 0, model

    def __len__(self):
        return LAYERS

    def __iter__(self):
        return (self[i] for i in range(LAYERS))

    def __getitem__(self, index):
        gc.collect()
        alive = sum(reference() is not None for _, reference in self.made)
        self.alive_at_once = max(self.alive_at_once, alive + 1)
        block = Transformer(self.model.config).transformer_blocks[index]
        block.update(self.model.transformer_blocks[index].parameters())
        self.made.append((index, weakref.ref(block)))
        return block


@pytest.mark.parametrize("name", ["joint", "audio alone", "locked", "watched"])
def test_a_block_is_made_when_its_turn_comes_and_goes_after_it(model, inputs, name):
    want = forwards(model, *inputs, Walk())[name]()
    streamed = Transformer(model.config)
    streamed.update(model.parameters())
    streamed.transformer_blocks = lazy = Lazy(model)
    got = forwards(streamed, *inputs, Walk(submit_every=1, window=1))[name]()
    assert all(mx.array_equal(g, w) for g, w in zip(got, want, strict=True))
    times = 2 if name == "locked" else 1  # for both models
    assert [index for index, _ in lazy.made] == [i for i in range(LAYERS) for _ in range(times)]
    assert lazy.alive_at_once == times


def test_each_block_is_told_what_it_leaves_out():
    told = []
    skips = Skips(video_self=frozenset({1}), audio_self=frozenset({0, 2}), cross=True)
    x = mx.zeros(1)
    Walk().through("abc", lambda block, streams, skips, done: (told.append((block, skips)), streams)[1], (x,), skips)
    assert told == [
        ("a", BlockSkips(False, True, True)),
        ("b", BlockSkips(True, False, True)),
        ("c", BlockSkips(False, True, True)),
    ]


def test_a_walk_can_be_left_between_two_blocks():
    seen = []
    walking = Walk().over("abcd", lambda block, streams, _, done: (seen.append(block), streams)[1], (mx.zeros(1),))
    next(walking), next(walking)
    walking.close()
    assert seen == ["a", "b"]


def test_models_of_two_lengths_are_no_pair():
    with pytest.raises(ValueError, match="2 and 3 blocks"):
        Abreast("ab", "abc")


@pytest.fixture
def network():
    made = FeedForward(256, 1024)
    mx.eval(made.parameters())
    return made


def test_a_large_feed_forward_takes_its_tokens_in_parts(network, monkeypatch):
    """Which changes rounding at most, and needs a fraction of the memory: each part is made before the next, as a walk
    asks for it, so that the peak does not hang on when the CPU's own thread gets to free what it has used."""
    x = mx.random.normal((1, 8000, 256), key=mx.random.key(0))
    mx.eval(x)

    def measured(tokens):
        monkeypatch.setattr(feed_forward, "TOKENS", tokens)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        y = network(x, mx.eval)
        mx.eval(y)
        return mx.get_peak_memory() - before, np.asarray(y)

    whole, want = measured(8000)
    parts, got = measured(1000)
    assert relative_error(got, want) < 1e-6
    hidden = 4 * 8000 * 1024
    assert whole > 2 * hidden
    assert parts < 0.3 * whole


@pytest.mark.parametrize("tokens", [1, 10, 11, 25])
def test_parts_are_all_of_the_tokens(network, monkeypatch, tokens):
    x = mx.random.normal((2, tokens, 256), key=mx.random.key(1))
    want = np.asarray(network(x))
    sizes, whole = [], FeedForward._whole
    monkeypatch.setattr(feed_forward, "TOKENS", 10)
    monkeypatch.setattr(FeedForward, "_whole", lambda self, x: sizes.append(x.shape[1]) or whole(self, x))
    assert relative_error(np.asarray(network(x)), want) < 1e-6
    assert sizes == {1: [1], 10: [10], 11: [6, 5], 25: [9, 9, 7]}[tokens]
