"""LLaMA-Factory in an environment of its own, which `python -m benchmarks.llamafactory.run` makes.

It wants an older transformers than this project, so that nothing of it is imported here: it is
given a checkpoint, a folder of pictures and a file of settings, and leaves an adapter.
"""

import json
import resource
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks.bases import QUESTION
from src.files import read_json, write_json

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".venv"
# torchaudio, which it imports, refuses a torch that was built for another CUDA than itself.
PACKAGES = [
    "llamafactory==0.9.5",
    "bitsandbytes==0.50.2",
    "torch==2.11.0",
    "torchaudio==2.11.0",
    "torchvision==0.26.0",
]


def install() -> None:
    """Make the environment; 7 GB."""
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    subprocess.run([ENVIRONMENT / "bin/pip", "install", *PACKAGES], check=True)


def train(
    checkpoint: Path,
    records: list[dict[str, Any]],
    epochs: int,
    precision: str,
    checkpointing: bool,
    folder: Path,
) -> dict[str, float]:
    """Train an adapter, which is left in `folder`/adapter.

    Returns:
        `seconds` of its trainer alone, without the tokenizing that it does before, and the `peak`
        of resident memory in MiB.
    """
    _write_data(records, folder)
    asked = {
        "model_name_or_path": checkpoint,
        "dataset_dir": folder,
        "output_dir": folder / "adapter",
        "num_train_epochs": epochs,
        "bf16": precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "disable_gradient_checkpointing": not checkpointing,
    }
    command = [ENVIRONMENT / "bin/llamafactory-cli", "train", HERE / "config.yaml"]
    words = [f"{key}={value}" for key, value in asked.items()]
    subprocess.run([*command, *words], check=True, stdout=sys.stderr)
    seconds = read_json(folder / "adapter/train_results.json")["train_runtime"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": seconds, "peak": peak}


def _write_data(records: list[dict[str, Any]], folder: Path) -> None:
    rows = []
    for record in records:
        record["image"].save(folder / f"{record['id']}.png")
        ask = {"role": "user", "content": f"<image>{QUESTION}"}
        said = {"role": "assistant", "content": record["label"]}
        rows.append({"messages": [ask, said], "images": [str(folder / f"{record['id']}.png")]})
    (folder / "faces.json").write_text(json.dumps(rows), encoding="utf-8")
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    }
    columns = {"messages": "messages", "images": "images"}
    layout = {"file_name": "faces.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    write_json(folder / "dataset_info.json", {"faces": layout})


if __name__ == "__main__":
    typer.run(install)
