"""The model card: `README.md` of a model directory, in the Hub's form."""

from __future__ import annotations

from .quantize import Quantization

_BASE = "Lightricks/LTX-2.3"
_LICENCE = "https://github.com/Lightricks/LTX-2/blob/main/LICENSE"


def model_card(
    name: str, variant: str, version: str, source: str, text_encoder: str, quantization: Quantization | None
) -> str:
    """The card's text.

    Args:
        name: Of the directory.
        variant: `dev` or `distilled`.
        version: The checkpoint's `model_version`.
        source, text_encoder: What they were made from, with commits where known.
        quantization: Or None.
    """
    weights = "as in the checkpoint" if quantization is None else _quantized(quantization)
    return f"""---
library_name: mlx
base_model: {_BASE}
pipeline_tag: text-to-video
tags:
- mlx
- ltx-2.3
- text-to-video
- text-to-audio
license: other
license_name: ltx-2-community-license-agreement
license_link: {_LICENCE}
---

# {name}

LTX-2.3 ({variant}, model_version {version or "unknown"}) for [MLX](https://github.com/ml-explore/mlx),
written by `mlx-ltxw convert`.

- checkpoint: {source}
- text encoder: {text_encoder}
- weights: {weights}

```
mlx-ltxw generate 'a woman in dim light, (woman, whispering): "close your eyes"' -m {name} -o out.mp4
```

The weights are Lightricks' and Google's, and stay under their licences: the LTX-2 community licence
({_LICENCE}) and the Gemma terms of use (https://ai.google.dev/gemma/terms).
`config.json` names the source files with their sha256; `manifest.json` lists this directory's.
"""


def _quantized(quantization: Quantization) -> str:
    kind = f"{quantization.mode}, {quantization.bits} bits, groups of {quantization.group_size}"
    return (
        f"linears of the transformer's blocks and of the text encoder quantised ({kind}); all else as in the checkpoint"
    )
