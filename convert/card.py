"""The model card: `README.md` of a model directory, in the Hub's form."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_ltxw.printing import readable

from .quantize import Quantization

_BASE = "Lightricks/LTX-2.3"
_ADAPTER = "MLXBits/ltx2.3-whisper-softly-spoken"
_LICENCE = "https://github.com/Lightricks/LTX-2/blob/main/LICENSE"
_LICENCE_FIELDS = f"license: other\nlicense_name: ltx-2.x-community-license-agreement\nlicense_link: {_LICENCE}"
_STATEMENT = f"""The weights are Lightricks' and Google's, and stay under their licences: the LTX-2.x Community License
Agreement ({_LICENCE}) and the Gemma terms of use (https://ai.google.dev/gemma/terms)."""


def model_card(
    name: str,
    variant: str,
    version: str,
    source: str,
    text_encoder: str,
    quantization: Quantization | None,
    own: Mapping[str, str],
    sizes: Mapping[str, tuple[int, int]],
) -> str:
    """The card's text.

    Args:
        name: Of the directory or the repository, as `-m` takes it.
        variant: `dev` or `distilled`.
        version: The checkpoint's `model_version`.
        source, text_encoder: What they were made from, with commits where known.
        quantization: Or None.
        own: The checkpoint config's section `mlx_ltxw`, of a model that is not Lightricks': its `license` and the
            `statement` of what it is and was made from.
        sizes: Tensors and bytes of each network.
    """
    licence = f"license: {own['license']}" if own else _LICENCE_FIELDS
    base = "" if own else f"base_model: {_BASE}\n"
    if base and quantization is not None:
        base += "base_model_relation: quantized\n"
    bits = "" if quantization is None else f"- {quantization.bits}-bit\n"
    adapter = "" if own else f"\\\n    --adapter {_ADAPTER} "
    kind = "A model of LTX-2.3's architecture" if own else "LTX-2.3"
    weights = "as in the checkpoint" if quantization is None else _quantized(quantization)
    return f"""---
library_name: mlx
{base}pipeline_tag: text-to-video
tags:
- mlx
- ltx-2.3
- text-to-video
- text-to-audio
{bits}{licence}
---

# {name}

{kind} ({variant}, model_version {version or "unknown"}) for [MLX](https://github.com/ml-explore/mlx),
written by `mlx-ltxw convert`.

- checkpoint: {source}
- text encoder: {text_encoder}
- weights: {weights}

{_table(sizes)}

```
pip install mlx-ltxw
mlx-ltxw generate 'a woman in dim light, (woman, whispering): "close your eyes"' -m {name} {adapter}-o out.mp4
```

{own["statement"] if own else _STATEMENT}
`config.json` names the source files with their sha256; `manifest.json` lists this directory's.
"""


def notice(variant: str, quantization: Quantization | None) -> str:
    """What stands in the `NOTICE` of a repository: Gemma's own sentence, and that the files were changed."""
    how = "" if quantization is None else f", and quantised ({_kind(quantization)})"
    return f"""Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms

LTX-2.x is provided under the LTX-2.x Community License Agreement found at {_LICENCE}

The files here were changed: `mlx-ltxw convert` rewrote the weights of LTX-2.3 ({variant}) and of the text model of
Gemma-3 in MLX's layout{how}.
"""


def _table(sizes: Mapping[str, tuple[int, int]]) -> str:
    rows = [f"| {name} | {tensors:,} | {readable(nbytes)} |" for name, (tensors, nbytes) in sizes.items()]
    total = [sum(column) for column in zip(*sizes.values(), strict=True)]
    rows.append(f"| all | {total[0]:,} | {readable(total[1])} |")
    return "\n".join(["| network | tensors | on disk |", "|---|---|---|", *rows])


def _quantized(quantization: Quantization) -> str:
    what = "linears of the transformer's blocks and of the text encoder"
    return f"{what} quantised ({_kind(quantization)}); all else as in the checkpoint"


def _kind(quantization: Quantization) -> str:
    return f"{quantization.mode}, {quantization.bits} bits, groups of {quantization.group_size}"
