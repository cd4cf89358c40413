"""Repositories of the Hub: the commit behind a name, and refusals in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import REGEX_COMMIT_HASH

from src.errors import UserError


def commit(repo: str, revision: str | None, kind: str = "dataset") -> str:
    """The commit that a repository has at a commit, branch or tag; None: its main branch.

    Raises what `in_one_line` makes a UserError of.
    """
    return HfApi().repo_info(repo, repo_type=kind, revision=revision).sha


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which cannot move."""
    return bool(REGEX_COMMIT_HASH.fullmatch(revision or ""))


@contextmanager
def in_one_line(what: str, repo: str, revision: str | None, advice: str) -> Iterator[None]:
    """Make what is raised inside a UserError: `what` of `repo` cannot be had; what to do."""
    try:
        yield
    except RevisionNotFoundError:
        raise UserError(
            f"cannot download {what} of {repo} at {revision or 'main'}: there is no such commit,"
            " branch or tag, or no more; set revision to one that its page lists, or to null"
        ) from None
    except HFValidationError as error:
        raise UserError(
            f"{repo} is no id of a repository of the Hub ({error}); write it as its page does, and"
            " a commit, branch or tag into revision"
        ) from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        why = str(error).partition("\n")[0]
        # The `datasets` library has an error of its own, which tells by its words alone.
        if isinstance(error, GatedRepoError) or "is a gated dataset" in why:
            raise UserError(
                f"{repo} is gated; accept its terms on its page, then log in with `hf auth login`"
            ) from None
        raise UserError(
            f"cannot download {what} of {repo} at {revision or 'main'}: {why}; {advice}"
        ) from None
