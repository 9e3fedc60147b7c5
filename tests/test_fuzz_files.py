"""Damaged model files and feature files are refused or harmless; see fuzz_files.py."""

import pytest
from fuzz_files import fuzz, targets


@pytest.mark.parametrize(("name", "mutations"), [("model", 60), ("features", 300)])
def test_no_damaged_file_ends_in_a_traceback_or_is_accepted_silently(name, mutations, tmp_path):
    (target,) = (one for one in targets(tmp_path) if one.name == name)
    assert fuzz(target, mutations, seed=1) > mutations / 2
