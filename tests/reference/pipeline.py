"""The official one-stage run from prompt to picture and sound, fp32, with the starting noise given.

It is put together from the components of ltx_core 1.0.0 in the order of the newest release's
`ti2vid_one_stage.py`, `t2a_one_stage.py` and `denoisers.py`. All guidance passes go through the transformer as one
batch, as there. In fp32 the two releases differ in one place alone on this way, the audio-video timesteps, which
`Official.transformer` takes from the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

import tests.reference  # noqa: F401
from tests.reference.official import Official

from ltx_core.components.diffusion_steps import EulerDiffusionStep
from ltx_core.components.guiders import MultiModalGuider, MultiModalGuiderParams
from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
from ltx_core.components.schedulers import LTX2Scheduler
from ltx_core.guidance.perturbations import (
    BatchedPerturbationConfig,
    Perturbation,
    PerturbationConfig,
    PerturbationType,
)
from ltx_core.model.transformer.modality import Modality
from ltx_core.model.transformer.model import X0Model
from ltx_core.text_encoders.gemma.encoders.base_encoder import GemmaTextEncoder
from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer
from ltx_core.tools import AudioLatentTools, LatentTools, VideoLatentTools
from ltx_core.types import AudioLatentShape, LatentState, VideoLatentShape, VideoPixelShape

PROMPT_TOKENS = 1024
DISTILLED = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]
PLAIN = MultiModalGuiderParams()
# LTX-2.3's guidance; of its blocks (28 of 48) the last of the two a tiny model has.
DEV_VIDEO = MultiModalGuiderParams(cfg_scale=3.0, stg_scale=1.0, stg_blocks=[1], rescale_scale=0.7, modality_scale=3.0)
DEV_AUDIO = replace(DEV_VIDEO, cfg_scale=7.0)
CROSS_OFF = [
    Perturbation(type=PerturbationType.SKIP_A2V_CROSS_ATTN, blocks=None),
    Perturbation(type=PerturbationType.SKIP_V2A_CROSS_ATTN, blocks=None),
]

Pair = tuple[torch.Tensor | None, torch.Tensor | None]
Tokens = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Job:
    """What to make.

    Attributes:
        steps: None for the distilled sigmas.
        video, audio: Guidance; None for the video makes audio alone.
        picture: (F, H, W, 3) uint8 frames to keep and to give a voice; they are never steered.
    """

    prompt: str
    negative_prompt: str = ""
    width: int = 64
    height: int = 64
    frames: int = 9
    frame_rate: float = 24.0
    steps: int | None = None
    video: MultiModalGuiderParams | None = field(default_factory=lambda: PLAIN)
    audio: MultiModalGuiderParams = field(default_factory=lambda: PLAIN)
    picture: np.ndarray | None = None

    def sigmas(self) -> torch.Tensor:
        """The official schedule; the one-stage pipelines give it no latent."""
        return torch.tensor(DISTILLED) if self.steps is None else LTX2Scheduler().execute(steps=self.steps)


@dataclass(frozen=True)
class Result:
    """What was made, as NumPy in the project's layouts.

    Attributes:
        latents: After each step: video tokens (1, T, C) or None, audio tokens (1, T, C).
        picture: (F, H, W, 3) in about [-1, 1]; None for audio alone.
        mel: (1, T, 64, 2).
        waveform: (N, 2). Picture, mel and waveform are None where nothing was decoded.
    """

    latents: list[tuple[np.ndarray | None, np.ndarray]]
    picture: np.ndarray | None = None
    mel: np.ndarray | None = None
    waveform: np.ndarray | None = None


def latent_tools(official: Official, job: Job) -> tuple[VideoLatentTools, AudioLatentTools]:
    """The official latent shapes and positions of a clip."""
    pixels = VideoPixelShape(1, job.frames, job.height, job.width, job.frame_rate)
    audio = official.config["audio_vae"]["model"]["params"]["ddconfig"]
    return (
        VideoLatentTools(
            VideoLatentPatchifier(patch_size=1),
            VideoLatentShape.from_pixel_shape(pixels, official.config["vae"]["latent_channels"]),
            job.frame_rate,
        ),
        AudioLatentTools(
            AudioPatchifier(patch_size=1),
            AudioLatentShape.from_video_pixel_shape(pixels, audio["z_channels"], audio["mel_bins"] // 4),
        ),
    )


def noise(official: Official, job: Job, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Starting noise for both modalities as tokens (1, T, C)."""
    random = np.random.default_rng(seed)
    shapes = [tools.create_initial_state("cpu", torch.float32).latent.shape for tools in latent_tools(official, job)]
    return tuple(random.standard_normal(shape).astype(np.float32) for shape in shapes)


def load_text_encoder(gemma: Path) -> GemmaTextEncoder:
    """Gemma-3 through `transformers`, fp32, with the official tokenizer wrapper."""
    from transformers import Gemma3ForConditionalGeneration

    model = Gemma3ForConditionalGeneration.from_pretrained(gemma, dtype=torch.float32).eval()
    return GemmaTextEncoder(model, LTXVGemmaTokenizer(str(gemma), PROMPT_TOKENS), dtype=torch.float32)


@torch.no_grad()
def encode(official: Official, gemma: GemmaTextEncoder, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Video context (1, 1024, Dv) and audio context (1, 1024, Da) of one prompt, kept for the next call."""
    if prompt not in official.contexts:
        output = official.embeddings.process_hidden_states(*gemma.encode(prompt))
        assert output.attention_mask.all()
        official.contexts[prompt] = output.video_encoding, output.audio_encoding
    return official.contexts[prompt]


@torch.no_grad()
def run(
    official: Official, gemma: GemmaTextEncoder, job: Job, start: tuple[np.ndarray, np.ndarray], decode: bool = True,
    given: tuple[Tokens, Tokens] | None = None, change: Callable[[list[LatentState | None]], None] | None = None,
) -> Result:  # fmt: skip
    """Makes one clip from the given noise (video tokens, audio tokens).

    Args:
        given: For video and audio, clean tokens (1, T, C) and the denoising mask (1, T).
        change: Changes the starting states in place of `given`; tokens it appends are dropped from the result.
    """
    contexts = [encode(official, gemma, prompt) for prompt in (job.prompt, job.negative_prompt)]
    with_video = job.video is not None
    tools = latent_tools(official, job)
    states: list[LatentState | None] = [
        replace(tool.create_initial_state("cpu", torch.float32), latent=torch.from_numpy(noise))
        for tool, noise in zip(tools, start, strict=True)
    ]
    if not with_video:
        states[0] = None
    elif job.picture is not None:
        states[0] = frozen(official, tools[0], states[0], job.picture)
    if given is not None:
        states = [conditioned(state, *tokens) for state, tokens in zip(states, given, strict=True)]
    if change is not None:
        change(states)
    model = X0Model(official.transformer if with_video else official.audio_transformer)
    sigmas, latents = job.sigmas(), []
    for index in range(len(sigmas) - 1):
        clean = denoise(model, states, sigmas[index], contexts, job)
        states = [
            state if state is None else advance(state, prediction, sigmas, index)
            for state, prediction in zip(states, clean, strict=True)
        ]
        latents.append(
            tuple(None if state is None else _own(tool, state) for tool, state in zip(tools, states, strict=True))
        )
    if not decode:
        return Result(latents)
    mel = official.audio_decoder(_grid(tools[1], states[1]))
    waveform = official.vocoder(mel)[0]
    picture = official.video_decoder(_grid(tools[0], states[0]))[0] if with_video else None
    return Result(
        latents=latents,
        picture=None if picture is None else picture.permute(1, 2, 3, 0).numpy(),
        mel=mel.permute(0, 2, 3, 1).numpy(),
        waveform=waveform.T.numpy(),
    )


def frozen(official: Official, tools: VideoLatentTools, state: LatentState, picture: np.ndarray) -> LatentState:
    """A state that holds the encoded picture fast: mask and noise level 0."""
    pixels = torch.from_numpy(picture).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    clean = tools.patchifier.patchify(official.video_encoder(pixels))
    return replace(state, latent=clean, clean_latent=clean, denoise_mask=torch.zeros_like(state.denoise_mask))


def conditioned(state: LatentState, clean: np.ndarray, mask: np.ndarray) -> LatentState:
    """A noisy state with clean tokens as far as the mask keeps them (`GaussianNoiser`: `lerp(clean, x, mask)`)."""
    tokens, share = torch.from_numpy(clean), torch.from_numpy(mask)[..., None]
    return replace(state, latent=torch.lerp(tokens, state.latent, share), clean_latent=tokens, denoise_mask=share)


def denoise(
    model: X0Model, states: list[LatentState | None], sigma: torch.Tensor, contexts: list[tuple], job: Job
) -> list[torch.Tensor | None]:
    """The guided clean latents of both modalities, all passes in one batch."""
    guiders = [MultiModalGuider(job.video or PLAIN), MultiModalGuider(job.audio)]
    passes: dict[str, tuple[int, list[Perturbation]]] = {"cond": (0, [])}  # name -> prompt, what is left out
    if any(guider.do_unconditional_generation() for guider in guiders):
        passes["uncond"] = (1, [])
    kinds = (PerturbationType.SKIP_VIDEO_SELF_ATTN, PerturbationType.SKIP_AUDIO_SELF_ATTN)
    stg = [
        Perturbation(type=kind, blocks=guider.params.stg_blocks)
        for kind, guider in zip(kinds, guiders, strict=True)
        if guider.do_perturbed_generation()
    ]
    if stg:
        passes["ptb"] = (0, stg)
    if any(guider.do_isolated_modality_generation() for guider in guiders):
        passes["mod"] = (0, CROSS_OFF)
    count = len(passes)
    inputs = [
        None
        if state is None
        else modality(state, sigma, torch.cat([contexts[prompt][side] for prompt, _ in passes.values()]), count)
        for side, state in enumerate(states)
    ]
    perturbations = BatchedPerturbationConfig([PerturbationConfig(left_out) for _, left_out in passes.values()])
    outputs = model(inputs[0], inputs[1], perturbations)
    guided: list[torch.Tensor | None] = []
    for guider, output in zip(guiders, outputs, strict=True):
        if output is None:
            guided.append(None)
            continue
        by_name = dict(zip(passes, output.chunk(count), strict=True))
        guided.append(guider.calculate(by_name["cond"], *(by_name.get(name, 0.0) for name in ("uncond", "ptb", "mod"))))
    return guided


def modality(state: LatentState, sigma: torch.Tensor, context: torch.Tensor, count: int) -> Modality:
    """One state as the transformer reads it, `count` times over; a frozen one is at noise level 0."""
    return Modality(
        latent=state.latent.repeat(count, 1, 1),
        sigma=(sigma * state.denoise_mask.max()).expand(count),
        timesteps=(state.denoise_mask * sigma).repeat(count, 1, 1),
        positions=state.positions.repeat(count, 1, 1, 1),
        context=context,
    )


def advance(state: LatentState, clean: torch.Tensor, sigmas: torch.Tensor, index: int) -> LatentState:
    """Blends in what the mask holds fixed, then one Euler step."""
    clean = clean * state.denoise_mask + state.clean_latent * (1 - state.denoise_mask)
    return replace(state, latent=EulerDiffusionStep().step(state.latent, clean, sigmas, index))


def _own(tools: LatentTools, state: LatentState) -> np.ndarray:
    """The clip's own tokens (1, T, C)."""
    return tools.clear_conditioning(state).latent.numpy()


def _grid(tools: LatentTools, state: LatentState) -> torch.Tensor:
    return tools.unpatchify(tools.clear_conditioning(state)).latent
