"""What another machine tells of a finished clip, as JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_ltxw.media.measure import Measurement
from mlx_ltxw.media.registers import Reference
from mlx_ltxw.parsing import build
from mlx_ltxw.takes.events import Note, Ranked, Suspect, TakeEvent, Written
from mlx_ltxw.takes.ranking import RankedTake

_WHAT = "What another machine said"


def told(events: Iterable[TakeEvent]) -> list[dict[str, Any]]:
    """Those events that the leading machine passes on to the user; the others are a machine's own progress."""
    result: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Written):
            files = [path.name for path in event.files]
            found = None if event.measurement is None else event.measurement.as_dict()
            result.append({"written": vars(event) | {"files": files, "measurement": found}})
        elif isinstance(event, Ranked):
            takes = [vars(row) | {"measurement": row.measurement.as_dict()} for row in event.takes]
            result.append({"ranked": {"seed": event.seed, "takes": takes}})
        elif isinstance(event, Suspect | Note):
            result.append({type(event).__name__.lower(): dataclasses.asdict(event)})
    return result


def heard(said: Iterable[dict[str, Any]], folder: Path) -> list[TakeEvent]:
    """The events that `told` has told.

    Args:
        said: By another machine.
        folder: Where the files lie here.

    Raises:
        UserError: it is none of them.
    """
    return [_event(kind, values, folder) for one in said for kind, values in one.items()]


def _event(kind: str, values: dict[str, Any], folder: Path) -> TakeEvent:
    if kind == "written":
        found = values["measurement"]
        changes = {
            "files": tuple(folder / Path(name).name for name in values["files"]),
            "measurement": None if found is None else _measurement(found),
        }
        return Written(**(values | changes))
    if kind == "ranked":
        rows = [RankedTake(**(row | {"measurement": _measurement(row["measurement"])})) for row in values["takes"]]
        return Ranked(values["seed"], tuple(rows))
    return build(Suspect, values, _WHAT) if kind == "suspect" else build(Note, values, _WHAT)


def _measurement(values: dict[str, Any]) -> Measurement:
    """Without what another clip would be compared with, which stays on the machine that measured."""
    tuples = {name: tuple(values[name]) for name in ("by_second", "notes")}
    return Measurement(**(values | tuples), reference=Reference(values["lufs"], None))
