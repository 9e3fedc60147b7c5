"""The report stands alone, escapes what it shows, and its script shows what was asked for."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_evaluations import make_evaluation, make_spec, write_image

from pipeline.datasets.statistics import dataset_statistics
from pipeline.encoders.spec import imported_spec
from pipeline.metrics.evaluation_file import ScoreRecord
from pipeline.report.gallery import make_cards
from pipeline.report.page import render_report

EVIL = '<img src=x onerror="alert(1)"></script><b>&amp;'
NAMES = [f"{number:02d}.png" for number in range(30)]
CURVES = {"train_loss": [2.0, 1.0], "val_cider_d": [10.0, 30.0], "lr": [1.0, 1.0]}


def rendered(evaluation, references, image_file, spec, curves=CURVES):
    statistics = dataset_statistics({"train": references}, {"a": image_file}, {"a": "1", EVIL: "1"}, headers_only=True)
    cards = make_cards(evaluation, dict.fromkeys(references, image_file), spec)
    return render_report(evaluation, spec=spec, statistics=statistics, curves=curves, cards=cards)


@pytest.fixture
def page(tmp_path):
    image_file = write_image(tmp_path)

    def make(caption="a dog on a mat", curves=CURVES, captions=None):
        captions = captions or {name: f"{caption} {number}" for number, name in enumerate(NAMES)}
        references = {name: [f"a dog {name}", caption, "the dog"] for name in NAMES}
        spec = make_spec(weights=EVIL)
        evaluation = make_evaluation(captions, references, attention=[[0.7, 0.1, 0.1, 0.1]], spec=spec)
        records = tuple(
            record.model_copy(
                update={
                    "scores": {"cider_d": float(number), "bleu_4": 50.0 - number},
                    "random_rank": (7 * number) % 30,
                    "flags": ("repeats",) if number < 4 else (),
                    "example": number != 5,
                }
            )
            for number, record in enumerate(evaluation.images)
        )
        return rendered(evaluation.model_copy(update={"images": records}), references, image_file, spec, curves)

    return make


def test_the_score_of_a_single_image_has_no_interval(tmp_path):
    evaluation = make_evaluation({"a.png": "a dog"}, {"a.png": ["a dog"]})
    text = rendered(evaluation, {"a.png": ["a dog"]}, write_image(tmp_path), make_spec())
    assert text.count("one image: no interval") == len(evaluation.scores)
    assert "95%: " not in text


def test_imported_features_and_characters_are_named_as_such(tmp_path):
    spec = imported_spec("detector", 512)
    evaluation = make_evaluation({"a.png": "a dog"}, {"a.png": ["a dog"]}, spec=spec, tokenizer="character")
    text = Elements(rendered(evaluation, {"a.png": ["a dog"]}, write_image(tmp_path), spec)).text
    assert "by the attention decoder on features of detector, beam size 3" in text
    assert "30 characters" in text
    assert "Characters per caption" in text
    assert "distinct characters" in text
    assert "share no four characters in a row with a reference" in text
    assert "function word" not in text
    assert "word twice" not in text


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_captions_stay_text(page):
    found = Elements(page(caption=EVIL))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    images_and_bars = [attributes for tag, attributes in found.tags if tag in ("img", "b")]
    assert all("src" in attributes or "style" in attributes for attributes in images_and_bars)
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    assert {attributes["src"][:16] for tag, attributes in found.tags if tag == "img"} == {"data:image/jpeg;"}
    assert f"{EVIL} 5" in found.text


def test_nothing_is_fetched(page):
    text = page()
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|fetch\(|XMLHttp", text)
    found = Elements(text)
    addresses = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_links_lead_to_sections(page):
    found = Elements(page())
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert {a["href"][1:] for tag, a in found.tags if tag == "a"} <= ids


def test_scores_have_their_intervals(page):
    text = Elements(page()).text
    for name in ("BLEU-1", "BLEU-4", "CIDEr-D", "ROUGE-L"):
        assert re.search(rf"{name}\s+\d+\.\d\s+95%: \d+\.\d to \d+\.\d", text), name


def test_a_score_above_100_has_a_longer_scale(tmp_path):
    evaluation = make_evaluation({"a.png": "a dog"}, {"a.png": ["a dog"]})
    scores = {"cider_d": ScoreRecord(value=150.0, low=90.0, high=210.0)}
    evaluation = evaluation.model_copy(update={"scores": scores})
    text = rendered(evaluation, {"a.png": ["a dog"]}, write_image(tmp_path), make_spec())
    assert '<i style="left:30.0%;width:40.0%"></i><b style="left:50.0%"></b>' in text
    assert "<span>0</span><span>300</span>" in text


def test_every_curve_is_drawn_also_for_one_epoch(page):
    text = page(curves={"train_loss": [2.0], "val_loss": [3.0], "val_bleu_4": [20.0]})
    assert "train loss" in text
    assert "val loss" in text
    assert "BLEU-4 of the val captions (best 20 at 1)" in text
    assert "nan" not in text.split("<script>")[0]
    assert page(curves={})


def test_one_caption_for_all_images_is_pointed_out(page):
    assert "100% of the images have the same caption" in page(captions=dict.fromkeys(NAMES, "a man is standing"))
    assert "have the same caption" not in page()


def in_browser(chromium, text: str, folder: Path, action: str) -> str:
    """The page's elements after its script and `action` have run."""
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    chromium.get(file.as_uri())
    chromium.execute_script(action)
    return chromium.page_source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "shown", "count"),
    [
        ("", [f"{number:02d}.png" for number in range(12)], "12 of 30"),
        ("click('[data-view=best]')", [f"{29 - number:02d}.png" for number in range(12)], "12 of 30"),
        ("click('[data-view=best]'); set(metric, 1)", NAMES[:12], "12 of 30"),
        ("set(metric, 1)", NAMES[:17:-1], "12 of 30"),
        ("click('[data-view=random]')", sorted(NAMES, key=lambda n: 7 * int(n[:2]) % 30)[:12], "12 of 30"),
        ("click('[data-view=all]'); click('.more')", NAMES[:24], "24 of 30"),
        ("set(filter, 'repeats')", NAMES[:4], "4 of 4"),
        ("search.value = '17.PNG dog'; search.dispatchEvent(new Event('input'))", ["17.png"], "1 of 1"),
        ("search.value = 'attention word file'; search.dispatchEvent(new Event('input'))", [], "0 of 0"),
        ("search.value = 'zebra'; search.dispatchEvent(new Event('input'))", [], "0 of 0"),
    ],
)
def test_the_gallery_shows_what_is_asked_for(page, chromium, tmp_path, action, shown, count):
    helpers = """
        const click = (selector) => document.querySelector(selector).click();
        const set = (field, value) => { field.value = value; field.dispatchEvent(new Event("change")); };"""
    found = in_browser(chromium, page(), tmp_path, helpers + action)
    assert re.findall(r'<p class="file">(.*?)</p>', found) == shown
    assert f"<output>{count}</output>" in found


@pytest.mark.slow
def test_a_word_shows_its_attention_weights(page, chromium, tmp_path):
    action = """
        const card = document.querySelector("article"), word = card.querySelectorAll(".caption button")[1];
        word.click();
        const pixels = card.querySelector("canvas").getContext("2d").getImageData(0, 0, 2, 2).data;
        document.title = [3, 7, 11, 15].map((index) => pixels[index]).join(" ") + " " + word.className;
        card.querySelector("details.strip").open = true;"""
    in_browser(chromium, page(), tmp_path, action)
    assert chromium.title == "0 176 176 176 on"
    deadline = time.monotonic() + 30
    while not (words := chromium.find_elements("css selector", ".strip figcaption")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [word.text for word in words] == ["a", "dog", "on", "a", "mat", "0"]
