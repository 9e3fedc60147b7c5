import re

import pytest
from example_evaluations import make_evaluation, make_spec

from pipeline.encoders.spec import imported_spec
from pipeline.params import TrainParams
from pipeline.report.model_card import render_model_card

CAPTIONS = {str(number): ["a dog runs", "a cat on a", "two men play"][number % 3] for number in range(15)}
REFERENCES = {
    str(number): [["a dog runs on grass"], ["a cat sits"], ["two men play soccer"]][number % 3] for number in range(15)
}


def card(weights="random:17", **facts):
    evaluation = make_evaluation(CAPTIONS, REFERENCES, **facts)
    counts = [("train", 100, 500), ("test", 15, 15)]
    return render_model_card(evaluation, spec=make_spec(weights=weights, grid=7), counts=counts)


def test_scores_have_interval_signature_and_data():
    text, evaluation = card(), make_evaluation(CAPTIONS, REFERENCES)
    bleu = evaluation.scores["bleu_1"]
    assert f"| BLEU-1 | {bleu.value:.1f} | {bleu.low:.1f} to {bleu.high:.1f} |\n| BLEU-2" in text
    assert f"BLEU: `{evaluation.signatures['bleu']}`." in text
    assert "Search: beam_size 3, rerank.neighbors 0." in text
    assert "| train | 100 | 500 |\n| test | 15 | 15 |" in text
    assert "captions_sha256 " + "cd" * 32 in text
    assert "20% of the captions are distinct, 33% end in a function word" in text
    assert "captions an image with one sentence, in\nthe language of its training captions" in text
    assert "of a frozen encoder (`vgg11`). The file holds the decoder, its\nvocabulary" in text
    assert "captioner predict --model captioner.safetensors photo.jpg" in text


def test_only_options_that_differ_from_the_defaults_are_listed():
    assert "Seed 17. Options of `train` that differ from the defaults: none.\n" in card(lr=TrainParams().lr)
    assert "differ from the defaults: train.lr 0.5, train.scst.samples 3.\n" in card(lr=0.5, scst={"samples": 3})


def test_the_scores_of_a_single_image_have_no_interval():
    evaluation = make_evaluation({"0": "a dog runs"}, {"0": ["a dog runs on grass"]})
    text = render_model_card(evaluation, spec=make_spec(), counts=[("test", 1, 1)])
    assert f"| BLEU-1 | {evaluation.scores['bleu_1'].value:.1f} | none |" in text
    assert "those of a single image: they have no interval, and CIDEr-D is 0 by definition" in text


def test_limits_follow_from_the_run():
    assert "trained on only 100 images" in card()
    assert "trained on only" not in card(trained_images=100_000)
    assert "Its vocabulary has 30 words" in card()
    assert "random weights, which is enough for drawings but not for photographs" in card()
    assert "captions of its training images word for word" in card(store_captions=True)
    assert "word for word" not in card(store_captions=False)
    assert "Its scores are those of 15 images only; the intervals of so few are too narrow." in card()


def test_scores_of_training_images_are_not_said_to_hold_for_others():
    assert "Its scores hold for images like those of the test split" in card()
    evaluation = make_evaluation(CAPTIONS, REFERENCES).model_copy(update={"split": "train"})
    text = render_model_card(evaluation, spec=make_spec(), counts=[])
    assert "Its scores are those of the images that it was trained on: expect lower ones on all others." in text
    assert "hold for images like" not in text


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("random:17", "random weights, made from the seed"),
        ("file", "their license is that of the file's author"),
        ("IMAGENET1K_SWAG_E2E_V1", "CC-BY-NC 4.0"),
        ("IMAGENET1K_V2", "torchvision itself is BSD-3-Clause"),
    ],
)
def test_the_license_of_the_weights_is_named(weights, words):
    assert words in card(weights)


def test_a_model_of_imported_features_needs_a_feature_file():
    spec = imported_spec("detector", 512)
    text = render_model_card(make_evaluation(CAPTIONS, REFERENCES, spec=spec), spec=spec, counts=[])
    assert "from features of `detector`, which another program computes" in text
    assert "captioner predict --model captioner.safetensors --features features.h5 IMAGE\n" in text
    assert "Features of `detector`, at most 4 regions of 512 channels" in text
    assert not re.search("photo.jpg|downloaded|CNN|pixels|unknown|weights `imported`", text)


def test_a_model_of_characters_has_no_words():
    text = card(tokenizer="character")
    assert "12,345 parameters, 30 characters)" in text
    assert "Its vocabulary has 30 characters" in text
    assert "split into characters and computed as in coco-caption" in text
    assert "20% of the captions are distinct. The mean\ncaption has 3.3 characters." in text


def test_a_model_that_knows_its_training_images_warns_of_others():
    words = "including kinds that it was not trained on"
    assert f"{words}; `captioner predict` flags many of these, not all.\n" in card(has_familiarity=True)
    assert f"{words}.\n" in card(has_familiarity=False)


def test_the_license_of_the_model_that_training_started_from_counts():
    evaluation = make_evaluation(CAPTIONS, REFERENCES)
    evaluation.model.trained_on["init_from"] = "starter"
    text = render_model_card(evaluation, spec=make_spec(), counts=[])
    assert "images above, from the weights of `starter`. Their licenses determine" in text
    assert "images above. Their licenses determine" in card()
