"""What goes wrong between this machine and the Hugging Face Hub, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_ltxw.errors import UserError

FOR_A_WHILE = {408, 429, 500, 502, 503, 504}
"""What a Hub answers that is there and cannot serve."""
NO_ANSWER = (ValueError, KeyError, TypeError, AttributeError)
"""What its client raises at an answer that is none of the Hub's: a proxy's or a login's page."""


def _answered(error: BaseException | None) -> BaseException | None:
    """The Hub's refusal behind a client's error, which speaks of connections and caches; None where it gave none."""
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    return error


def status_of(error: Exception) -> int:
    """The HTTP status of the Hub's refusal; 0 where it gave none."""
    return int(getattr(getattr(_answered(error), "response", None), "status_code", 0))


def reason_of(error: Exception) -> str:
    """Why the Hub gave nothing, in a line."""
    if status := status_of(error):
        return f"it answered {status} {_PHRASES.get(status, '')}".rstrip()
    if isinstance(error, NO_ANSWER):
        return "what answers is not the Hub; a proxy or a login page may stand between"
    return _first_line(error)[:300]


_PHRASES = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}
_LATER = "Wait a while and run the same command again: it goes on."


def what_to_do(error: Exception, repo: str) -> str:
    """The hint for a refusal."""
    status = status_of(error)
    if status in (401, 403):
        return f"Log in with `hf auth login` as one who may use {repo}."
    if status == 404:
        return "Check the name; its owner may have taken it away."
    return _LATER if status else "Check the connection and the free space, and run the same command again: it goes on."


@contextmanager
def explained(repo: str, let_through: bool = False) -> Iterator[None]:
    """Turns the Hub's errors into sentences; `let_through` leaves lost connections to the caller."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: its owner asks you to accept a licence first.",
            f"Accept it at https://huggingface.co/{repo} with your account, then run `hf auth login` on this machine.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no such revision.", "Give a branch, tag or commit that it has.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"There is no file and no Hub repo {repo}.", "Check the spelling; for a private repo run `hf auth login`."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{repo} has no such file ({_first_line(error)}).", "Check the file's name.") from error
    except errors.SafetensorsParsingError as error:
        raise UserError(f"A file of {repo} is not safetensors ({_first_line(error)}).", "Name another file.") from error
    except UserError:
        raise
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError, *NO_ANSWER) as error:
        if let_through:
            raise
        raise UserError(
            f"A file of {repo} cannot be downloaded ({reason_of(error)}).", what_to_do(error, repo)
        ) from error


_WAIT = "Wait a while, and run the same command again: it goes on."
_MAY_NOT = "Log in with a token that may write to it (`hf auth login`), and run the same command again: it goes on."


@contextmanager
def upload_errors(what: str, hint: str, cut_off: str = "") -> Iterator[None]:
    """What the Hub says, in a sentence; `cut_off` is the hint where nothing was heard from it."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(f"{what}: this machine is not logged in to the Hub.", hint) from error
    except HFValidationError as error:
        raise UserError(f"{what}: {_first_line(error)[:300]}.", hint) from error
    except HfHubHTTPError as error:
        if status_of(error) in FOR_A_WHILE:
            hint = _WAIT
        elif cut_off == "" and status_of(error) in (401, 403):
            hint = _MAY_NOT
        raise UserError(f"{what}: {_refusal(error)}.", hint) from error
    except (HTTPError, OSError) as error:
        raise UserError(f"{what}: the Hub cannot be reached ({_first_line(error)[:300]}).", cut_off or hint) from error
    except RuntimeError as error:  # of the client's threads, around what the Hub said
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(f"{what}: {_first_line(cause)[:300]}.", hint) from error
    except NO_ANSWER as error:
        raise UserError(f"{what}: {reason_of(error)}.", cut_off or hint) from error


def _refusal(error: Exception) -> str:
    """What the Hub answered, with its own words where it has some."""
    words = " ".join(str(getattr(error, "server_message", None) or "").split())
    return f"{reason_of(error)}{': ' if words else ''}{words[:300].rstrip('.')}"


def _first_line(error: Exception) -> str:
    """The first line of what a library says, which goes on for paragraphs."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
