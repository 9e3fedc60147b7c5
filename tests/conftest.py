"""Fixtures of all tests: a small project, a trained model, and the real data where it is present."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import SHARED, run_stages, write_project

pytest_plugins = ["web_server", "s3_server"]

# The same examples in every run, and no limit on time: `fuzz_files.py` and `datasets/fuzz.py` search at random.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Environment variables that keep the user's settings, store and proxy out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CAPTIONER_CACHE", "DVC_ROOT", "GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "COLUMNS"):
            patch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # `dvc`, and `python` in dvc.yaml
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path_factory.mktemp("dvc-config")))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "test")
            patch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random numbers of torch that do not depend on the tests before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


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
    run_stages(folder, "prepare", "extract", "vocab", "train")
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a small dataset in `data/tiny` and a params.yaml for it, as the working directory."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
