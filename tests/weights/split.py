"""A model in the split layout of ltx-2-mlx, written from a made checkpoint by that layout's own rules.

The rules are mlx-forge's (`recipes/ltx_23.py`), put here once more, towards the layout; the package's tables go the
other way.
"""

import json
from pathlib import Path

import mlx.core as mx
from safetensors import safe_open

from tests.reference import upsampler

DIT = "model.diffusion_model."


def split_model(checkpoint, folder, variant="dev", bits=None, group=32):
    """Writes the tree; quantised by MLX if `bits`, as theirs is: every matrix in the blocks, the head gates too."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    with safe_open(str(checkpoint), framework="numpy") as file:
        metadata = file.metadata()
    arrays = mx.load(str(checkpoint))
    files = {}
    for key, array in arrays.items():
        for file, name in spots(key):
            files.setdefault(file, {})[f"{file}.{name}"] = laid_out(file, name, array)
    if bits:
        files["transformer"] = quantised(files["transformer"], bits, group)
        (folder / "quantize_config.json").write_text(
            json.dumps({"quantization": {"bits": bits, "group_size": group, "only_transformer_blocks": True}})
        )
    for file, tensors in files.items():
        name = f"transformer-{variant}" if file == "transformer" else file
        mx.save_safetensors(str(folder / f"{name}.safetensors"), tensors)
    split = {
        "format": "split", "model_version": "2.3.0", "components": sorted(set(files) - {"transformer"}),
        "transformer_variants": [variant], "source": "Lightricks/LTX-2.3",
    }  # fmt: skip
    (folder / "split_model.json").write_text(json.dumps(split))
    (folder / "config.json").write_text(json.dumps({"model_version": "2.3.0", "is_v2": True, "num_layers": 48}))
    (folder / "embedded_config.json").write_text(metadata["config"])
    return folder


def spots(key):
    """Files and names that a checkpoint's tensor gets; the latent statistics get two."""
    if key.startswith((DIT + "video_embeddings_connector.", DIT + "audio_embeddings_connector.")):
        return [("connector", key.removeprefix(DIT))]
    if key.startswith(DIT):
        name = key.removeprefix(DIT)
        for theirs, ours in (
            (".to_out.0.", ".to_out."), (".ff.net.0.proj.", ".ff.proj_in."), (".ff.net.2.", ".ff.proj_out."),
            (".audio_ff.net.0.proj.", ".audio_ff.proj_in."), (".audio_ff.net.2.", ".audio_ff.proj_out."),
            (".linear_1.", ".linear1."), (".linear_2.", ".linear2."),
        ):  # fmt: skip
            name = name.replace(theirs, ours)
        return [("transformer", name)]
    if key.startswith("text_embedding_projection."):
        return [("connector", key)]
    if key.startswith("vae.per_channel_statistics."):
        word = key.rsplit(".", 1)[1].partition("-")[0]
        return [
            ("vae_decoder", f"per_channel_statistics.{word}"),
            ("vae_encoder", f"per_channel_statistics._{word}_of_means"),
        ]
    if key.startswith("vae."):
        half = key.split(".")[1]
        return [(f"vae_{half}", key.removeprefix(f"vae.{half}."))]
    if key.startswith("audio_vae.per_channel_statistics."):
        return [("audio_vae", f"per_channel_statistics._{key.rsplit('.', 1)[1].partition('-')[0]}_of_means")]
    if key.startswith("audio_vae."):
        return [("audio_vae", key.removeprefix("audio_vae."))]
    return [("vocoder", key.replace("vocoder.", ""))]  # at every place


def laid_out(file, name, array):
    """Axes as the layout has them on disk."""
    if file == "transformer" or array.ndim < 3:
        return array
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "filter" or leaf.endswith("_basis"):
        return array.transpose(0, 2, 1)
    if file == "vocoder" and "ups" in name and leaf == "weight":
        return array.transpose(1, 2, 0)
    return array.transpose(0, *range(2, array.ndim), 1)


def quantised(tensors, bits, group):
    result = {}
    for name, array in tensors.items():
        packable = array.ndim == 2 and array.shape[-1] % group == 0
        if ".transformer_blocks." in name and name.endswith(".weight") and packable:
            parts = mx.quantize(array, group_size=group, bits=bits)
            result |= dict(zip((name, name[:-6] + "scales", name[:-6] + "biases"), parts, strict=True))
        else:
            result[name] = array
    return result


def split_upsampler(folder, channels, kind="spatial-x2", stem="spatial_upscaler_x2_v1_1", prefix=True, config="beside"):
    """An upsampler's file as mlx-forge writes it: axes last, the stem in front, the metadata in a JSON beside it.

    Returns the official class with the same weights.
    """
    official = folder.parent / f"{stem}.official.safetensors"
    values = upsampler.config(kind, channels, 32)
    reference = upsampler.write_official(official, values)
    arrays = {
        (f"{stem}." if prefix else "") + name: array.transpose(0, *range(2, array.ndim), 1) if array.ndim > 2 else array
        for name, array in mx.load(str(official)).items()
    }
    metadata = {"config": json.dumps(values)} if config == "metadata" else {}
    mx.save_safetensors(str(folder / f"{stem}.safetensors"), arrays, metadata)
    if config == "beside":
        (folder / f"{stem}_config.json").write_text(json.dumps({"config": values, "model_version": "2.3.0"}))
    return reference
