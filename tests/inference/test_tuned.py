"""A tuned model loaded in three lines, and `tools.predict` over files of every kind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import constants

from src.errors import UserError
from src.inference import batch
from src.inference.tuned import Tuned, load, read_recipe
from src.overrides import override
from src.training.run import save_adapter
from tests.conftest import LABELS, ROOT, Architecture

QUESTION = "What color is it?"
READERS = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False, na_values={"probability": ""}),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}


@pytest.fixture(scope="module")
def workspace(architecture: Architecture, params, faces, tmp_path_factory) -> Path:
    """A repository after training, with pictures of one's own beside it."""
    folder = tmp_path_factory.mktemp("workspace")
    recipe = architecture.recipe
    text = (ROOT / "params.yaml").read_text()
    if recipe.base == "blip2_flan_t5":
        text = text.replace("base: blip2_opt ", "base: blip2_flan_t5 ")
    (folder / "params.yaml").write_text(text)
    (folder / "models/base").mkdir(parents=True)
    (folder / "models/base" / recipe.base).symlink_to(architecture.base)
    labels = LABELS if recipe.task == "classify" else None
    adapter = folder / "models/adapters" / recipe.name
    adapter.mkdir(parents=True)
    data = params.data[recipe.data].model_copy(update={"image_size": 56})
    save_adapter(architecture.tuned(), recipe, labels, data, adapter)
    (folder / "mine/more").mkdir(parents=True)
    for i, face in enumerate(faces[:6]):
        face["image"].resize((96, 96)).save(
            folder / "mine" / ("more" if i > 3 else "") / f"{i}.png"
        )
    (folder / "mine/broken.jpg").write_bytes(b"no picture")
    (folder / "mine/notes.txt").write_text("no picture either")
    return folder


@pytest.fixture
def here(workspace, monkeypatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


def asked(architecture: Architecture) -> str | None:
    return QUESTION if architecture.recipe.task == "answer" else None


def predict(architecture, output: Path, pictures: str = "mine", **options) -> pd.DataFrame:
    settings = {"images": None, "question": asked(architecture), "batch_size": 4} | options
    inputs = batch.read_inputs(pictures, settings["images"], settings["question"])
    batch.run(inputs, output, architecture.recipe.name, None, None, settings["batch_size"])
    return READERS[output.suffix](output)


def test_three_lines_load_a_model_and_ask_it(here, architecture):
    model = load(architecture.recipe.name)
    answers = model.ask(["mine/0.png", "mine/broken.jpg"], asked(architecture))
    assert list(answers["error"]) == ["", "not a picture"]
    assert 0 < answers["probability"][0] <= 1
    if architecture.recipe.task == "classify":
        assert answers["answer"][0] in LABELS


def test_a_gpu_that_torch_cannot_use_is_said_before_anything_is_loaded(monkeypatch, old_driver):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="driver on your system is too old"):
        load("emotion_qwen2vl")


def test_a_batch_size_changes_no_answer(here, architecture, tmp_path):
    one = predict(architecture, tmp_path / "one.jsonl", batch_size=1)
    many = predict(architecture, tmp_path / "many.jsonl", batch_size=4)
    assert list(one["answer"]) == list(many["answer"])
    found, expected = (table["probability"].to_numpy() for table in (many, one))
    assert found == pytest.approx(expected, rel=1e-3, nan_ok=True)


def test_after_too_little_memory_no_batch_of_files_is_as_large_again(
    here, architecture, monkeypatch
):
    model, tried = load(architecture.recipe.name), []
    generate = model.model.generate

    def small(**inputs):
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate(**inputs)

    monkeypatch.setattr(model.model, "generate", small)
    files = [f"mine/{i}.png" for i in range(4)]
    assert model.ask(files, asked(architecture), 2)["answer"].notna().all()
    assert tried == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_folder_becomes_a_table_with_its_bad_files_in_it(here, architecture, ending, tmp_path):
    table = predict(architecture, tmp_path / f"out{ending}")
    assert list(table["image"]) == [
        *(f"mine/{name}" for name in ("0.png", "1.png", "2.png", "3.png")),
        *("mine/broken.jpg", "mine/more/4.png", "mine/more/5.png"),
    ]
    wrong = table["error"].fillna("") != ""
    assert list(table["image"][wrong]) == ["mine/broken.jpg"]
    assert table["answer"][~wrong].notna().all()
    assert not list(tmp_path.glob(".*"))


def test_what_of_a_folder_is_not_asked_about_is_told_and_links_are_followed(here, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.JFIF", "b.heic", "labels.txt", ".hidden.png"):
        (folder / name).touch()
    (folder / "linked").symlink_to(here / "mine/more")
    asked = [Path(row["image"]).name for row in batch.read_inputs(str(folder), None, None)]
    assert asked == ["a.JFIF", "b.heic", "4.png", "5.png"]
    told = capsys.readouterr().err
    assert "note: 1 files are not asked about" in told
    assert "labels.txt first" in told


def test_a_question_of_ones_own_is_doubted_by_a_model_that_knows_one(here, architecture):
    doubt = load(architecture.recipe.name).ask(["mine/0.png"], "What is the weather?")["doubt"][0]
    knows_one = architecture.recipe.task == "classify"
    assert ("asked something else than it was trained on" in doubt) == knows_one


class Once:
    """Tests that need one architecture only."""

    @pytest.fixture(autouse=True)
    def _one(self, architecture):
        if architecture.recipe.base != "blip2_opt":
            pytest.skip("once is enough")


class TestInputs(Once):
    def test_a_csv_brings_its_questions_and_its_references(self, here, architecture, tmp_path):
        rows = [
            ("0.png", "How many?", "two"),
            ("more\\4.png", "", "red"),
            ("gone.png", "Which?", ""),
            ("", "Where?", ""),
        ]
        table = pd.DataFrame(rows, columns=["image_name", "question", "answer"])
        table.to_csv(tmp_path / "asked.csv", index=False, encoding="utf-8-sig")
        found = predict(
            architecture, tmp_path / "out.jsonl", str(tmp_path / "asked.csv"), images=here / "mine"
        )
        assert ["How many?" in found["question"][0], QUESTION in found["question"][1]] == [True] * 2
        assert list(found["reference"]) == ["two", "red", "", ""]
        assert "cannot be read" in found["error"][2]
        assert found["error"][3] == "no file named"

    def test_a_row_without_a_question_is_one_error_and_not_the_end(
        self, here, architecture, tmp_path
    ):
        table = pd.DataFrame({"image_name": ["0.png", "1.png"], "question": ["", "Which?"]})
        table.to_csv(tmp_path / "asked.csv", index=False)
        found = predict(
            architecture,
            tmp_path / "out.jsonl",
            str(tmp_path / "asked.csv"),
            images=here / "mine",
            question=None,
        )
        assert list(found["error"]) == ["no question", ""]

    def test_a_table_of_webvid_names_videos_wherever_its_reader_looks_for_them(self, tmp_path):
        places = ("videos/007/1.MP4", "008/2.webm", "videos/3.avi", "4.mkv")
        for place in places:
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(b"")
        lines = [
            "VideoID,name,page_dir",
            "1,One,007",
            "2,Two,008",
            "3,Three,",
            "4,Four,",
            "5,Five,",
        ]
        (tmp_path / "table.csv").write_text("\n".join(lines))
        found = batch.read_inputs(str(tmp_path / "table.csv"), None, None)
        expected = [*places, "videos/5.mp4"]
        assert [row["image"] for row in found] == [str(tmp_path / place) for place in expected]
        assert [row["reference"] for row in found] == ["One", "Two", "Three", "Four", "Five"]
        (tmp_path / "table.csv").write_text("videoid,name\n4.mkv,Four\n6.webm,Six")
        found = batch.read_inputs(str(tmp_path / "table.csv"), None, None)
        expected = [tmp_path / "4.mkv", tmp_path / "videos/6.webm"]
        assert [row["image"] for row in found] == list(map(str, expected))

    def test_a_csv_is_read_as_that_of_a_training(self, tmp_path):
        file = tmp_path / "asked.csv"
        lines = [
            "Image_Name, question ,answer",
            'a.png, "Red, or blue?",red,',
            "",
            "b.png,Cafe\u0301?",
        ]
        file.write_text("\n".join(lines), encoding="utf-8")
        found = batch.read_inputs(str(file), None, "Cafe\u0301?")
        assert [(Path(row["image"]).name, row["question"]) for row in found] == [
            ("a.png", "Red, or blue?"),
            ("b.png", "Caf\u00e9?"),
        ]
        file.write_text("\n".join([*lines, "c.png,Red, or blue?,red,or blue"]), encoding="utf-8")
        with pytest.raises(
            UserError, match=r"asked\.csv: row 3: more cells than columns: put quot"
        ):
            batch.read_inputs(str(file), None, None)
        assert batch.read_inputs(str(file), None, None, limit=2)

    @pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
    def test_a_name_that_is_no_utf8_is_one_error_and_not_the_end(
        self, here, architecture, ending, tmp_path
    ):
        folder = tmp_path / "odd"
        folder.mkdir()
        for name in ("0.png", "\udcff.png"):
            shutil.copy("mine/0.png", folder / name)
        table = predict(architecture, tmp_path / f"out{ending}", str(folder))
        assert list(table["image"]) == [f"{folder}/0.png", f"{folder}/\ufffd.png"]
        assert list(table["error"].fillna("")) == ["", "the file's name is no UTF-8"]

    def test_a_glob_takes_what_it_names(self, here):
        found = batch.read_inputs("mine/**/[45].png", None, QUESTION)
        assert [row["image"] for row in found] == ["mine/more/4.png", "mine/more/5.png"]

    @pytest.mark.parametrize(
        ("pictures", "says"),
        [
            ("nothing", "no pictures or videos are there"),
            (
                "bad.csv",
                r"no column image_name or video_name or videoid; its columns are file, ques",
            ),
            ("params.yaml", r"no picture, video or CSV; name a \.csv, a folder, a glob, .* \.png,"),
        ],
    )
    def test_what_cannot_be_asked_is_one_line(self, here, pictures, says):
        Path("bad.csv").write_text("file,question\na.png,What?\n")
        with pytest.raises(UserError, match=says):
            batch.read_inputs(pictures, None, QUESTION)

    def test_a_recipe_of_questions_needs_one(self, here, architecture):
        with pytest.raises(UserError, match="needs a question about each file"):
            load(architecture.recipe.name).ask(["mine/0.png"])

    def test_an_output_is_never_written_over(self, here, architecture, tmp_path):
        (tmp_path / "out.csv").write_text("mine")
        with pytest.raises(UserError, match="is there already"):
            predict(architecture, tmp_path / "out.csv")
        with pytest.raises(UserError, match="must end in"):
            predict(architecture, tmp_path / "out.txt")

    def test_an_output_that_cannot_be_written_is_one_line(self, here, architecture, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written: File exists"):
            predict(architecture, tmp_path / "file/out.csv")

    @pytest.mark.parametrize("damage", ["{", '["labels"]', '{"labels": null}'])
    def test_a_damaged_recipe_beside_an_adapter_is_one_line(
        self, here, architecture, tmp_path, damage
    ):
        adapter = tmp_path / "adapter"
        shutil.copytree(here / "models/adapters" / architecture.recipe.name, adapter)
        (adapter / "recipe.json").write_text(damage)
        with pytest.raises(UserError, match=r"its recipe\.json is damaged"):
            load(architecture.recipe.name, str(adapter))

    @pytest.mark.parametrize(
        ("generation", "says"),
        [
            ({"top_p": 0.9}, "top_p: at temperature 0 nothing is sampled; set temperature above 0"),
            ({"num_beams": 3, "temperature": 0.7}, "temperature: one of num_beams 1 and"),
            ({"num_beams": 0}, "num_beams: input should be greater than or equal to 1, not 0"),
        ],
    )
    def test_a_way_of_writing_that_cannot_be_is_one_line(
        self, here, architecture, generation, says
    ):
        with pytest.raises(UserError, match=f"^{says}"):
            load(architecture.recipe.name, generation=generation)

    def test_a_base_of_the_hub_is_asked_for_at_the_commit_of_the_adapter(
        self, here, architecture, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        adapter = tmp_path / "adapter"
        shutil.copytree(here / "models/adapters" / architecture.recipe.name, adapter)
        file = adapter / "adapter_config.json"
        named = {"base_model_name_or_path": "someone/base", "revision": "a" * 40}
        file.write_text(json.dumps(json.loads(file.read_text()) | named))
        with pytest.raises(UserError, match=f"the files of someone/base at {'a' * 40}: "):
            load(architecture.recipe.name, str(adapter), "someone/base")

    def test_an_adapter_of_another_family_is_an_error(self, here, architecture):
        adapter = f"models/adapters/{architecture.recipe.name}"
        with pytest.raises(UserError, match="was trained on a blip2, and the recipe emotion_llava"):
            load("emotion_llava", adapter)


class TestResuming(Once):
    def command(self, here: Path, output: Path, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "tools.predict", "mine", "--recipe", "vqa_blip2"),
            *("--output", str(output), "--question", QUESTION, *more),
        ]

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def test_a_run_that_was_killed_goes_on_where_it_was(
        self, here, architecture, tmp_path, monkeypatch
    ):
        whole = predict(architecture, tmp_path / "whole.jsonl")
        kept = tmp_path / ".out.jsonl.answers"
        monkeypatch.setattr(batch, "BLOCK", 4)
        asked_again = []

        ask = Tuned.ask

        def killed(self, rows, *rest):
            asked_again.append(len(rows))
            if len(asked_again) == 2:
                raise KeyboardInterrupt
            return ask(self, rows, *rest)

        monkeypatch.setattr(Tuned, "ask", killed)

        with pytest.raises(KeyboardInterrupt):
            predict(architecture, tmp_path / "out.jsonl")
        with kept.open("a") as file:
            file.write('{"image": "mine/more/4.png", "answer": "caf\u00e9')
        with kept.open("rb+") as file:
            file.truncate(kept.stat().st_size - 1)  # half of the last character
        resumed = predict(architecture, tmp_path / "out.jsonl")
        assert asked_again == [4, 3, 3]
        pd.testing.assert_frame_equal(resumed, whole)
        assert not kept.exists()

    def test_answers_of_other_pictures_are_not_gone_on_with(self, here, architecture, tmp_path):
        kept = tmp_path / ".out.csv.answers"
        kept.write_text(json.dumps({"run": "another"}) + "\n{}\n")
        with pytest.raises(UserError, match="holds 1 answers to other files or questions"):
            predict(architecture, tmp_path / "out.csv")
        assert kept.exists()

    def test_a_run_that_answered_nothing_stands_in_no_way(self, here, architecture, tmp_path):
        (tmp_path / ".out.csv.answers").write_text(json.dumps({"run": "another"}) + "\n")
        assert len(predict(architecture, tmp_path / "out.csv")) == 7

    def test_other_settings_are_another_run(self, here, architecture, tmp_path, monkeypatch):
        kept = tmp_path / ".out.jsonl.answers"
        ask = Tuned.ask

        def killed(self, rows, *rest):
            if kept.read_text().count("\n") > 1:
                raise KeyboardInterrupt
            return ask(self, rows, *rest)

        monkeypatch.setattr(batch, "BLOCK", 4)
        monkeypatch.setattr(Tuned, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(architecture, tmp_path / "out.jsonl")
        monkeypatch.setattr(Tuned, "ask", ask)
        text = (here / "params.yaml").read_text()
        try:
            override(here / "params.yaml", {"recipes.vqa_blip2.generation.max_new_tokens": 5})
            with pytest.raises(UserError, match="holds 4 answers to other files"):
                predict(architecture, tmp_path / "out.jsonl")
        finally:
            (here / "params.yaml").write_text(text)

    def test_a_table_that_cannot_be_written_leaves_the_answers(
        self, here, architecture, tmp_path, monkeypatch
    ):
        def full(frame, path):
            path.write_text("half")
            raise OSError(28, "No space left on device")

        monkeypatch.setitem(batch.WRITERS, ".jsonl", full)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            predict(architecture, tmp_path / "out.jsonl")
        monkeypatch.undo()
        monkeypatch.chdir(here)
        monkeypatch.setattr(Tuned, "ask", None)
        assert len(predict(architecture, tmp_path / "out.jsonl")) == 7

    def test_a_sampled_answer_hangs_on_its_file_and_not_on_its_place(
        self, here, architecture, tmp_path
    ):
        hot = load(architecture.recipe.name, generation={"temperature": 20.0})
        first = hot.ask(["mine/0.png", "mine/1.png"], QUESTION)["answer"]
        again = hot.ask(["mine/1.png", "mine/0.png", "mine/0.png"], QUESTION)["answer"]
        assert list(again) == [first[1], first[0], first[0]]
        shutil.copy("mine/0.png", tmp_path / "copy.png")
        assert hot.ask([tmp_path / "copy.png"], QUESTION)["answer"][0] != first[0]

    def test_the_command_says_what_it_did(self, here, tmp_path):
        done = subprocess.run(
            self.command(here, tmp_path / "out.csv"),
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "6 answered, 0 doubtful, 1 errors" in done.stdout
        assert "predict: 100%" in done.stderr

    def test_a_mistake_is_one_line(self, here, tmp_path):
        command = self.command(here, tmp_path / "out.csv", "--adapter", "nowhere")
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 1
        assert "error: nowhere: no adapter can be loaded from there" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_silent_hub_is_not_taken_for_one_where_nothing_stands_beside_an_adapter(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="someone/adapter: the Hub does not say what it was"):
        read_recipe("someone/adapter")


def test_without_a_network_the_cache_says_what_stands_beside_an_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert read_recipe("someone/adapter") is None
    cached = tmp_path / "models--someone--adapter"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="does not say"):
        read_recipe("someone/adapter")
    (cached / ".no_exist" / ("0" * 40)).mkdir(parents=True)
    (cached / ".no_exist" / ("0" * 40) / "recipe.json").write_text("")
    assert read_recipe("someone/adapter") is None
    (snapshot / "recipe.json").write_text('{"labels": null}')
    assert read_recipe("someone/adapter") == {"labels": None}
