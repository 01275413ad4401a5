"""Where a prompt comes from: the shell, a file, standard input, or flags that build its sentence."""

from __future__ import annotations

import sys
from pathlib import Path

from mlx_ltxw.errors import UserError

LONGEST_PROMPT = 1 << 20
"""Bytes that a file or standard input is read for."""


def prompt_of(prompt: str | None, file: Path | None, sentence: dict[str, str | None]) -> str | None:
    """PROMPT, that of a file or of standard input, or the sentence built of `--scene --speaker --manner --line`."""
    from mlx_ltxw.files import read_text
    from mlx_ltxw.prompts.registers import build_prompt

    if file is not None:
        if prompt is not None:
            raise UserError("PROMPT and {field:prompt_file} exclude each other.", "Leave one of them out.")
        prompt = read_text(file, LONGEST_PROMPT, "Name a text file that holds the prompt.").strip()
    elif prompt == "-":
        prompt = _standard_input()
    if not any(sentence.values()):
        return prompt
    missing = [f"--{name}" for name in ("scene", "speaker", "line") if not sentence[name]]
    if prompt is not None or missing:
        fault = "PROMPT and --scene exclude each other" if prompt is not None else f"{', '.join(missing)} is missing"
        raise UserError(f"{fault}.", "Give either PROMPT, or --scene, --speaker, --line and, if wanted, --manner.")
    return build_prompt(
        sentence["scene"] or "", sentence["speaker"] or "", sentence["manner"] or "normal", sentence["line"] or ""
    )


def _standard_input() -> str:
    from mlx_ltxw.files import decode_text

    data = sys.stdin.buffer.read(LONGEST_PROMPT + 1)
    if len(data) > LONGEST_PROMPT:
        raise UserError("Standard input is longer than any prompt.", "Give the text of one prompt.")
    try:
        return decode_text(data).strip()
    except UnicodeDecodeError as error:
        raise UserError("Standard input is no UTF-8 text.", "Give the prompt as UTF-8.") from error
