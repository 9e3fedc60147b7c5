"""params.yaml: what is accepted, and what is said of a mistake."""

import copy
import json

import jsonschema
import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from pipeline.errors import ParamsError
from pipeline.params import check_params, read_params, schema


@pytest.fixture
def content():
    return copy.deepcopy(read_params(ROOT / "params.yaml").model_dump())


def said(content):
    with pytest.raises(ParamsError) as error:
        check_params(content)
    assert error.value.exit_code == 2
    return str(error.value)


def test_the_number_that_dvc_writes_is_a_number(tmp_path):
    text = (ROOT / "params.yaml").read_text().replace("lr: 2e-3", "lr: 1e-05")
    (tmp_path / "params.yaml").write_text(text)
    assert read_params(tmp_path / "params.yaml").train.lr == 1e-5


def test_a_typo_is_named_with_the_key_that_was_meant(content):
    content["train"]["epoch"] = 3
    assert said(content) == "params.train.epoch: unknown parameter; did you mean 'epochs'?"


def test_a_wrong_type_names_the_key_and_the_value(content):
    content["train"]["epochs"] = "ten"
    assert said(content) == "params.train.epochs: must be a valid integer, got 'ten'"


def test_a_value_out_of_range_says_what_is_allowed(content):
    content["score"]["beam_size"] = 0
    assert said(content) == "params.score.beam_size: must be greater than or equal to 1, got 0"


def test_a_value_of_two_kinds_is_one_mistake(content):
    content["encoder"]["image_size"] = 7
    assert said(content) == "params.encoder.image_size: must be greater than or equal to 8 or must be 'auto', got 7"


def test_consensus_is_for_words(content):
    content["train"]["store_captions"] = True
    content["score"]["neighbours"] = 60
    assert check_params(content).score.neighbours == 60
    content["vocab"]["unit"] = "character"
    assert "score.neighbours is for words" in said(content)


def test_a_choice_lists_what_there_is(content):
    content["decoder"]["kind"] = "transformer"
    assert said(content) == "params.decoder.kind: must be 'inject', 'merge', 'attention' or 'updown', got 'transformer'"


def test_a_missing_key_is_named(content):
    del content["vocab"]["min_count"]
    assert said(content) == "params.vocab.min_count: missing; add it to params.yaml"


def test_every_mistake_is_named_at_once(content):
    content["train"]["lr"] = -1.0
    content["vocb"] = {}
    assert len(said(content).splitlines()) == 2


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 1\ntrain: [1, 2\nscore: }\n")
    with pytest.raises(ParamsError, match=r"params.yaml, line 3: not valid YAML"):
        read_params(tmp_path / "params.yaml")


def test_the_editor_schema_is_that_of_the_code():
    assert json.loads((ROOT / "params.schema.json").read_text()) == schema()


def test_the_editor_schema_accepts_the_file_and_refuses_a_typo():
    content = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    jsonschema.validate(content, schema())
    content["train"]["epoch"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema())


def test_the_page_about_parameters_is_that_of_the_code():
    import runpy

    page = runpy.run_path(str(ROOT / "docs" / "make_params_page.py"))["page"]
    assert (ROOT / "docs" / "params.md").read_text() == page()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_a_whole_params_file(path):
    assert read_params(path).data.captions.startswith("/data/")
