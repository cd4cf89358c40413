"""What is known of models and data before they are here."""

import pytest

from src import config
from src.errors import UserError
from src.files import write_json
from src.planning import published
from src.schema import HubBase, Source
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


def test_every_base_has_its_configuration_and_its_size_here(full, tmp_path):
    for base in full.base.values():
        published.configuration(base, tmp_path)
        assert published.weight_bytes(base, tmp_path, 10)[0] in (20, 40)


def test_a_manifest_of_the_same_model_comes_first(full, tmp_path):
    base = full.base["llava"]
    files = {"model-00001-of-00002.safetensors": 70, "model-00002-of-00002.safetensors": 30}
    manifest = {"id": base.model.id, "revision": base.model.revision, "bytes": files}
    write_json(tmp_path / "manifest.json", manifest)
    assert published.weight_bytes(base, tmp_path, 10) == (100, "by its manifest; 0 of 2 files here")
    # What a tiny build left says nothing of the published model.
    write_json(tmp_path / "manifest.json", {"id": "models/base/llava/checkpoint", "revision": None})
    assert published.weight_bytes(base, tmp_path, 10)[0] == 20


def test_an_unknown_model_is_one_line_and_an_unknown_size_is_none(full, tmp_path):
    model = HubBase(id="someone/else", revision=None)
    base = full.base["llava"].model_copy(update={"model": model})
    with pytest.raises(UserError, match=r"base\.llava: the configuration of someone/else is not"):
        published.configuration(base, tmp_path)
    assert published.weight_bytes(base, tmp_path, 10)[0] is None


def test_a_folder_of_ones_own_is_unknown_and_no_download():
    folder = Source(folder="somewhere")
    assert published.examples(folder) is None
    assert published.data_bytes(folder) == 0


def test_a_source_of_which_nothing_is_published_is_unknown():
    assert published.examples(Source.model_construct()) is None
    assert published.data_bytes(Source.model_construct()) is None


def test_a_bucket_says_its_size(full):
    assert published.data_bytes(full.data["abo"].source) == 87480320 + 3253381120
    assert published.data_bytes(full.data["fer"].source) is None
