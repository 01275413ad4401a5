"""A run that was cut goes on from any of its steps, and makes the same bits."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Resumed, Step
from mlx_ltxw.pipeline.given import Material
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.point import DoneBefore, ResumePoint
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from tests.pipeline.test_end_to_end import PROMPT, official  # noqa: F401
from tests.pipeline.test_lock import whisper  # noqa: F401
from tests.pipeline.test_two_stages import lora  # noqa: F401

SMALL = Request(PROMPT, width=64, height=32, frames=9, steps=3)
LARGE = dataclasses.replace(SMALL, width=128, height=64)


def variant(which, dev, two_dev, two_distilled, lora, whisper):  # noqa: F811
    """A model, what is asked of it, and how many steps that takes."""
    voice, distilled = (str(whisper[0]),), str(lora.path)
    takes = ("soft", "seed=+1", f"adapter={voice[0]}:0.4 seed=9")
    return {
        "euler": (dev, SMALL, 3),
        "sound alone": (dev, dataclasses.replace(SMALL, audio_only=True), 3),
        "takes": (dev, dataclasses.replace(SMALL, adapters=voice, takes=takes), 3),
        "keyframes": (dev, dataclasses.replace(SMALL, images=("a.png", "b.png@last:0.7")), 3),
        "distilled": (two_distilled, dataclasses.replace(LARGE, steps=None, images=("a.png@last",)), 11),
        "two-stage": (
            two_dev,
            dataclasses.replace(LARGE, steps=2, pipeline="two-stage", distilled_lora=distilled, adapters=voice),
            5,
        ),
        "hq": (
            two_dev,
            dataclasses.replace(
                LARGE, steps=2, pipeline="hq", distilled_lora=distilled, adapters=voice, takes=takes,
                images=("a.png@last:0.7",),
            ),
            5,
        ),
    }[which]  # fmt: skip


def picture(seed):
    pixels = np.random.default_rng(seed).uniform(0, 255, (64, 128, 3)).astype(np.float32)
    return lambda width, height: pixels[:height, :width]


def made(model, request, progress=None):
    """All events of a run; its clips with their frames."""
    material = Material(images=[picture(number) for number in range(len(request.images))])
    options = {} if progress is None else {"progress": progress}
    events = []
    for event in run(plan(request, model), material=material, **options):
        whole = isinstance(event, Decoded) and event.video is not None
        events.append(dataclasses.replace(event, video=np.concatenate(list(event.video))) if whole else event)
    return events


def stored(point, folder):
    """A point through a file of another library, as another process has it."""
    arrays = [*point.latents, *(point.sounds or (None, None, None))]
    save_file({str(n): np.array(x) for n, x in enumerate(arrays) if x is not None}, folder / "point")
    read = load_file(folder / "point")
    latents = [mx.array(read[str(n)]) if str(n) in read else None for n in range(6)]
    sounds = None if point.sounds is None else Latents(*latents[3:])
    return ResumePoint(point.index, Latents(*latents[:3]), sounds)


def same(ours, theirs):
    return all(
        (a is None and b is None) or np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("which", ["euler", "sound alone", "takes", "keyframes", "distilled", "two-stage", "hq"])
def test_the_same_bits_from_every_step(dev, two_dev, two_distilled, lora, whisper, tmp_path, which):  # noqa: F811
    model, request, total = variant(which, dev, two_dev, two_distilled, lora, whisper)
    whole = made(model, request)
    steps = [event for event in whole if isinstance(event, Step)]
    clips = [event for event in whole if isinstance(event, Decoded)]
    assert [step.index for step in steps] == list(range(1, total + 1))
    for cut in steps[:-1] if total < 8 else (steps[3], steps[7], steps[9]):
        point = stored(cut.point, tmp_path)
        again = made(model, request, DoneBefore({10: point}))
        resumed, *_ = (event for event in again if isinstance(event, Resumed))
        assert (resumed.seed, resumed.index, resumed.total) == (10, cut.index, total)
        left = [event for event in again if isinstance(event, Step)]
        assert [step.index for step in left] == list(range(cut.index + 1, total + 1))
        for step, first in zip(left, steps[cut.index :], strict=True):
            assert step.sigma == first.sigma
            assert same(step.latents, first.latents), (cut.index, step.index)
            assert same(step.clean, first.clean), (cut.index, step.index)
        decoded = [event for event in again if isinstance(event, Decoded)]
        for clip, first in zip(decoded, clips, strict=True):
            assert same((clip.video, clip.waveform), (first.video, first.waveform))


def test_only_decoding_is_done_again(dev, tmp_path):
    """No text encoder, no transformer: the latents are there."""
    whole = made(dev, SMALL)
    last = [event for event in whole if isinstance(event, Step)][-1]
    again = made(dev, SMALL, DoneBefore({10: stored(last.point, tmp_path)}))
    assert [type(event) for event in again] == [Resumed, Decoded]
    assert same((again[-1].video, again[-1].waveform), (whole[-1].video, whole[-1].waveform))


def test_several_seeds(dev, whisper, tmp_path):  # noqa: F811
    """What is done is left out, one goes on, the next begins; notes of the adapters come once."""
    request = dataclasses.replace(SMALL, seeds=(3, 4, 5), adapters=(str(whisper[0]),))
    whole = made(dev, request)
    (cut,) = (event for event in whole if isinstance(event, Step) and (event.seed, event.index) == (4, 2))
    again = made(dev, request, DoneBefore({4: stored(cut.point, tmp_path)}, frozenset({3})))
    kinds = [type(event) for event in again]
    assert kinds == [Conditioned, Resumed, Adapted, Step, Decoded, Step, Step, Step, Decoded]
    clips = {event.seed: event for event in whole if isinstance(event, Decoded)}
    for event in again:
        if isinstance(event, Decoded):
            first = clips[event.seed]
            assert same((event.video, event.waveform), (first.video, first.waveform))
