"""The adapted audio streams of a run: which takes go through which model, as which rows of a batch.

Takes of the same adapters are rows of one batch. Takes of different ones are too, where their changes are plain LoRAs
(`adapter/rows.py`); the others get a stream of their own. Of one stream's rows, those with the same text share its
keys and values, and those with the same adapters the keys and values of the video.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.models.transformer import EQUALLY, Modality, Sharing, Transformer
from mlx_ltxw.pipeline.contexts import Contexts


@dataclass(frozen=True)
class AdaptedStream:
    """Takes that go through one model as one batch.

    Attributes:
        model: The base with their adapters.
        rows: Their rows among `Latents.adapted`, in the order of the batch.
        texts: Prompts that they read, one for each reading of a text; none for the base's own.
        sharing: How many rows in a row share each reading.
    """

    model: Transformer
    rows: tuple[int, ...] = (0,)
    texts: tuple[str, ...] = ()
    sharing: Sharing = EQUALLY

    def modality(self, adapted: mx.array, audio: Modality, contexts: Contexts, negative: bool) -> Modality:
        """The batch as the model takes it.

        Args:
            adapted: (B, T, C) latents of all takes.
            audio: The base's, at whose noise level it is, and whose rotation it has.
            contexts: Of all prompts.
            negative: Whether this pass reads the negative prompt, as all rows then do.
        """
        dtype = audio.latent.dtype
        latent = (adapted if len(self.rows) == len(adapted) == 1 else adapted[mx.array(self.rows)]).astype(dtype)
        own_text = self.texts not in ((), contexts.prompts[:1]) and not negative
        context = contexts.audio_of(self.texts) if own_text else audio.context
        return audio._replace(latent=latent, context=context, sharing=self.sharing)


@dataclass(frozen=True)
class BatchLayout:
    """The rows of one batch, in an order in which those that share a reading lie in a row.

    Attributes:
        rows: Rows among `Latents.adapted`.
        texts: Prompts, of each reading of a text; one for all where all rows read the same.
        sharing: How many rows share each reading.
        voices: Whose tokens enter a linear (`adapter.names.tokens_of`) -> the voice of each row that comes out of it.
    """

    rows: tuple[int, ...]
    texts: tuple[str, ...]
    sharing: Sharing
    voices: dict[str, list[int]]


def batch_layout(voices: Sequence[Sequence[tuple[int, str]]]) -> BatchLayout:
    """Orders the rows of a batch.

    Args:
        voices: Of each voice its rows among `Latents.adapted`, each with the prompt that it reads.
    """
    ordered = [(voice, text, row) for voice, rows in enumerate(voices) for row, text in rows]
    ordered.sort(key=lambda one: one[:2])
    readings = Counter((voice, text) for voice, text, _ in ordered)  # in the order of first sight
    texts = tuple(text for _, text in readings)
    return BatchLayout(
        rows=tuple(row for *_, row in ordered),
        texts=texts[:1] if len(set(texts)) == 1 else texts,
        sharing=Sharing(tuple(readings.values()), tuple(len(rows) for rows in voices)),
        voices={
            "audio": [voice for voice, *_ in ordered],
            "text": [voice for voice, _ in readings],
            "video": list(range(len(voices))),
        },
    )


def gathered(streams: Sequence[AdaptedStream], parts: Sequence[mx.array]) -> mx.array:
    """What the streams' models gave, (b, T, C) each, as (B, T, C) in the order of `Latents.adapted`."""
    rows = [row for stream in streams for row in stream.rows]
    together = mx.concatenate(list(parts)) if len(parts) > 1 else parts[0]
    if rows == sorted(rows):
        return together
    return together[mx.array(sorted(range(len(rows)), key=rows.__getitem__))]
