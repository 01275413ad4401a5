"""What a run reads of the model and how often, and what it evaluates in a step: counted, not timed."""

import dataclasses
import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw import machine
from mlx_ltxw.models.transformer.walk import WINDOW
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.events import Decoded, Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED

STEPS = 3
REQUEST = Request("a woman whispers", width=64, height=64, frames=9, steps=STEPS, seeds=(3,))
LAZY = ("text_projection", "connectors", "audio_vae", "vocoder", "video_vae")
"""Networks that `mx.load` reads, each array when it is first used, and never again."""
IO = Path("/proc/self/io")


class Reads:
    """Attributes:
    filled: How often each tensor was read by a reader of ours: name -> times.
    rows: The tensors of which some rows were read.
    loaded: How often each file was given to `mx.load`.
    bytes: That the system read for this process, by the network that was at work.
    """

    def __init__(self):
        self.filled, self.rows, self.loaded, self.bytes = Counter(), Counter(), Counter(), Counter()
        self._begun = None

    def begin(self, name):
        now = read_so_far()
        if self._begun:
            self.bytes[self._begun[0]] += now - self._begun[1]
        self._begun = name, now


def read_so_far():
    """Bytes, from disk or the system's cache, by whatever in this process; 0 where the system does not say."""
    return int(IO.read_text().split()[1]) if IO.exists() else 0


@pytest.fixture
def reads(monkeypatch):
    found = Reads()
    fill, rows, load, announcing = TensorReader.fill, TensorReader.rows, mx.load, Networks.announcing

    def filling(self, places):
        found.filled.update(tensor.name for tensor, _ in places)
        fill(self, places)

    def taking(self, tensor, indices):
        found.rows[tensor.name] += 1
        return rows(self, tensor, indices)

    def loading(file, **options):
        found.loaded[Path(file).name] += 1
        return load(file, **options)

    @contextmanager
    def telling(self, begins):
        with announcing(self, lambda name: (found.begin(name), begins(name))):
            yield

    monkeypatch.setattr(TensorReader, "fill", filling)
    monkeypatch.setattr(TensorReader, "rows", taking)
    monkeypatch.setattr(mx, "load", loading)
    monkeypatch.setattr(Networks, "announcing", telling)
    return found


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Networks are loaded as there."""
    load = ModelDir.load

    def loading(self, *given, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "on_cpu", lambda: False)
            return load(self, *given, **options)

    monkeypatch.setattr(ModelDir, "load", loading)


def whole_run(model):
    job = plan(REQUEST, model)
    for event in run(job, Networks(model, job.dtype, residency=RESIDENT)):
        if isinstance(event, Decoded):
            for _ in event.video:
                pass


def names(model, component):
    return {tensor.name for tensor in model.tensors(component)}


UNUSED = re.compile(r"encoder\..*|mel_stft\.stft_fn\.inverse_basis")
"""Tensors that a run without anything given never needs."""


def size(model, component):
    """Bytes of what a run without anything given needs."""
    return sum(tensor.nbytes for tensor in model.tensors(component) if not UNUSED.fullmatch(tensor.name))


def overhead(model, component):
    """Bytes at most of what else lies in its files: headers and index twice, by us and by MLX, and the config."""
    headers = sum(file.stat().st_size for file in model.shards(component)) - sum(
        tensor.nbytes for tensor in model.tensors(component)
    )
    index = model.path / f"{component}.safetensors.index.json"
    others = model.path / "config.json", model.path / "manifest.json"
    return 2 * (headers + index.stat().st_size) + sum(file.stat().st_size for file in others) + 4096


def test_a_run_reads_each_part_once(dev, reads, as_on_a_gpu, monkeypatch):
    """Of the text encoder every layer as its turn comes, and the prompts' rows of the embedding; of the transformer
    all at once, before the first step; of the others each file once, without the autoencoders' encoders. The system
    has read no more than that."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")  # so that it encodes its prompts
    whole_run(dev)
    reads.begin("the end")
    layered = {name for name in names(dev, "text_encoder") if ".layers." in name}
    assert reads.filled == Counter(layered) + Counter(names(dev, "transformer"))
    assert reads.rows == {"model.embed_tokens.weight": len(plan(REQUEST, dev).prompts)}
    files = {part: {file.name for file in dev.shards(part)} for part in ("text_encoder", "transformer", *LAZY)}
    assert reads.loaded == Counter(name for several in files.values() for name in several)
    if IO.exists():
        for part in ("transformer", *LAZY):
            assert size(dev, part) * 0.99 <= reads.bytes[part] < size(dev, part) + overhead(dev, part), part


@pytest.fixture
def texts_known(monkeypatch):
    """Contexts need no text encoder; work is handed over as to a GPU."""

    def contexts(self, prompts, cache):
        config = self.model.network_config("transformer")
        widths = config.video.context_dim, config.audio.context_dim
        return Contexts(*(mx.zeros((len(prompts), 8, width)) for width in widths), tuple(prompts))

    monkeypatch.setattr(Networks, "contexts", contexts)
    monkeypatch.setattr(machine.Machine, "in_pieces", True)


def steps(model, residency, **changes):
    """The steps of a run, each when it is done."""
    job = plan(dataclasses.replace(REQUEST, **changes), model)
    events = run(job, Networks(model, job.dtype, residency=residency))
    for event in events:
        if isinstance(event, Step):
            yield event
            if event.index == STEPS:
                return


def test_a_streamed_run_reads_each_block_once_a_step(dev, reads, texts_known):
    """For all passes of it; and, ahead of a step that does not come, the first ones once more."""
    list(steps(dev, STREAMED))
    blocks = {name for name in names(dev, "transformer") if name.startswith("transformer_blocks.")}
    ahead = Counter(name for name in blocks if name.startswith("transformer_blocks.0."))
    want = Counter(dict.fromkeys(blocks, STEPS))
    assert reads.filled in (want, want + ahead)


@pytest.fixture
def evaluated(monkeypatch):
    """How many arrays were handed over, waited for and looked at."""
    found = Counter()

    def counting(name, function):
        def call(*trees):
            found[name] += 1
            found[f"arrays of {name}"] += sum(isinstance(leaf, mx.array) for _, leaf in tree_flatten(trees))
            return function(*trees)

        monkeypatch.setattr(mx, name, call)

    counting("eval", mx.eval)
    counting("async_eval", mx.async_eval)
    item = mx.array.item
    monkeypatch.setattr(mx.array, "item", lambda self: (found.update(["item"]), item(self))[1])
    return found


BLOCKS, PASSES = 2, 3
LATENTS = 2
"""Of video and audio."""
SUBMITTED = BLOCKS * (7 + 7 + 5)
"""Of a block: three attentions' queries, keys and values before they are mixed, both streams after each of three parts
and after the last. The pass without attention between the streams has one of each less."""
ARRAYS = BLOCKS * (17 + 17 + 12)
UNFINISHED, OF_UNFINISHED = WINDOW, 3 + 2 + 2


def test_what_a_step_evaluates(dev, evaluated, texts_known):
    """All that is submitted is waited for but the last, then what the passes predict and the step's latents; one number
    for each stream tells whether they are finite. Of a streamed block all arrays are copied at once."""
    waited = SUBMITTED - UNFINISHED + 1 + 1
    arrays = ARRAYS - OF_UNFINISHED + PASSES * LATENTS + LATENTS
    read = sum(name.startswith("transformer_blocks.") for name in names(dev, "transformer"))
    for residency, copies, copied in ((RESIDENT, 0, 0), (STREAMED, BLOCKS, read)):
        seen = []
        for _ in steps(dev, residency):
            seen.append(dict(evaluated))
            evaluated.clear()
        want = {
            "async_eval": SUBMITTED, "arrays of async_eval": ARRAYS, "eval": waited + copies,
            "arrays of eval": arrays + copied, "item": LATENTS,
        }  # fmt: skip
        assert seen[1:] == [want] * (STEPS - 1)
