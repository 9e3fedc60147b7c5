"""How the score stage searches for captions."""

import pytest
from support import ROOT

from pipeline.params_file import check_params, read_params
from pipeline.stages.score import search_options
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS

VOCABULARY = Vocabulary((*SPECIAL_TOKENS, "a"), (0, 0, 0, 0, 1), "ptb", no_repeat_ngram=2, max_length=9)


@pytest.mark.parametrize(("given", "expected"), [("auto", 2), (0, 0), (3, 3)])
def test_auto_takes_the_value_that_the_vocabulary_stores(given, expected):
    content = read_params(ROOT / "params.yaml").model_dump()
    content["score"] |= {"no_repeat_ngram": given, "beam_size": 7}
    search = search_options(check_params(content).score, VOCABULARY)
    assert (search.no_repeat_ngram, search.beam_size) == (expected, 7)


@pytest.mark.parametrize(("given", "expected"), [("auto", 9), (5, 5), (80, 80)])
def test_captions_are_by_default_as_long_as_the_vocabulary_allows(given, expected):
    assert search_options(check_params({"score": {"max_length": given}}).score, VOCABULARY).max_length == expected
