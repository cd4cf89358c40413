"""Repositories with one trained recipe each; a test that changes one works on a copy."""

import shutil

import pytest

from tests.publishing import workspace


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """On a base that was made here."""
    return workspace.make(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def on_the_hub(tmp_path_factory):
    """On a base of the Hub."""
    return workspace.make(tmp_path_factory.mktemp("on_the_hub"), on_the_hub=True)


@pytest.fixture
def here(built, tmp_path, monkeypatch):
    """A copy of `built` to work in."""
    monkeypatch.chdir(shutil.copytree(built, tmp_path / "here"))
    return tmp_path / "here"
