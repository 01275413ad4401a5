"""What all pages of a server share."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_ltxw.studio.asking import Helper
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.hub import Hub
from mlx_ltxw.studio.queue import Queue
from mlx_ltxw.studio.store import Store


@dataclass(frozen=True)
class Studio:
    """A running studio.

    Attributes:
        folder: Where everything lies.
        store: Jobs, takes, uploads, settings.
        hub: News for open pages.
        queue: Jobs at work and waiting.
        helper: Plans, and what files hold.
        model: Used where a page names none; None for the built-in one.
    """

    folder: StudioFolder
    store: Store
    hub: Hub
    queue: Queue
    helper: Helper
    model: str | None = None

    @classmethod
    def open(cls, folder: StudioFolder, model: str | None = None) -> Studio:
        """Opens the database and readies the processes; none is started yet."""
        store, hub = Store(folder.database), Hub()
        store.begin_jobs_after(folder.last_job())
        return cls(folder, store, hub, Queue(store, folder, hub), Helper(folder), model)

    async def start(self) -> None:
        """Starts the worker."""
        await self.queue.start()

    async def stop(self) -> None:
        """Ends the processes; what was at work goes on with the next server."""
        await self.queue.stop()
        await self.helper.stop()
        self.store.close()
