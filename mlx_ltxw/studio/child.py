"""A process of the server's that speaks JSON lines: the worker, and the helper."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_LONGEST_LINE = 16 << 20
_LARGEST_LOG = 1 << 20


class Child:
    """A Python module as a process; it ends when its standard input does.

    Args:
        module: `mlx_ltxw.studio.worker`.
        arguments: Of it.
        log: Where its standard error goes; begun anew when it is large.
        heard: Gets each line, parsed.
        ended: Gets the exit code, negative for a signal.
        environment: Variables beside this process's own.
    """

    def __init__(
        self, module: str, arguments: list[str], log: Path, heard: Callable[[dict[str, Any]], None],
        ended: Callable[[int], None], environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._log, self._heard, self._ended = log, heard, ended
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._stopped = False
        self._starting: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts it, unless it runs or was stopped for good. Who waits for it may give up; the start goes on."""
        self._starting = asyncio.create_task(
            self._start()
        )  # cut in the middle, asyncio would wait for its pipes forever
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        async with self._changing:  # a start and a stop may meet
            if self._process is not None or self._stopped:
                return
            large = self._log.exists() and self._log.stat().st_size > _LARGEST_LOG
            with self._log.open("wb" if large else "ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._environment,
                    limit=_LONGEST_LINE, start_new_session=True,  # Ctrl-C is the server's to answer
                )  # fmt: skip
            self._reading = asyncio.create_task(self._read(self._process))

    def send(self, **values: Any) -> None:
        """Writes a line to it; one that is gone hears nothing."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(json.dumps(values).encode() + b"\n")

    async def stop(self, patience: float = 5.0) -> None:
        """Ends it for good: closes its input and waits; after a while it is killed."""
        self._stopped = True
        async with self._changing:
            process, reading = self._process, self._reading
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            self.kill()
            await process.wait()
        if reading is not None:
            await reading

    def kill(self) -> None:
        """Ends it at once; what it has written is whole, and its steps are kept."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with suppress(ValueError):  # a line without end
            async for line in process.stdout:
                try:
                    self._heard(json.loads(line))
                except Exception:  # one line that is lost must not silence those that follow
                    logger.exception("A line of %s could not be used", self._command[2])
        code = await process.wait()
        self._process = None
        self._ended(code)
