"""How `score` searches for captions."""

import pytest
from conftest import ROOT

from pipeline.params import check_params, read_params
from pipeline.stages.score import _search
from pipeline.text.vocabulary import SPECIAL_TOKENS, Vocabulary


@pytest.mark.parametrize(("given", "expected"), [("auto", 2), (0, 0), (3, 3)])
def test_auto_is_what_people_seldom_repeat(given, expected):
    content = read_params(ROOT / "params.yaml").model_dump()
    content["score"] |= {"no_repeat_ngram": given, "beam_size": 7}
    known = Vocabulary((*SPECIAL_TOKENS, "a"), (0, 0, 0, 0, 1), "ptb", no_repeat_ngram=2)
    search = _search(check_params(content).score, known)
    assert (search.no_repeat_ngram, search.beam_size) == (expected, 7)
