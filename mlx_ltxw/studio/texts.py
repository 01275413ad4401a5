"""Every English word of the page, in one place; sentences of the rest of the program come from there."""

from __future__ import annotations

NAME = "mlx-ltxw studio"
MAKE, HEAR, KEEP, TRAIN = "Make", "Hear", "Keep", "Train"
QUEUE_FULL = ("200 jobs wait already.", "Wait until some are done, or cancel some.")
HELPER_DIED = (
    "The plan could not be made: its process ended.",
    "Try again; `helper.log` in the studio's folder says why.",
)


def worker_died(code: int) -> str:
    """Why a job failed whose process is gone."""
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return (
        f"The process that computes ended {how}, twice. Perhaps there was too little memory: choose a smaller size, or "
        "look into `worker.log` in the studio's folder."
    )


# Refused by the server
WRONG_HOST = "This studio is not called by that name. Open the address that `mlx-ltxw studio` printed."
WRONG_ORIGIN = "Another page asked for this; only the studio's own may."
WRONG_REQUEST = "That request makes no sense."
NO_TOKEN = "This studio needs its token. Open the address that `mlx-ltxw studio` printed, token and all."
TOO_LARGE = "That is larger than the studio takes."
TOO_MANY_UPLOADS = ("The studio's folder holds as many dropped files as it may.", "Remove some from its `uploads`.")

# The frame
SKIP = "Skip to the page"
NAVIGATION = "Pages"
THEME = "Colours"
