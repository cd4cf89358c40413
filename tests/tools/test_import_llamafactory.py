import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from src import config
from src.schema import Params
from tools.import_llamafactory import main

ROOT = Path(__file__).parents[2]
VIDEO = """\
### model
model_name_or_path: Qwen/Qwen2-VL-7B-Instruct
video_max_pixels: 50176
video_maxlen: 8
quantization_bit: 4
quantization_method: bnb
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 64
lora_alpha: 128
lora_dropout: 0.05
lora_target: q_proj,v_proj
freeze_vision_tower: true

### dataset
dataset: webvid_demo
template: qwen2_vl
cutoff_len: 1024
max_samples: 1000
preprocessing_num_workers: 16

### output
output_dir: saves/qwen2_vl-7b/lora/sft
logging_steps: 10
plot_loss: true

### train
per_device_train_batch_size: 4
gradient_accumulation_steps: 4
learning_rate: 2e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
resume_from_checkpoint: null

### eval
val_size: 0.2
num_beams: 3
length_penalty: 1.2
"""
LEAST = {"model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct", "dataset": "demo"}


@dataclass
class Result:
    failure: str
    text: str
    notes: dict[str, str]  # the reason of each key
    errors: str
    params: Params | None  # with the blocks in their places, at full scale


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def imported(workspace: Path, monkeypatch, capsys):
    monkeypatch.chdir(workspace)

    def imported(file: str | dict[str, Any], name: str | None = None) -> Result:
        path = Path("my qlora.yaml")
        path.write_text(file if isinstance(file, str) else json.dumps(file))
        failure = ""
        try:
            main(path, name)
        except SystemExit as error:
            failure = str(error)
        text, errors = capsys.readouterr()
        notes = dict(line.split(": ", 1) for line in errors.splitlines())
        params = None if failure else pasted(workspace, text)
        return Result(failure, text, notes, errors, params)

    return imported


def pasted(workspace: Path, text: str) -> Params:
    """The parameters with each printed block put below the key of its name, as one does by hand."""
    params = (ROOT / "params.yaml").read_text()
    for section, block in re.findall(r"^(\w+):\n((?:  .*\n)+)", text, re.M):
        assert len(re.findall(rf"^{section}:\n", params, re.M)) == 1
        params = re.sub(rf"^{section}:\n", lambda found, b=block: found[0] + b, params, flags=re.M)
    path = workspace / "pasted.yaml"
    path.write_text(params.replace("scale: tiny", "scale: full", 1))
    return config.load(path)


def test_a_training_file_of_videos_becomes_a_recipe(imported):
    result = imported(VIDEO, "mine")
    recipe, data = result.params.recipes["mine"], result.params.data["webvid_demo"]
    assert recipe.base == "qwen2_vl_clips"
    assert (recipe.family, recipe.task, recipe.precision) == ("qwen2_vl", "describe", "bf16")
    assert recipe.lora.model_dump() == {
        "r": 64,
        "alpha": 128,
        "dropout": 0.05,
        "targets": ["q_proj", "v_proj"],
    }
    assert recipe.quantization.model_dump() == {"bits": 4, "type": "nf4", "double": True}
    given = {
        "epochs": 3,
        "batch_size": 4,
        "gradient_accumulation": 4,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup_ratio": 0.1,
        "max_length": 1024,
    }
    by_default = {
        "max_steps": None,
        "warmup_steps": 0,
        "weight_decay": 0,
        "max_grad_norm": 1,
        "optimizer": "adamw_torch",
        "gradient_checkpointing": True,
        "seed": 42,
    }
    assert recipe.train.model_dump().items() >= (given | by_default).items()
    assert (recipe.generation.num_beams, recipe.generation.temperature) == (3, 0)
    assert recipe.generation.length_penalty == 1.2
    assert (data.reader, data.frames, data.image_size) == ("sharegpt", 8, 224)
    assert (data.validation, data.limit, data.source.folder) == (0.2, 1000, "data")
    assert data.near_duplicate_distance == 12


def test_what_cannot_be_said_is_named_once_with_its_reason(imported):
    result = imported(VIDEO + "use_dora: true\nflash_attn: fa2\npacking: false\n")
    assert result.notes == {
        "dataset": "webvid_demo: data/dataset_info.json cannot be read here; each of its lists with"
        " media is read",
        "trust_remote_code": "True: code from a model's repository is never run",
        "preprocessing_num_workers": "16: prepare uses every core",
        "output_dir": "saves/qwen2_vl-7b/lora/sft: the adapter goes to models/adapters/<recipe>",
        "logging_steps": "10: the loss of each step is in metrics/<recipe>/loss.csv",
        "use_dora": "True: there is no such setting here",
        "flash_attn": "fa2: there is no such setting here",
    }
    assert len(result.errors.splitlines()) == len(result.notes)


def test_what_the_file_does_not_say_is_llama_factorys_default(imported):
    result = imported(LEAST)
    recipe = result.params.recipes["my_qlora"]
    assert recipe.lora.model_dump() == {
        "r": 8,
        "alpha": 16,
        "dropout": 0.0,
        "targets": ["all-linear"],
    }
    assert (recipe.quantization.bits, recipe.precision) == (16, "fp32")
    train = recipe.train
    assert (train.batch_size, train.learning_rate, train.schedule) == (8, 5e-5, "linear")
    assert result.params.data["demo"].frames is None
    assert "learning_rate: 0.00005  # learning_rate, by LLaMA-Factory's default" in result.text
    assert set(result.notes) == {"dataset", "image_max_pixels"}


def recipe_of(result: Result):
    return result.params.recipes["my_qlora"]


def test_names_that_are_taken_do_not_clash(imported):
    assert "webvid_imported" in imported(LEAST | {"dataset": "webvid"}).params.data
    clash = imported(LEAST, "vqa_blip2")
    assert "recipes.vqa_blip2: is there already; give another --name" in clash.failure


def test_without_a_data_set_one_that_is_there_stands_in(imported):
    result = imported({"model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct", "val_size": 0.1})
    assert recipe_of(result).data == "webvid"
    assert result.notes == {
        "dataset": "not set: data.webvid stands in its place",
        "val_size": "0.1: it belongs to the data: validation",
    }


def test_a_base_that_is_not_there_comes_with_the_recipe(imported):
    result = imported(LEAST | {"model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"})
    assert recipe_of(result).base == "qwen2_vl_2b_instruct"
    assert result.params.base["qwen2_vl_2b_instruct"].model.id == "Qwen/Qwen2-VL-2B-Instruct"


def test_a_recipe_of_pictures_is_taken_too(imported):
    given = {"cutoff_len": 64, "default_system": 'Say "no": {x} # y'}
    result = imported(LEAST | given)
    assert recipe_of(result).prompt.system == given["default_system"]
    assert result.params.data["demo"].frames is None
    assert result.notes["cutoff_len"] == "64: 224 pixels a side are 64 tokens; raise max_length"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("model_name_or_path: [", "my qlora.yaml: is no YAML"),
        ("- a list", "is no training file of LLaMA-Factory: no model_name_or_path"),
        ("scale: tiny\n", "is no training file of LLaMA-Factory: no model_name_or_path"),
        (LEAST | {"finetuning_type": "full"}, "finetuning_type: full: only lora is trained here"),
        (LEAST | {"finetuning_type": "freeze"}, "finetuning_type: freeze: only lora is trained"),
        (LEAST | {"stage": "dpo"}, "stage: dpo: only sft is trained here"),
        (LEAST | {"lora_rank": "many"}, "lora_rank: must be a whole number, not 'many'"),
        (LEAST | {"lora_dropout": 1.0}, "recipes.my_qlora.lora.dropout: "),
        (
            LEAST | {"model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"},
            "is no model of the Hub of a family that is here (qwen2_vl, llava, blip2)",
        ),
        (LEAST | {"model_name_or_path": "/models/qwen2-vl-mine"}, "is no model of the Hub"),
    ],
)
def test_a_file_of_which_no_recipe_can_be_made_is_one_line(imported, file, says):
    result = imported(file)
    assert (result.text, result.errors) == ("", "")
    assert "\n" not in result.failure
    assert result.failure.startswith("error: my qlora.yaml: ")
    assert says in result.failure


def run(workspace: Path, file: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.import_llamafactory", file]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True)


def test_the_command_keeps_recipe_and_notes_apart(workspace):
    (workspace / "video.yaml").write_text(VIDEO)
    done = run(workspace, "video.yaml")
    assert done.returncode == 0
    assert "video" in pasted(workspace, done.stdout).recipes
    assert "preprocessing_num_workers: 16: prepare uses every core\n" in done.stderr


def test_a_file_that_is_not_there_is_one_line(workspace):
    done = run(workspace, "none.yaml")
    assert done.returncode == 1
    assert done.stderr == "error: none.yaml: cannot be read: No such file or directory\n"


def test_a_recipe_is_valid_yaml_of_its_own(imported):
    sections = YAML(typ="safe", pure=True).load(imported(VIDEO).text)
    assert set(sections) == {"data", "recipes"}
