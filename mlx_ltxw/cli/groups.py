"""A command whose options stand in groups in its help."""

from __future__ import annotations

import click

GROUPS = {
    "What is said and seen": (
        "prompt_file", "scene", "speaker", "manner", "line", "script", "parts", "keep_parts", "negative_prompt",
    ),
    "What is given": ("images", "audio", "revoice", "video", "retake", "retake_what", "extend"),
    "Size and steps": (
        "seeds", "num", "steps", "width", "height", "frames", "frame_rate", "audio_only",
        "pipeline", "upsampler", "distilled_lora",
    ),
    "Adapters": ("adapters", "lock_video", "show_drift", "fuse", "allow_partial", "register_at"),
    "Several sounds on one picture": ("takes", "single_takes", "take_tracks"),
    "Guidance": ("video_cfg", "audio_cfg", "stg", "modality_scale", "rescale"),
}  # fmt: skip
"""Heading -> names of the options below it; all others stand under the last heading, `Options`."""


class Grouped(click.Command):
    """Lists its options under `GROUPS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, group by group, each once."""
        headings = {name: heading for heading, names in GROUPS.items() for name in names}
        records: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*GROUPS, "Options")}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                records[headings.get(param.name or "", "Options")].append(record)
        for heading, rows in records.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
