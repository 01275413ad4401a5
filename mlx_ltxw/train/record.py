"""`run.json`: what a run was told, kept from its first second, so that `--resume` needs nothing repeated.

A run that was killed before its first checkpoint goes on with its own options. A folder without a run, or one whose
checkpoints are gone, is refused rather than trained in anew.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text, write_bytes
from mlx_ltxw.parsing import build, parse_json
from mlx_ltxw.train import checkpoint
from mlx_ltxw.train.config import TrainConfig, commented, read_config
from mlx_ltxw.train.metrics import read_metrics

NAME, CONFIG = "run.json", "config.yaml"
ADAPTER = "adapter.safetensors"
_ELSEWHERE = "Put them back, or begin another run in another folder."


@dataclass(frozen=True)
class RunArguments:
    """What a run is told beside its training options; None and False where nothing was said.

    Attributes:
        data: A folder of clips, or a JSONL.
        model: A model directory or Hub repository; None for the built-in.
        cache: Where encoded clips are kept; None for the run.
        speaker, manner, scene: Taken for clips whose caption does not tell.
        transcribe: Whether Whisper fills in what is said.
        audio_only: Whether pictures are left out.
        force: Whether a distilled model will do.
    """

    data: str | None = None
    model: str | None = None
    cache: str | None = None
    speaker: str | None = None
    manner: str | None = None
    scene: str | None = None
    transcribe: bool = False
    audio_only: bool = False
    force: bool = False

    def over(self, before: RunArguments) -> RunArguments:
        """These, and those of `before` where nothing is said."""
        said = {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, False)}
        return dataclasses.replace(before, **said)

    def absolute(self) -> RunArguments:
        """With local paths that hold from any folder."""
        return dataclasses.replace(
            self, data=absolute(self.data), model=absolute(self.model), cache=absolute(self.cache)
        )


@dataclass(frozen=True)
class RunRecord:
    """One `run.json`.

    Attributes:
        given: Beside the training options.
        config: The training options.
    """

    given: RunArguments
    config: TrainConfig


@dataclass(frozen=True)
class _Stored:
    given: RunArguments
    config: dict[str, Any]


def absolute(path: str | None) -> str | None:
    """The absolute path of what is a local file or folder; other names stay."""
    return str(Path(path).expanduser().absolute()) if path and Path(path).expanduser().exists() else path


def write_run(run: Path, record: RunRecord) -> None:
    """Writes `run.json`, and the options for people and `--config` as `config.yaml`."""
    values = {"given": dataclasses.asdict(record.given), "config": record.config.to_dict()}
    write_bytes(run / NAME, json.dumps(values, indent=1, ensure_ascii=False).encode())
    heading = ["The options of this run. It goes on with those of run.json; this file is for `--config` of another."]
    write_bytes(run / CONFIG, commented(record.config, heading).encode())


def read_run(run: Path) -> RunRecord:
    """What the run of a folder was told.

    Raises:
        UserError: there is no run to go on with, its checkpoints are gone, or its record is damaged.
    """
    steps = checkpoint.saved_steps(run)
    file = run / NAME
    if not file.exists():
        before = checkpoint.saved_config(run)  # a run of an earlier version
        if before is None:
            raise UserError(
                f"There is no run in {run} to go on with.",
                "Check the folder's name, or leave {field:resume} out to begin a run there.",
            )
        return RunRecord(RunArguments(), before)
    hint = "Put the file back, or remove it to go on with the options of the newest checkpoint."
    stored = build(_Stored, parse_json(read_text(file), str(file), hint), str(file), hint)
    config = read_config(base=stored.config)
    reached = max((line["step"] for line in read_metrics(run)), default=0)
    if not steps and (reached > config.checkpoint_every or (run / ADAPTER).exists()):
        raise UserError(f"The checkpoints of the run in {run} are gone (it had reached step {reached}).", _ELSEWHERE)
    return RunRecord(stored.given, config)
