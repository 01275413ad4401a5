"""Latents and text contexts of every clip, made once and kept as one safetensors file each.

The order of the work: both VAEs over all clips, then Gemma and the projection over all captions, then the connectors,
and each is gone from memory before the next is loaded. Latents are kept on their own as well (in `latents/`; small
beside the contexts), so that a mended caption costs only its text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_free, locked_folder, write_errors
from mlx_ltxw.heap import give_back_freed_memory
from mlx_ltxw.models import ops
from mlx_ltxw.models.text.tokenizer import PROMPT_TOKENS
from mlx_ltxw.pipeline.contexts import project
from mlx_ltxw.pipeline.encode import encode_frames, encode_sound
from mlx_ltxw.train.data.clip import TrainingClip, read_picture, read_sound
from mlx_ltxw.train.data.findings import OnProgress
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.manifest import sha256
from mlx_ltxw.weights.saving import save_arrays
from mlx_ltxw.weights.streaming import STREAMED_ONCE

if TYPE_CHECKING:
    from mlx_ltxw.models.audio_vae import AudioVAE
    from mlx_ltxw.models.video_vae import VideoVAE
    from mlx_ltxw.weights.model_dir import ModelDir

FORMAT = "2"
"""Raised when the same clip and model would give other arrays than before."""

SOUNDS, PICTURES, CAPTIONS = "sounds' encoding", "pictures' encoding", "captions' encoding"
"""Parts of the plan."""
Begins = Callable[[str], None]
_LATENTS = "latents"
_VAES = ("video_vae", "audio_vae")
_TEXT = ("text_encoder", "text_projection", "connectors")


@dataclass(frozen=True)
class CachedClip:
    """One training example; its arrays are read from the file when they are first used.

    Attributes:
        key: Hash of the clip's content, its geometry, its caption and the model.
        name: The file it came from, for messages.
        caption: The very text that was encoded.
        width, height, frames, frame_rate: Geometry of the clip.
        video: (Tv, C) fp32 normalised clean video tokens; None for sound alone.
        audio: (Ta, C) fp32 normalised clean audio tokens.
        video_context: (S, Dv) after the connectors.
        audio_context: (S, Da) after the connectors.
    """

    key: str
    name: str
    caption: str
    width: int
    height: int
    frames: int
    frame_rate: float
    video: mx.array | None
    audio: mx.array
    video_context: mx.array
    audio_context: mx.array


def build_cache(
    clips: Sequence[TrainingClip], model: ModelDir, folder: Path, progress: OnProgress = lambda *_: None,
    begins: Begins = lambda _: None,
) -> list[Path]:  # fmt: skip
    """Makes what is missing of the cache; what is there already, of this run or one that was cut, stays.

    One process at a time writes a folder; another one is told so.

    Args:
        clips: From `prepare`.
        model: Its VAEs, text encoder, projection and connectors are used; the transformer is not opened.
        folder: Made if need be.
        progress: See `OnProgress`.
        begins: Hears of each part of the plan that begins, or goes on.

    Returns:
        The clips' files for `load_clip`, in the order of `clips`.

    Raises:
        UserError: a clip cannot be read, its caption has too many tokens, the folder cannot be written, or another
            process is writing it.
    """
    with write_errors(folder):
        (folder / _LATENTS).mkdir(parents=True, exist_ok=True)
    jobs = [_job(clip, model, folder) for clip in clips]
    missing = {job.path: job for job in jobs if not job.path.is_file()}.values()
    if missing:
        ops.settle_compile()
        _check_captions(model, [job.clip for job in missing])
        needed = sum(_bytes(job.clip, model) for job in missing)
        check_free(folder, needed, "the encoded clips need", "use fewer clips, or give another {field:cache}.")
        unseen = {job.latents: job for job in missing if not job.latents.is_file()}
        with locked_folder(folder, "training run that encodes its clips"):
            _encode_clips(list(unseen.values()), model, progress, begins)
            _encode_captions(list(missing), model, progress, begins)
    return [job.path for job in jobs]


def load_clip(path: Path) -> CachedClip:
    """Opens one file of the cache.

    Raises:
        UserError: it is missing or damaged.
    """
    arrays, facts = _read(path)
    try:
        return CachedClip(
            key=facts["key"],
            name=facts["name"],
            caption=facts["caption"],
            width=int(facts["width"]),
            height=int(facts["height"]),
            frames=int(facts["frames"]),
            frame_rate=float(facts["frame_rate"]),
            video=arrays.get("video"),
            audio=arrays["audio"],
            video_context=arrays["video_context"],
            audio_context=arrays["audio_context"],
        )
    except (KeyError, ValueError) as error:
        raise _damaged(path) from error


@dataclass(frozen=True)
class _Job:
    """A clip and the files of the cache that it becomes."""

    clip: TrainingClip
    key: str
    latents: Path
    path: Path


def _job(clip: TrainingClip, model: ModelDir, folder: Path) -> _Job:
    content = _digest([_model_hash(model, _VAES), *_content(clip)])
    key = _digest([content, _model_hash(model, _TEXT), clip.caption])
    return _Job(clip, key, folder / _LATENTS / f"{content}.safetensors", folder / f"{key}.safetensors")


def _content(clip: TrainingClip) -> list[Any]:
    """What a clip's latents depend on, beside the model."""
    size = clip.geometry
    try:
        file = _file_hash(clip.path, clip.path.stat().st_mtime_ns)
    except OSError as error:
        raise UserError(
            f"{clip.path} cannot be read: {error.strerror}.", "Put the clip back, or leave it out."
        ) from error
    stretch = [clip.window, clip.start, clip.end, clip.picture]
    return [file, *stretch, size.width, size.height, size.frames, size.frame_rate]


@lru_cache(maxsize=1024)
def _file_hash(path: Path, changed: int) -> str:
    """sha256 of a file; `changed` is its time stamp, so that a new version is hashed anew."""
    return sha256(path).sha256


def _model_hash(model: ModelDir, components: Iterable[str]) -> str:
    """Of the networks' files and the checkpoint's config; the dtype that they run in counts too."""
    return _digest([FORMAT, str(default_dtype()), model.checkpoint_config, model.digests(*components)])


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _bytes(clip: TrainingClip, model: ModelDir) -> int:
    """Of a clip's files: its tokens in both, in fp32, and the contexts of the caption, padded as Gemma reads it."""
    config, size = model.network_config("transformer"), clip.geometry
    tokens = size.audio_tokens * config.audio.in_channels
    tokens += size.video_tokens * config.video.in_channels if clip.picture else 0
    context = PROMPT_TOKENS * (config.video.context_dim + config.audio.context_dim)
    return 2 * 4 * tokens + default_dtype().size * context


def _check_captions(model: ModelDir, clips: Sequence[TrainingClip]) -> None:
    """Refuses a caption that is too long before anything else is done."""
    tokenizer = model.load_tokenizer()
    for clip in clips:
        try:
            tokenizer([clip.caption])
        except UserError as error:
            raise UserError(f"{clip.name}: {error.message}", error.hint) from error


def _encode_clips(jobs: Sequence[_Job], model: ModelDir, progress: OnProgress, begins: Begins) -> None:
    """Sound through the audio VAE in fp32, as the official trainer has it; pictures through the video VAE."""
    if not jobs:
        return
    audio_vae = model.load_audio_vae(mx.float32)
    video_vae = model.load_video_vae(default_dtype()) if any(job.clip.picture for job in jobs) else None
    for index, job in enumerate(jobs):
        try:
            begins(SOUNDS)
            arrays = {"audio": _sound_tokens(job.clip, audio_vae)}
            if video_vae is not None and job.clip.picture:
                give_back_freed_memory()  # in pieces too small for what comes: the process would be so much larger
                begins(PICTURES)
                arrays["video"] = _picture_tokens(job.clip, video_vae)
        except UserError as error:
            raise UserError(f"{job.clip.name}: {error.message}", error.hint) from error
        _write(job.latents, arrays, {})
        progress("latents", index + 1, len(jobs))
    del audio_vae, video_vae
    mx.clear_cache()
    give_back_freed_memory()


def _sound_tokens(clip: TrainingClip, vae: AudioVAE) -> mx.array:
    """(Ta, C) fp32, as many as the clip's seconds have in the transformer."""
    wave = read_sound(clip, vae.config.sample_rate)  # (N, 2)
    return _finite(encode_sound(vae, wave, clip.geometry.audio_tokens)[0], clip)


def _picture_tokens(clip: TrainingClip, vae: VideoVAE) -> mx.array:
    """(Tv, C) fp32; the VAE reads fp32 pixels, as the official trainer has it."""
    return _finite(encode_frames(vae, read_picture(clip), mx.float32)[0], clip)


def _finite(tokens: mx.array, clip: TrainingClip) -> mx.array:
    if not mx.isfinite(tokens).all().item():
        raise UserError(
            "The VAE's latents are not finite numbers.", f"Look at {clip.path}, or convert the model again."
        )
    return tokens


def _encode_captions(jobs: Sequence[_Job], model: ModelDir, progress: OnProgress, begins: Begins) -> None:
    """Each caption once; between the two passes only the features of its real tokens are held."""
    captions = sorted({job.clip.caption for job in jobs})
    features = _features(captions, model, progress, begins)
    begins("connectors")
    connectors = model.load_connectors(default_dtype())
    for caption in captions:
        video, audio, mask = features.pop(caption)
        contexts = connectors(_padded(video, mask), _padded(audio, mask), mx.array(mask))
        both = {"video_context": contexts[0][0], "audio_context": contexts[1][0]}
        both = {name: context.astype(default_dtype()) for name, context in both.items()}
        for job in jobs:
            if job.clip.caption == caption:
                _write(job.path, _read(job.latents)[0] | both, _facts(job))
    del connectors
    mx.clear_cache()


def _features(
    captions: Sequence[str], model: ModelDir, progress: OnProgress, begins: Begins
) -> dict[str, tuple[mx.array, mx.array, np.ndarray]]:
    """Video and audio features (tokens, D) of the real tokens of each caption, and its mask (1, S).

    Gemma's layers are read from disk as they are needed, anew for each group of captions that go through them together.
    """
    begins(CAPTIONS)
    encoder = model.load_text_encoder(default_dtype(), STREAMED_ONCE)
    projection = model.load_text_projection(default_dtype())
    ids, mask = encoder.tokenize(list(captions))
    features = {}
    for rows in _together(np.array(mask).sum(1)):
        states = encoder.token_states(ids[rows], mask[rows])
        mx.eval([one for _, one in states])
        for row in range(rows.start, rows.stop):
            own = mask[row : row + 1]
            places = mx.array(np.flatnonzero(np.array(own)[0]))
            video, audio = project(projection, states.pop(0), own)
            kept = video[0, places], audio[0, places]
            mx.eval(kept)
            features[captions[row]] = (*kept, np.array(own))
            progress("text", row + 1, len(captions))
        del states, video, audio, kept
    del encoder, projection
    mx.clear_cache()
    return features


def _together(tokens: Sequence[int]) -> list[slice]:
    """Groups of captions, in their order, whose states take no more memory than those of a padded prompt, or of one."""
    groups: list[slice] = []
    for row, count in enumerate(tokens):
        if groups and sum(tokens[groups[-1].start : row]) + count <= PROMPT_TOKENS:
            groups[-1] = slice(groups[-1].start, row + 1)
        else:
            groups.append(slice(row, row + 1))
    return groups


def _padded(tokens: mx.array, mask: np.ndarray) -> mx.array:
    """(tokens, D) -> (1, S, D): back in their places, which are the last; the connectors read no padding."""
    return mx.pad(tokens, [(mask.shape[1] - len(tokens), 0), (0, 0)])[None]


def _facts(job: _Job) -> dict[str, str]:
    size = job.clip.geometry
    facts = {"key": job.key, "name": job.clip.name, "caption": job.clip.caption, "width": size.width,
             "height": size.height, "frames": size.frames, "frame_rate": size.frame_rate}  # fmt: skip
    return {name: str(value) for name, value in facts.items()}


def _write(path: Path, arrays: dict[str, mx.array], facts: dict[str, str]) -> None:
    mx.eval(arrays)
    save_arrays(path, arrays, facts)


def _read(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    if not path.is_file():
        raise UserError(f"There is no {path} in the cache.", "Build the cache again.")
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
    except (RuntimeError, ValueError) as error:
        raise _damaged(path) from error
    return loaded


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged.", "Delete it; it is made again.")
