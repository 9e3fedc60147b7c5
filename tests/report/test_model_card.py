import pytest

from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.metrics.diversity import diversity
from pipeline.metrics.scores import score
from pipeline.report.model_card import ModelFacts, render_model_card

HYPOTHESES = ["a dog runs", "a cat on a", "two men play"] * 5
REFERENCES = [["a dog runs on grass"], ["a cat sits"], ["two men play soccer"]] * 5


def card(weights="random:17", pictures=100, **train):
    transform = Preprocessing(112, None, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (255, 255, 255))
    spec = EncoderSpec("vgg11", weights, "ab" * 32, "features.14", 7, transform, "float32")
    facts = ModelFacts(
        spec=spec,
        decoder={"kind": "attention", "hidden": 32},
        vocabulary=34,
        parameters=12345,
        regions=49,
        channels=512,
        trained_on={"pictures": pictures, "captions_sha256": "cd" * 32, "seed": 17, "train": {"lr": 0.002, **train}},
        carries_encoder=True,
    )
    return render_model_card(
        model=facts,
        card=score(HYPOTHESES, REFERENCES, seed=0),
        diversity=diversity(HYPOTHESES, None),
        split="test",
        pictures={"train": 100, "test": 15},
        captions={"train": 500, "test": 15},
        search={"beam_size": 3},
    )


def test_scores_stand_with_interval_signature_and_data():
    text = card()
    scores = score(HYPOTHESES, REFERENCES, seed=0)
    low, high = scores.intervals["bleu_1"]
    assert f"| BLEU-1 | {scores.scores['bleu_1']:.1f} | {low:.1f} to {high:.1f} |" in text
    assert f"BLEU: `{scores.signature}`. SearchOptions: beam_size 3." in text
    assert "| train | 100 | 500 |" in text
    assert "captions_sha256 " + "cd" * 32 in text
    assert "lr 0.002" in text
    assert "20% of the captions are distinct; 33% end in a\nfunction word" in text


def test_no_language_is_named_but_that_of_the_captions():
    assert "one sentence about a picture, in the language of the captions that it was trained on" in card()
    assert "English" not in card()


def test_limits_follow_from_the_run():
    assert "It was trained on 100 pictures, which is few" in card()
    assert "which is few" not in card(pictures=100_000)
    assert "It knows 30 words" in card()
    assert "random weights: enough for drawings, not for photographs" in card()
    assert "captions of its training pictures word for word" in card(store_captions=True)
    assert "word for word" not in card(store_captions=False)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("random:17", "random weights, made from the seed"),
        ("file", "whoever made the file says under which licence"),
        ("IMAGENET1K_SWAG_E2E_V1", "CC-BY-NC 4.0"),
        ("IMAGENET1K_V2", "torchvision itself is BSD-3-Clause"),
    ],
)
def test_the_licence_of_the_weights_is_that_of_their_maker(weights, words):
    assert words in card(weights)
