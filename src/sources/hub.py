"""Refusals of the Hub and of the network, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from httpx2 import HTTPError
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

from src.errors import UserError


@contextmanager
def in_one_line(what: str, repo: str, revision: str | None, keys: str) -> Iterator[None]:
    """Make what is raised inside a UserError: `what` of `repo` cannot be had; check `keys`."""
    try:
        yield
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        why = str(error).partition("\n")[0]
        # The `datasets` library has an error of its own, which tells by its words alone.
        if isinstance(error, GatedRepoError) or "is a gated dataset" in why:
            raise UserError(
                f"{repo} is gated; accept its terms on its page, then log in with `hf auth login`"
            ) from None
        raise UserError(
            f"cannot download {what} of {repo} at {revision or 'main'}: {why}; check {keys} and"
            " the network, then start again"
        ) from None
