"""params.yaml: defaults, accepted values, and the message for each mistake."""

import json
import os
import re
import runpy

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support import ROOT

from pipeline.decoders.registry import DECODERS
from pipeline.decoders.search import MAX_BEAM_SIZE
from pipeline.errors import ParamsError
from pipeline.params import schema
from pipeline.params_errors import REMOVED, RENAMED
from pipeline.params_file import check_params, read_params, to_yaml, write_section

RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.yaml"))


def load(text):
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture
def content():
    return check_params({}).model_dump()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params.yaml"


def message(content):
    with pytest.raises(ParamsError) as error:
        check_params(content)
    assert error.value.exit_code == 2
    return str(error.value)


def flat(values, above=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def test_every_parameter_has_a_default(path):
    path.write_text("seed: 3\nscore:\ntrain: {lr: 0.1}\n")
    params = read_params(path)
    expected = check_params(None).model_dump()
    expected["seed"] = 3
    expected["train"]["lr"] = 0.1
    assert params.model_dump() == expected


def test_the_shipped_file_holds_every_parameter_so_that_dvc_can_set_it():
    assert dict(flat(load(ROOT / "params.yaml"))).keys() == dict(flat(check_params({}).model_dump())).keys()


def test_the_number_that_dvc_writes_is_a_number(path):
    path.write_text("train: {lr: 1e-05}")
    assert read_params(path).train.lr == 1e-5


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("train.epoch", 3, "train.epoch: unknown parameter; did you mean 'epochs'?"),
        ("vocab.zebra", 1, "vocab.zebra: unknown parameter; known: unit, min_count, max_length"),
        ("decoder.atention", 8, "decoder.atention: unknown parameter; did you mean 'attention'?"),
        ("train.epochs", "ten", "train.epochs: must be a valid integer, got 'ten'"),
        ("score.beam_size", 0, "score.beam_size: must be greater than or equal to 1, got 0"),
        ("encoder.image_size", 7, "encoder.image_size: must be greater than or equal to 8 or must be 'auto', got 7"),
        ("encoder.fit", "squash", "encoder.fit: must be 'stretch' or 'crop', got 'squash'"),
        (
            "decoder.kind",
            "transformer",
            f"decoder.kind: must be one of {', '.join(map(repr, DECODERS))}, got 'transformer'",
        ),
        (
            "score.rerank.neighbors",
            5,
            "score.rerank.neighbors: unknown parameter; write each part of the name on a line of its own, one level "
            "deeper than the last",
        ),
        ("data.captions", "a\0b", "data.captions: must not contain control characters"),
        *((old, 1, f"{old}: renamed; write {new}") for old, new in RENAMED.items()),
        *((old, 1, f"{old}: no longer exists, because {reason}; delete it") for old, reason in REMOVED.items()),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(key, value, mistake):
    section, name = key.split(".", 1)
    assert message({section: {name: value}}) == f"params.{mistake}"


def test_every_mistake_is_named_at_once(content):
    content["train"]["lr"] = -1.0
    content["vocb"] = {}
    assert len(message(content).splitlines()) == 2


def test_reranking_needs_words_and_stored_captions(content):
    content["score"]["rerank"]["neighbors"] = 60
    assert "score.rerank.neighbors is 60, which needs train.store_captions: true" in message(content)
    content["train"]["store_captions"] = True
    assert check_params(content).score.rerank.neighbors == 60
    content["vocab"]["unit"] = "character"
    assert "score.rerank.neighbors needs vocab.unit: word" in message(content)


@pytest.mark.parametrize("train", [{}, {"init_from": "starter"}, {"scst": {"epochs": 1}}])
def test_training_without_cross_entropy_needs_a_captioner_and_self_critical_epochs(train):
    problem = "params.train: epochs 0 needs a trained captioner in init_from, and scst.epochs of at least 1"
    assert message({"train": {"epochs": 0, **train}}) == problem
    assert check_params({"train": {"epochs": 0, "init_from": "starter", "scst": {"epochs": 1}}}).train.epochs == 0


@pytest.mark.parametrize("kind", DECODERS)
def test_options_of_another_decoder_may_stay_in_the_file(kind, content):
    content["decoder"]["kind"] = kind
    decoder = check_params(content).decoder
    assert isinstance(decoder, DECODERS[kind].options)
    assert set(decoder.model_dump()) == set(DECODERS[kind].options.model_fields)


def test_a_long_value_is_shortened_in_the_message():
    assert len(message({"train": {"epochs": "x" * 10_000}})) < 200
    assert len(message({"train": {"x" * 10_000: 1}})) < 400


MALFORMED = {
    "syntax": ("seed: 1\ntrain: [1, 2\nscore: }\n", "params.yaml, line 3: not valid YAML"),
    "duplicate key": ("seed: 1\nseed: 2\n", "params.yaml, line 2: not valid YAML: found duplicate key"),
    "tag": ("seed: !!python/object:os.system {}\n", "params.yaml, line 1: not valid YAML"),
    "recursive": ("a: &a [*a]\n", "params.a: unknown parameter"),
    "deep": ("a: " + "[" * 200_000, "nested too deeply"),
    "large": ("# " + "x" * (1 << 20), "larger than 1,048,576 bytes"),
    "digits": ("seed: " + "9" * 5000, "not valid YAML"),
    "empty": ("\n", "is empty; restore it, or write `{}` to use all defaults"),
    "list": ("[1, 2]", "params: must be a section with keys and values"),
}


@pytest.mark.parametrize(("text", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused(path, text, reason):
    path.write_text(text)
    with pytest.raises(ParamsError) as error:
        read_params(path)
    assert reason in str(error.value)


def test_a_file_that_is_not_utf_8_is_refused(path):
    path.write_bytes(b"seed: \xff")
    with pytest.raises(ParamsError, match="not UTF-8 at byte 6"):
        read_params(path)


KEYS = [key for key, _ in flat(check_params({}).model_dump())]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(), children),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(), VALUES, max_size=4), VALUES)
def test_any_content_is_accepted_or_refused_with_messages(values, section):
    content = {}
    for key, value in values.items():
        name, _, rest = key.partition(".")
        content[name] = {rest: value} if rest else section
    mistakes = ""
    try:
        check_params(content)
    except ParamsError as error:
        mistakes = str(error)
    assert all(line.startswith("params") for line in mistakes.splitlines())


SYNTAX = ["&a ", "*a", "<<: *a", "!!binary x", "? ", "- ", ": ", "#", "|\n", "---\n", "'", "1_000"]
ODD = ["\t", "\0", "\x85", "\ufeff"]
TEXT = to_yaml(check_params({}))


@given(st.integers(0, len(TEXT)), st.sampled_from(SYNTAX + ODD) | st.text(max_size=3), st.integers(0, 3))
@settings(max_examples=60)
def test_a_changed_file_is_refused_or_read_as_it_is_written(tmp_path_factory, place, piece, removed):
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_text(TEXT[:place] + piece + TEXT[place + removed :], encoding="utf-8", errors="replace", newline="")
    try:
        found = dict(flat(read_params(path).model_dump()))  # an empty section is None in the file
    except ParamsError:
        return
    for key, value in flat(load(path) or {}):
        assert value is None or (found[key], isinstance(found[key], bool)) == (value, isinstance(value, bool))


def test_the_printed_file_is_complete_and_has_the_same_values(path):
    params = check_params({"decoder": {"kind": "inject"}, "data": {"captions": "a: #b.csv"}, "train": {"lr": 1e-5}})
    path.write_text(to_yaml(params))
    assert read_params(path) == params
    assert dict(flat(load(path))) == dict(flat(params.model_dump()))


def test_writing_a_section_keeps_comments_and_other_values(path):
    path.write_text("# mine\nseed: 1\ndata:\n  format: coco  # so far\ntrain: {lr: 1e-3}\n")
    write_section(path, "data", {"format": "folder", "captions": "x"})
    assert path.read_text() == "# mine\nseed: 1\ndata:\n  format: folder # so far\n  captions: x\ntrain: {lr: 1e-3}\n"


def test_writing_a_section_keeps_line_ends_and_a_symbolic_link(path, tmp_path):
    target = tmp_path / "shared.yaml"
    target.write_bytes(b"# mine\r\nseed: 1\r\ndata:\r\n  format: coco\r\n")
    path.symlink_to(target)
    write_section(path, "data", {"format": "folder"})
    assert target.read_bytes() == b"# mine\r\nseed: 1\r\ndata:\r\n  format: folder\r\n"
    assert path.is_symlink()


def test_writing_a_section_to_a_file_of_comments_keeps_them(path):
    for end in ("", "\n"):
        path.write_text(f"# mine{end}")
        write_section(path, "data", {"format": "folder"})
        assert path.read_text() == "# mine\ndata:\n  format: folder\n"


def test_writing_a_section_that_is_missing_adds_it(path):
    path.write_text("seed: 1\n")
    write_section(path, "data", {"format": "folder"})
    assert read_params(path).data.format == "folder"


def test_nothing_is_written_if_the_result_would_be_invalid(path):
    path.write_text("seed: 1\n")
    with pytest.raises(ParamsError, match=r"params.data.format"):
        write_section(path, "data", {"format": "x"})
    assert path.read_text() == "seed: 1\n"


def test_the_schema_for_editors_is_current():
    assert json.loads((ROOT / "params.schema.json").read_text()) == schema(), "run `make schema`"


def test_the_schema_accepts_the_shipped_file_and_refuses_a_typo():
    content = load(ROOT / "params.yaml")
    jsonschema.validate(content, schema())
    content["train"]["epoch"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema())


@pytest.mark.parametrize("kind", DECODERS)
def test_the_schema_accepts_every_kind_of_decoder(kind):
    jsonschema.validate({"decoder": {"kind": kind, "attention": 8}}, schema())


def test_the_page_about_parameters_is_current():
    page = runpy.run_path(str(ROOT / "docs" / "make_params_page.py"))["page"]
    assert (ROOT / "docs" / "params.md").read_text() == page(), "run `make schema`"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_holds_differences_only(recipe):
    given, defaults = dict(flat(load(recipe))), dict(flat(check_params({}).model_dump()))
    resolved = dict(flat(read_params(recipe).model_dump()))
    assert resolved["data.captions"].startswith("/data/")
    for key, value in given.items():
        assert resolved[key] == value
        assert value != defaults.get(key)


def test_every_training_of_the_quality_benchmark_has_valid_parameters():
    own = {"extends", "against", "layers", "seed", "members", "mirrored", "train_images", "captions_per_image"}
    trainings = sorted((ROOT / "benchmarks" / "quality").glob("*/*.yaml"))
    assert trainings
    for training in trainings:
        sections = {key: value for key, value in load(training).items() if key not in own}
        if sections.get("score", {}).get("rerank", {}).get("neighbors"):
            sections.setdefault("train", {})["store_captions"] = True
        check_params(sections)
        assert sections.keys() <= {"encoder", "vocab", "decoder", "train", "score"}, training


def test_a_path_with_spaces_is_quoted_as_documented(tmp_path):
    """The example of docs/experiments.md, through the parser of `dvc exp run -S`."""
    from dvc.utils.hydra import apply_overrides

    documented = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    overrides = re.findall(r"-S '(data\.[^']* [^']*)'", documented)
    assert len(overrides) == 2
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    apply_overrides(path, overrides)
    data = read_params(path).data
    assert (data.images, data.captions) == ("my photos (2024)", "my photos (2024)/captions.csv")


def test_the_largest_beam_is_that_of_the_search():
    assert check_params({"score": {"beam_size": MAX_BEAM_SIZE}}).score.beam_size == MAX_BEAM_SIZE
    with pytest.raises(ParamsError, match=r"params\.score\.beam_size"):
        check_params({"score": {"beam_size": MAX_BEAM_SIZE + 1}})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_file_that_could_block_forever_is_refused(path):
    os.mkfifo(path)
    with pytest.raises(ParamsError, match=r"params\.yaml: cannot be read: is not a regular file"):
        read_params(path)
