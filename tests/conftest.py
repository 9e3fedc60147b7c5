"""Fixtures of all tests: a small project, a trained model, and the real data where it is present."""

from pathlib import Path

import pytest
from support import SHARED, run_command, write_project

pytest_plugins = ["web_server", "s3_server"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the checkout; tests that need it are skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real images in ../shared, which are not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a trained model, for tests that do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    write_project(folder, train={"epochs": 12})
    for stage in ("prepare", "extract", "vocab", "train"):
        code, _, err = run_command(stage, cwd=folder)
        assert code == 0, err
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a small dataset in `data/tiny` and a params.yaml for it, as the working directory."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("CAPTIONER_CACHE", raising=False)
    return tmp_path
