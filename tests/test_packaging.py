"""An installed package holds all files that the code reads."""

import tomllib

from support import ROOT

from pipeline.fingerprint import PACKAGE


def test_every_data_file_is_package_data():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["py-modules"] == ["captioner"]
    packaged = {path for pattern in setuptools["package-data"]["pipeline"] for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert files == {path for path in packaged if path.is_file()}
