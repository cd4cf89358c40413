"""Features that are kept are those that the tower would compute, and so is all that follows."""

import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import torch

import stages.encode
from src import models, tasks
from src.errors import UserError
from src.features import ROW, ROWS, Features, key, opened, shown, write
from src.files import write_json
from src.inference import encode
from src.inference.generate import generate, to_device
from src.records import MEDIA, Record, SplitWriter
from src.training import losses, trainer
from src.training.collator import foretell
from src.training.load import collator_of
from tests.conftest import LABELS, ROOT, png, score

QUALITY = {"width": 56, "height": 56, "brightness": 0.5, "contrast": 0.2, "sharpness": 0.3}


def write_splits(folder: Path, shows: list[tuple[bytes, ...]]) -> None:
    """Of twelve: six of training, three each of validation and test."""
    folder.mkdir(parents=True)
    for split, part in (("train", slice(6)), ("validation", slice(6, 9)), ("test", slice(9, 12))):
        with SplitWriter(folder / f"{split}.parquet") as writer:
            for i, frames in list(enumerate(shows))[part]:
                writer.write(Record(f"{i}.png", frames, f"g{i}", faces=1, **QUALITY))


def encoded(folder: Path, base: Path, recipe, shows: list[tuple[bytes, ...]]) -> Features:
    write_splits(folder / "data/prepared" / recipe.data, shows)
    (folder / "models/base").mkdir(parents=True)
    (folder / "models/base" / recipe.base).symlink_to(base)
    place = folder / "data/features" / recipe.name
    with chdir(folder):
        encode.run(recipe, place)
    return opened(place)


@pytest.fixture(scope="module")
def keeping(architecture):
    if not hasattr(architecture.family, "features"):
        pytest.skip("its features are not kept")
    return architecture


@pytest.fixture(scope="module")
def store(keeping, faces, tmp_path_factory) -> Features:
    recipe = keeping.recipe.model_copy(update={"vision_features": "cached"})
    shows = [(png(face["image"]),) for face in faces]
    return encoded(tmp_path_factory.mktemp("kept"), keeping.base, recipe, shows)


@pytest.fixture(scope="module")
def video_store(base, params, faces, tmp_path_factory) -> Features:
    frames = [png(face["image"]) for face in faces]
    clips = [tuple(frames[i:] + frames[:i])[:4] for i in range(12)]
    folder = tmp_path_factory.mktemp("videos")
    return encoded(folder, base, params.recipes["video_qwen2vl"], clips)


def by_row(records: list[dict]) -> list[dict]:
    """The records with the number of a row in the place of picture or video."""
    rows = [{k: v for k, v in r.items() if k not in MEDIA} for r in records]
    return [row | {ROW: i} for i, row in enumerate(rows)]


class TestBatches:
    def test_prompts_of_kept_features_are_the_processors_own(
        self, keeping, store, faces, questions
    ):
        live = keeping.collator(questions, answers=True)
        kept = collator_of(keeping.base, keeping.recipe, questions, True, features=store)
        expected, found = live(faces[:6]), kept(by_row(faces[:6]))
        assert expected.keys() == found.keys()
        assert len(set(found["attention_mask"].sum(1).tolist())) > 1, "lengths differ"
        # BLIP-2's processor pads between picture and text, which changes nothing: see what is read.
        real = expected["attention_mask"].bool(), found["attention_mask"].bool()
        for name in expected.keys() - {"pixel_values"}:
            theirs, own = expected[name], found[name]
            assert (theirs.dtype, theirs.shape) == (own.dtype, own.shape), name
            if theirs.shape == real[0].shape:
                theirs, own = theirs[real[0]], own[real[1]]
            assert torch.equal(theirs, own), name

    def test_those_of_videos_are_too(self, base, params, video_store, faces):
        recipe = params.recipes["video_qwen2vl"]
        task = tasks.load(recipe, None)
        clips = [
            face | {"video": [f["image"] for f in faces[i:] + faces[:i]][:4], "answers": ["still"]}
            for i, face in enumerate(faces[:3])
        ]
        expected = collator_of(base, recipe, task, True)(clips)
        found = collator_of(base, recipe, task, True, features=video_store)(by_row(clips))
        assert expected.keys() == found.keys()
        for name in expected.keys() - {"pixel_values_videos"}:
            assert torch.equal(expected[name], found[name]), name
        model = models.load_base(base, recipe)
        alone = models.load_base(base, recipe, vision=False)
        with torch.inference_mode():
            logits = model(**{k: v for k, v in expected.items() if k != "labels"}).logits
            same = alone(**{k: v for k, v in found.items() if k != "labels"}).logits
        torch.testing.assert_close(logits, same, rtol=0, atol=1e-5)


class TestModels:
    @pytest.fixture(scope="class")
    def pair(self, keeping):
        """A tuned model with its tower, and the same without."""
        whole = keeping.tuned()
        torch.manual_seed(0)
        base = models.load_base(keeping.base, keeping.recipe, vision=False)
        alone = models.add_lora(base, keeping.recipe.lora)
        trained = {k: v for k, v in whole.state_dict().items() if "lora_" in k}
        alone.load_state_dict(trained, strict=False)
        return whole.eval(), alone.eval()

    @pytest.fixture(scope="class")
    def collators(self, keeping, store, questions):
        kept = collator_of(keeping.base, keeping.recipe, questions, True, features=store)
        return keeping.collator(questions, answers=True), kept

    def test_the_tower_is_not_loaded(self, pair):
        whole, alone = (
            sum(p.numel() for n, p in model.named_parameters() if "language_model" not in n)
            for model in pair
        )
        left = {n for n, p in pair[1].named_parameters() if "vision" in n or "visual" in n}
        assert not left
        assert alone < whole

    def test_features_are_made_without_the_layers_that_read_them(self, keeping, questions, faces):
        recipe = keeping.recipe
        whole, tower = (
            models.load_base(keeping.base, recipe, language=language) for language in (True, False)
        )
        inputs = to_device(keeping.collator(questions, answers=False).prompts(faces[:6]), whole)
        expected, found = (keeping.family.features(model, inputs) for model in (whole, tower))
        assert torch.equal(expected, found)
        numbered = re.compile(r"language_model\..*\.\d+\.")
        counts = [
            sum(numbered.search(name) is not None for name, _ in model.named_parameters())
            for model in (whole, tower)
        ]
        assert counts[0] > counts[1] == 0
        assert tower.dtype == whole.dtype

    def test_losses_are_those_of_the_live_tower_to_the_last_bit_and_so_about_are_gradients(
        self, pair, collators, faces
    ):
        """In a batch of the pictures that `encode` read together: others round otherwise."""
        said = [
            foretell(model, to_device(collator(records), model))
            for model, collator, records in zip(
                pair, collators, (faces, by_row(faces)), strict=True
            )
        ]
        means = [losses.answer_loss(each, None) for each in said]
        assert means[0].item() == means[1].item()
        for model, loss in zip(pair, means, strict=True):
            model.zero_grad()
            loss.backward()
        found = {n: p.grad for n, p in pair[1].named_parameters() if p.grad is not None}
        assert found
        for name, parameter in pair[0].named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_what_is_written_is_the_same(self, pair, collators, keeping, faces, beams):
        generation = keeping.recipe.generation.model_copy(
            update={"num_beams": beams, "max_new_tokens": 6}
        )
        live, kept = (
            generate(model, collator, records, generation, 5)
            for model, collator, records in zip(
                pair, collators, (faces, by_row(faces)), strict=True
            )
        )
        assert live.texts == kept.texts
        assert live.likelihoods == pytest.approx(kept.likelihoods, abs=1e-4)

    def test_scores_of_labels_are_the_same(self, pair, collators, faces):
        live, kept = (
            score(model, collator, records, LABELS, 5)
            for model, collator, records in zip(
                pair, collators, (faces, by_row(faces)), strict=True
            )
        )
        assert live == pytest.approx(kept, abs=1e-4)


def test_training_on_kept_features_leaves_the_same_adapter(
    keeping, store, faces, questions, tmp_path
):
    from datasets import Dataset, Image

    settings = keeping.recipe.train.model_copy(
        update={"epochs": 2.0, "batch_size": 3, "evaluations": 2, "answered_each_epoch": 0}
    )
    # Dropout draws by position, and BLIP-2's processor pads a decoder's prompts elsewhere.
    elsewhere = keeping.recipe.family == "blip2" and not keeping.encoder_decoder
    lora = keeping.recipe.lora.model_copy(update={"dropout": 0.0 if elsewhere else 0.1})
    records = [{k: face[k] for k in ("id", "image", "label")} for face in faces]
    pictures = Dataset.from_list(records).cast_column("image", Image())
    rows = pictures.remove_columns("image").add_column(ROW, list(range(12)))
    weights, logs = [], []
    for features, data in ((None, pictures), (store, rows)):
        torch.manual_seed(1)
        base = models.load_base(keeping.base, keeping.recipe, vision=features is None)
        torch.manual_seed(2)
        model = models.add_lora(base, lora)
        collator = collator_of(keeping.base, keeping.recipe, questions, True, features=features)
        folder = tmp_path / str(len(weights))
        logs.append(trainer.train(model, collator, data, data, settings, folder, 3))
        weights.append({n: p for n, p in model.named_parameters() if p.requires_grad})
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-5)


class TestStore:
    def test_equal_pictures_are_kept_once_and_the_same_data_give_the_same_bytes(
        self, base, recipe, faces, tmp_path
    ):
        shows = [(png(faces[i // 2]["image"]),) for i in range(12)]
        stores = [encoded(tmp_path / n, base, recipe, shows) for n in "ab"]
        assert stores[0].splits == {
            "train": [0, 0, 1, 1, 2, 2],
            "validation": [3, 3, 4],
            "test": [4, 5, 5],
        }
        assert sum(len(block) for block in stores[0].blocks) == 6
        for name in ("features.arrow", "features.json"):
            found = [tmp_path / n / "data/features" / recipe.name / name for n in "ab"]
            assert found[0].read_bytes() == found[1].read_bytes()

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_they_are_kept_as_the_model_computes_them(
        self, base, recipe, faces, tmp_path, precision
    ):
        recipe = recipe.model_copy(update={"precision": precision})
        shows = [(png(face["image"]),) for face in faces]
        store = encoded(tmp_path, base, recipe, shows)
        assert store.dtype == models.DTYPES[precision]
        assert store.of([3, 3, 0]).shape == (3, *store.shape)
        assert torch.equal(*store.of([3, 3]))
        split = shown(tmp_path / "data/prepared" / recipe.data / "test.parquet", store)
        assert split[ROW] == [9, 10, 11]
        assert not {"image", "video"} & set(split.column_names)
        copied = sum(Path(file["filename"]).stat().st_size for file in split.cache_files)
        assert copied < sum(len(shows[i][0]) for i in (9, 10, 11)), "pictures are not copied"

    def test_a_recipe_that_reads_pixels_keeps_nothing(self, params, tmp_path, monkeypatch):
        name = next(n for n, r in params.recipes.items() if r.vision_features == "live")
        shutil.copy(ROOT / "params.yaml", tmp_path)
        monkeypatch.chdir(tmp_path)
        stages.encode.main(name)
        assert opened(tmp_path / "data/features" / name) is None

    def test_a_family_that_gains_nothing_is_refused(self, params, tmp_path):
        recipe = params.recipes["emotion_llava"].model_copy(update={"vision_features": "cached"})
        with pytest.raises(UserError, match=r"emotion_llava\.vision_features: cached: .* set live"):
            encode.run(recipe, tmp_path / "x")

    def test_what_is_not_there_names_the_stage_that_makes_it(self, tmp_path):
        with pytest.raises(UserError, match="dvc repro encode@some"):
            opened(tmp_path / "some")

    @pytest.mark.parametrize("part", ["precision", "base", "train split"])
    def test_features_of_something_else_are_refused(
        self, base, recipe, faces, tmp_path, monkeypatch, part
    ):
        shows = [(png(face["image"]),) for face in faces]
        encoded(tmp_path, base, recipe, shows)
        monkeypatch.chdir(tmp_path)
        place = Path("data/features") / recipe.name
        assert opened(place, recipe) is not None
        if part == "precision":
            recipe = recipe.model_copy(update={"precision": "bf16"})
        elif part == "base":
            Path("models/base", recipe.base).unlink()
            other = shutil.copytree(base, Path("models/base", recipe.base))
            write_json(other / "checkpoint/preprocessor_config.json", {"image_mean": [0.4] * 3})
        else:
            prepared = Path("data/prepared") / recipe.data
            shutil.rmtree(prepared)
            write_splits(prepared, [shows[1], shows[0], *shows[2:]])
        told = f"holds features of another {part}; .* `dvc repro encode@emotion_qwen2vl`"
        with pytest.raises(UserError, match=told):
            opened(place, recipe)

    def test_without_data_the_key_of_features_is_one_line(self, recipe, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"train\.parquet: not there; make it with `dvc repro "):
            key(recipe)

    def test_a_damaged_store_is_one_line(self, tmp_path):
        place = tmp_path / "some"
        known = {"medium": "image", "frames": None, "size": 56, "splits": {}}
        write(place, [torch.ones(3, 4, 8)], known)
        whole = (place / ROWS).read_bytes()
        for left in (whole[: len(whole) // 2], b""):
            (place / ROWS).write_bytes(left)
            with pytest.raises(UserError, match=r"features\.arrow: cannot be read.* encode@some"):
                opened(place)
        (place / ROWS).unlink()
        with pytest.raises(UserError, match=r"features\.arrow: cannot be read.* encode@some"):
            opened(place)

    def test_a_disk_without_room_ends_before_anything_is_written(
        self, base, recipe, faces, tmp_path, monkeypatch
    ):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match=r"needs .* set recipes\.emotion_qwen2vl"):
            encoded(tmp_path, base, recipe, [(png(face["image"]),) for face in faces])
        assert not (tmp_path / "data/features/emotion_qwen2vl").exists()
