"""Base models of the Hugging Face Hub, pinned to a commit."""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.file_download import repo_folder_name
from transformers import AutoConfig, AutoModelForImageTextToText

from src.errors import UserError
from src.files import whole, write_json
from src.repositories import in_one_line
from src.schema import Base

SMALL = ["*.json", "*.jinja", "*.txt", "*.model"]
WEIGHTS = ["*.safetensors"]
SILENT = 3600  # seconds without a byte after which nobody writes a part of a file any more
ADVICE = "check the id, the revision and the network, then start again: whole files are kept"


def pin(base: Base, folder: Path, seed: int) -> dict[str, int | str]:
    """Write the manifest of a base at its commit to `folder`, and bring all but its weights.

    The weights come when they are first loaded, so that a base that no recipe uses costs nothing.

    Returns:
        What is known of it: its number of `parameters`, its `id` and `revision`, the commit.

    Raises:
        UserError: the model cannot be had or is none; says why and what to do.
    """
    manifest = _bring_small(base.model.id, base.model.revision)
    named = {key: manifest[key] for key in ("id", "revision")}
    known = {"parameters": parameters(*named.values())} | named
    with whole(folder) as beside:
        beside.mkdir(parents=True)
        write_json(beside / "manifest.json", manifest)
    return known


def at_commit(model_id: str, commit: str) -> Path:
    """A folder of the Hub's cache with the manifest of a base, as `pin` writes it.

    What was brought once needs no network again. Raises UserError where it cannot be had.
    """
    folder = _cached(model_id) / "manifests" / commit
    if not (folder / "manifest.json").is_file():
        _bring_small(model_id, commit)
    return folder


def _bring_small(model_id: str, revision: str | None) -> dict[str, Any]:
    """Download all but the weights; returns the manifest, which is kept beside them."""
    with in_one_line("the files", model_id, revision, ADVICE):
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True)
        snapshot_download(model_id, revision=info.sha, allow_patterns=SMALL)
    files = {s.rfilename: s.size for s in info.siblings if s.rfilename.endswith("safetensors")}
    manifest = {"id": model_id, "revision": info.sha, "bytes": files}
    write_json(_cached(model_id) / "manifests" / info.sha / "manifest.json", manifest)
    return manifest


def _cached(model_id: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model_id, repo_type="model")


def bring_weights(manifest: Mapping[str, Any]) -> None:
    """Download the weights that a manifest names into the Hub's cache, where they are not there.

    Whole files that have come are kept; of one that was cut short by the end of its process, the
    Hub's client keeps nothing. It looks at lengths alone: what came is held against the Hub's
    checksums here, or by the next call where this one is killed before.

    Raises:
        UserError: as `pin` does, no safetensors among them, too little room on the disk, or files
            that arrived damaged.
    """
    model_id, revision, sizes = (manifest[key] for key in ("id", "revision", "bytes"))
    if not sizes:
        raise UserError(
            f"{model_id} at {revision} has no weights as safetensors, and others may run code when "
            "they are loaded; name a revision that has them"
        )
    folder = _cached(model_id)
    _remove_parts(folder / "blobs")
    missing = [n for n in sizes if not try_to_load_from_cache(model_id, n, revision=revision)]
    unchecked = folder / f".unchecked-{revision}"
    if not missing and not unchecked.exists():
        return
    with in_one_line("the weights", model_id, revision, ADVICE):
        _check_room(model_id, sum(sizes[name] or 0 for name in missing))
        folder.mkdir(parents=True, exist_ok=True)
        unchecked.touch()
        snapshot_download(model_id, revision=revision, allow_patterns=[*SMALL, *WEIGHTS])
        found = HfApi().verify_repo_checksums(model_id, revision=revision)
    if damaged := [found.verified_path / wrong["path"] for wrong in found.mismatches]:
        for path in damaged:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
        raise UserError(
            f"{model_id}: {damaged[0].name} arrived damaged (its checksum is not the Hub's) and is "
            "removed; start again: what came whole is kept"
        )
    unchecked.unlink(missing_ok=True)


def _remove_parts(blobs: Path) -> None:
    """Remove what killed downloads left of files: the client gives each download another name."""
    for part in blobs.glob("*.incomplete"):
        # Of another user's, or by now whole: there is nothing to mend.
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > SILENT:
                part.unlink()


def _check_room(model_id: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise UserError(
            f"{model_id}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the "
            f"disk of {cache}; free some, or name another place with HF_HOME"
        )


def parameters(model_id: str, revision: str | None) -> int:
    """The number of weights of a model, without loading one.

    Raises:
        UserError: it is no vision-language model that transformers knows.
    """
    try:
        config = AutoConfig.from_pretrained(model_id, revision=revision)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, StrictDataclassError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{model_id} at {revision} is no vision-language model that transformers knows: {why}; "
            "correct id or revision"
        ) from None
    return model.num_parameters()
