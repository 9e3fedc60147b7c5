"""Lists in JSON files, one element at a time."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import written

from pipeline.datasets.jsonstream import elements
from pipeline.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(content=st.dictionaries(st.sampled_from("abc"), VALUES), indent=st.sampled_from([None, 1, "\t"]))
def test_it_gives_what_the_json_module_gives(content, indent, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("json"), json.dumps(content, indent=indent), "a.json")
    found = {}
    for key, number, value in elements(path, {"a", "b"}):
        assert number == len(found.get(key, []))
        found.setdefault(key, []).append(value)
    expected = {key: [None, *value] for key, value in content.items() if key != "c" and isinstance(value, list)}
    assert found == expected


def test_numbers_and_texts_that_end_where_a_chunk_ends_are_whole(tmp_path):
    values = list(range(10**6, 10**6 + 70_000))
    path = written(tmp_path, json.dumps(values), "a.json")
    assert [value for _, number, value in elements(path, {""}) if number] == values
    texts = ["\u4e2d" * 100_000 + str(n) for n in range(20)]
    path = written(tmp_path, json.dumps({"a": texts}, ensure_ascii=False), "a.json")
    assert [value for _, number, value in elements(path, {"a"}) if number] == texts


def test_elements_before_the_damage_are_given(tmp_path):
    found = []
    with pytest.raises(DataError, match=r"a.json: not valid JSON in element 3 of 'a' \(character 16\)"):
        found.extend(elements(written(tmp_path, '{"a": [1, 2,   oops, 4]}' + " " * 50, "a.json"), {"a"}))
    assert found == [("a", 0, None), ("a", 1, 1), ("a", 2, 2)]
