"""Publishing to the Hugging Face Hub."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from src.errors import UserError
from src.publishing.bundle import PARAMETERS, written

READ = (".safetensors", ".bin", ".json", ".jinja")  # what a model is loaded from
LOGIN = "make one that may write at https://huggingface.co/settings/tokens and run `hf auth login`"


def push(folder: Path, repo: str, private: bool, message: str) -> str | None:
    """Send the folder to a model repository as one commit, and make the repository where needed.

    What an earlier publication left that this one lacks is removed; a licence or a picture that
    somebody put beside it stays.

    Returns:
        The commit's address; None where the repository holds just that already.

    Raises:
        UserError: no token or one that may not write there, another visibility than asked for,
            files of somebody else, no network, a file that the Hub does not take.
    """
    api = HfApi(library_name="vlm-recipes")
    with _in_one_line(repo):
        api.whoami()
        api.create_repo(repo, private=private, exist_ok=True)
        before = api.model_info(repo)
        if before.private != private:
            is_now, option = ("public", "--public") if private else ("private", "--private")
            raise UserError(f"{repo} is {is_now} on the Hub: change that there, or add {option}")
        there = {file.rfilename for file in before.siblings}
        ours = _ours(api, repo, before.sha, there)
        if odd := sorted(name for name in there - ours if name.endswith(READ)):
            raise UserError(
                f"{repo}: holds {odd[0]}, which this command is not known to have written; name "
                "another repository, or remove it there"
            )
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message,
            delete_patterns=list(map(glob.escape, ours & there)),
        )
    return None if commit.oid == before.sha else commit.commit_url


def _ours(api: HfApi, repo: str, commit: str, there: set[str]) -> set[str]:
    """The files of a repository that an earlier publication wrote."""
    if PARAMETERS not in there:
        return set()
    with TemporaryDirectory() as folder:
        return written(
            Path(api.hf_hub_download(repo, PARAMETERS, revision=commit, local_dir=folder))
        )


@contextmanager
def _in_one_line(repo: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(f"{repo}: {_why(error)}") from None
    except RuntimeError as error:  # of the upload of a file
        raise UserError(f"{repo}: {_why(error.__cause__ or error)} ({error})") from None


def _why(error: BaseException) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return f"the Hub needs a token; {LOGIN}"
    if isinstance(error, HfHubHTTPError):
        return _refusal(error)
    said = " ".join(str(error).split())
    if isinstance(error, HTTPError | ConnectionError):
        return f"the Hub cannot be reached ({said}); run it again when there is a network"
    return f"the Hub does not take it: {said}"


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub does not accept the token (401), it may have expired; {LOGIN}"
    if status == 403:
        return (
            "your token may not write there (403): the name may be somebody else's, or the token "
            f"may only read; choose a name of your own, or {LOGIN}"
        )
    if status == 413:
        return "a file is too big for the Hub (413); leave --merged out, or use a smaller base"
    said = error.server_message or str(error).partition("\n")[0]
    return f"the Hub answers with status {status}: {' '.join(said.split())}"
