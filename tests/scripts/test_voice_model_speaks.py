"""The evaluation's short form: what the shipped model and its adapters are for, on lines no adapter has heard."""

import shutil

import pytest

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.media.measure import measure
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.voice_model import true_clips
from scripts.voice_model.corpus import WHISPERED_SENTENCES
from scripts.voice_model.evaluate_clips import BASE, Condition, Prompt, Setup, figures_of

WOMAN, MAN = Prompt(0, voice=1, sentence=7), Prompt(1, voice=5, sentence=7)
PROMPTS = (WOMAN, pytest.param(MAN, marks=pytest.mark.slow))  # the same code again
STEPS = 6
"""A third of the model's own: registers are as clear, only the words are less so."""
TOLD_APART = range(12)
"""Sentences that the one said is told from; the evaluation itself takes all."""

pytestmark = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(ModelDir.open(BUILTIN_MODEL), tmp_path_factory.mktemp("evaluation"), seed=7, sizes={"steps": STEPS})


def heard(setup, prompt, said, adapter=None):
    """Figures of one clip; the base's clip of the same caption is made first, and so are the true clips."""
    base, adapted = Condition(BASE, said), Condition(adapter, said, BUILTIN_ADAPTERS.get(adapter))
    for compared in {base.compared, adapted.compared} if adapter else {base.compared}:
        true_clips.speak_missing(setup.folder / "true", [(prompt.voice, compared)], TOLD_APART, workers=1)
    figures = figures_of(setup, base, prompt)
    return figures_of(setup, adapted, prompt) if adapter else figures


@pytest.mark.parametrize("prompt", PROMPTS, ids=["woman", "man"])
def test_the_base_speaks_and_the_adapter_whispers(setup, prompt):
    assert prompt.sentence not in WHISPERED_SENTENCES
    spoken, whispered = heard(setup, prompt, "whisper"), heard(setup, prompt, "whisper", "whisper")
    assert spoken.voiced >= 0.8  # it cannot whisper
    assert spoken.mouth >= 0.7
    assert whispered.voiced <= 0.25
    assert spoken.sentence == whispered.sentence == prompt.sentence
    assert whispered.change == 0  # the picture is the base's, to the last bit


@pytest.mark.slow  # other captions and adapters through the code of the test above
@pytest.mark.parametrize("prompt", [WOMAN, MAN], ids=["woman", "man"])
def test_each_adapter_does_what_its_caption_says(setup, prompt):
    plain, asked = heard(setup, prompt, "plain"), heard(setup, prompt, "whisper")
    assert plain.voiced >= 0.8
    assert plain.mouth >= 0.7
    assert asked.voiced == pytest.approx(plain.voiced, abs=0.1)
    assert asked.lufs == pytest.approx(plain.lufs, abs=1.5)
    soft = heard(setup, prompt, "soft", "whisper")
    assert soft.lufs <= plain.lufs - 8
    assert soft.voiced >= 0.8
    left_alone = heard(setup, prompt, "plain", "whisper-mixed")
    assert left_alone.voiced == pytest.approx(plain.voiced, abs=0.15)
    assert left_alone.lufs == pytest.approx(plain.lufs, abs=3)
    for clip in (plain, asked, soft, left_alone):
        assert clip.sentence == prompt.sentence
    assert soft.change == left_alone.change == 0


@pytest.mark.parametrize("prompt", PROMPTS, ids=["woman", "man"])
def test_the_register_changes_in_time(setup, prompt):
    """`--register-at`: whispered up to 1.4 s, in the base's voice from there on."""
    schedule = "0-1.4=whispering,1.4-4=normal"
    request = Request(prompt.text("whisper"), seeds=(7,), steps=STEPS, adapters=("whisper",), register_at=schedule)
    clip = next(event for event in run(plan(request, setup.model)) if isinstance(event, Decoded))
    before, after = clip.waveform[: int(1.2 * clip.rate)], clip.waveform[int(1.6 * clip.rate) :]
    assert measure(before, clip.rate).voiced <= 0.25
    assert measure(after, clip.rate).voiced >= 0.7  # half a line has its share of consonants
