"""The networks around the transformer: the video VAE, the vocoder, the text encoder, and a conversion."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.audio_vae import VocoderConfig, VocoderWithBWE
from mlx_ltxw.models.text import Gemma, GemmaConfig
from mlx_ltxw.models.video_vae import VideoVAE, VideoVAEConfig
from mlx_ltxw.pipeline.decode import decode_video
from mlx_ltxw.pipeline.encode import encode_frames
from scripts.bench.figures import Figure, timed
from scripts.bench.setting import Setting
from scripts.made_sizes import configuration
from scripts.random_model import fill_randomly

SOUND = (4.0, 20.0)
"""Seconds."""
TOKENS = (256, 1024)
MADE = {"tiny": "tiny", "half": "small", "22b": "22b"}


def vae(setting: Setting) -> Iterator[Figure]:
    """Decoding as the pipeline does it, tile by tile, and encoding."""
    network: Any = VideoVAE(VideoVAEConfig.read(configuration(MADE[setting.size])[0]["vae"]))
    fill_randomly(network, setting.dtype)
    networks: Any = SimpleNamespace(video_vae=lambda: network, dtype=setting.dtype)
    for size, geometry in setting.geometries().items():
        tokens = mx.random.normal((1, geometry.video_tokens, network.config.latent_channels), key=mx.random.key(0))
        frames = np.zeros((geometry.frames, geometry.height, geometry.width, 3), np.uint8)

        def decode(tokens: mx.array = tokens, geometry: Any = geometry) -> mx.array:
            return mx.array([len(chunk) for chunk in decode_video(networks, tokens, geometry)])

        yield Figure("video decode", size, timed(decode, setting.runs))
        encode = timed(partial(encode_frames, network, frames, setting.dtype), setting.runs)
        yield Figure("video encode", size, encode)


def vocoder(setting: Setting) -> Iterator[Figure]:
    """Spectra to 48 kHz stereo, float32."""
    network = VocoderWithBWE(VocoderConfig.read(configuration(MADE[setting.size])[0]["vocoder"]))
    fill_randomly(network, mx.float32)
    for seconds in SOUND:
        mel = mx.random.normal((1, round(seconds * 100), 64, 2), key=mx.random.key(0))
        mx.eval(mel)
        taken = timed(partial(network, mel), setting.runs)
        yield Figure("vocoder", f"{seconds:g} s", taken, more={"x real time": round(seconds / min(taken), 1)})


def text(setting: Setting) -> Iterator[Figure]:
    """The text encoder's hidden states of one prompt, all layers in memory."""
    network: Any = Gemma(GemmaConfig.read({"model_type": "gemma3_text"} | configuration(MADE[setting.size])[1]))
    fill_randomly(network, setting.dtype)
    for tokens in TOKENS:
        ids = mx.random.randint(0, 500, (1, tokens), key=mx.random.key(0))
        states = timed(partial(network, ids), setting.runs)
        yield Figure("text encoder", f"{tokens} tokens", states)


def convert(setting: Setting) -> Iterator[Figure]:
    """A made checkpoint to a model directory, as it is and in 4 bits."""
    from mlx_ltxw.convert.quantize import Quantization
    from mlx_ltxw.convert.run import convert as run_conversion
    from mlx_ltxw.convert.run import prepare
    from scripts.make_checkpoint import make

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = make(folder, MADE[setting.size])
        for name in ("", "4"):
            seconds, packing = [], Quantization.parse(name) if name else None
            for index in range(setting.runs):
                plan = prepare(str(made.checkpoint), str(made.gemma), quantization=packing)
                clock = time.perf_counter()
                run_conversion(plan, folder / f"model {name} {index}")
                seconds.append(time.perf_counter() - clock)
            size = plan.plan.nbytes
            rate = round(size / min(seconds) / 1e9, 3)
            yield Figure(f"convert{name and ' -q ' + name}", f"{size / 1e9:.3f} GB", seconds, more={"GB/s": rate})
