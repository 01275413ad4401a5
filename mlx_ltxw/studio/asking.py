"""The server's side of the helper: questions with answers."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.child import Child
from mlx_ltxw.studio.folder import StudioFolder


class Helper:
    """Asks the helper; it is started with the first question, and again when it died.

    Args:
        folder: The studio's.
    """

    def __init__(self, folder: StudioFolder) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        environment = {"HF_HUB_OFFLINE": "1"}  # a question downloads nothing
        log = folder.path / "helper.log"
        module, arguments = "mlx_ltxw.studio.helper", [str(folder.path)]
        self._child = Child(module, arguments, log, self._heard, self._died, environment)

    async def ask(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Asks one of `answers.ANSWERS`.

        Raises:
            UserError: as the answer.
        """
        await self._child.start()
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._child.send(number=number, ask=name, values=values)
        result: dict[str, Any] = await future
        return result

    async def stop(self) -> None:
        """Ends it."""
        await self._child.stop()

    def _heard(self, line: dict[str, Any]) -> None:
        future = self._waiting.pop(line["number"], None)
        if future is None or future.done():
            return
        if "refused" in line:
            future.set_exception(UserError(line["refused"]["message"], line["refused"]["hint"]))
        else:
            future.set_result(line["answer"])

    def _died(self, code: int) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(UserError(*texts.HELPER_DIED))
