"""The report stands alone, escapes what it shows, and its script shows what was asked for."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.datasets.statistics import dataset_statistics
from pipeline.encoders.images import thumbnail
from pipeline.metrics.evaluation import evaluate
from pipeline.report import Card, Looks, Picture, render_report

EVIL = '<img src=x onerror="alert(1)"></script><b>&amp;'
NAMES = [f"{number:02d}.png" for number in range(30)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from conftest import write_dataset

    folder = tmp_path_factory.mktemp("report")
    write_dataset(folder, pictures=3)
    return sorted((folder / "images").glob("*.png"))


def page(pictures, *, caption="a dog on a mat", curves=None):
    captions = {name: f"{caption} {number}" for number, name in enumerate(NAMES)}
    references = {name: [f"a dog {name}", caption, "the dog"] for name in NAMES}
    evaluation = evaluate(captions, references, seed=0)
    uri, width, height = thumbnail(pictures[0].read_bytes(), 32)
    weights = [[0.7, 0.1, 0.1, 0.1]] * len(captions[NAMES[0]].split())
    cards = [
        Card(
            image=name,
            caption=captions[name],
            references=references[name],
            scores={"CIDEr-D": float(number), "BLEU-4": 50.0 - number},
            chance=(7 * number) % 30,
            signs=("repeats",) if number < 4 else (),
            picture=Picture(uri, width, height) if number != 5 else None,
            looks=Looks(weights, 2, (0.0, 0.0, 1.0, 1.0)),
        )
        for number, name in enumerate(NAMES)
    ]
    return render_report(
        title=f"Captions {EVIL}",
        lead=EVIL,
        evaluation=evaluation,
        exploration=dataset_statistics({"train": references}, {"a": pictures[0]}, {"a": "1", EVIL: "1"}, whole=False),
        curves={"train_loss": [2.0, 1.0], "val_cider_d": [10.0, 30.0], "lr": [1.0, 1.0]} if curves is None else curves,
        cards=cards,
        made_from={f"Encoder {EVIL}": {EVIL: EVIL}},
    )


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_whatever_captions_hold_stays_text(pictures):
    found = Elements(page(pictures, caption=EVIL))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    pictures_and_bars = [attributes for tag, attributes in found.tags if tag in ("img", "b")]
    assert all("src" in attributes or "style" in attributes for attributes in pictures_and_bars)
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    assert {attributes["src"][:16] for tag, attributes in found.tags if tag == "img"} == {"data:image/jpeg;"}
    assert '<img src=x onerror="alert(1)"></script><b>&amp; 3' in found.text


def test_nothing_is_fetched(pictures):
    text = page(pictures)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|fetch\(|XMLHttp", text)
    found = Elements(text)
    addresses = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_links_lead_to_sections(pictures):
    found = Elements(page(pictures))
    places = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert {a["href"][1:] for tag, a in found.tags if tag == "a"} <= places


def test_scores_stand_with_their_intervals(pictures):
    text = Elements(page(pictures)).text
    for name in ("BLEU-1", "BLEU-4", "CIDEr-D", "ROUGE-L"):
        assert re.search(rf"{name}\d+\.\d95%: \d+\.\d to \d+\.\d", text), name


def test_every_column_of_the_curves_is_drawn_and_one_epoch_too(pictures):
    text = page(pictures, curves={"train_loss": [2.0], "val_loss": [3.0], "val_bleu_4": [20.0]})
    assert "train loss" in text
    assert "val loss" in text
    assert "BLEU-4 of the val captions (best 20 at 1)" in text
    assert "nan" not in text.split("<script>")[0]
    assert page(pictures, curves={})


def test_a_sentence_for_everything_is_pointed_at(pictures):
    captions = dict.fromkeys(NAMES, "a man is standing")
    references = {name: [f"a dog number {name}"] for name in NAMES}
    text = render_report(
        title="",
        lead="",
        evaluation=evaluate(captions, references, seed=0),
        exploration=dataset_statistics({"train": references}, {}, {}),
        curves={},
        cards=[],
        made_from={},
    )
    assert "One caption was given to 100% of the pictures" in text
    assert "One caption" not in page(pictures)


def test_a_look_is_written_as_shares_of_the_strongest():
    looks = Looks([[0.5, 0.25, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]], 2, (0.0, 0.0, 1.0, 1.0))
    assert looks.as_text() == "_W0W 0000"


browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(browser is None, reason="needs Chromium to run the page's script")
@pytest.mark.parametrize(
    ("action", "shown", "count"),
    [
        ("", [f"{number:02d}.png" for number in range(12)], "12 of 30"),
        ("click('[data-view=best]')", [f"{29 - number:02d}.png" for number in range(12)], "12 of 30"),
        ("click('[data-view=best]'); by.value = 1; by.dispatchEvent(new Event('change'))", NAMES[:12], "12 of 30"),
        ("by.value = 1; by.dispatchEvent(new Event('change'))", NAMES[:17:-1], "12 of 30"),
        ("click('[data-view=random]')", sorted(NAMES, key=lambda n: 7 * int(n[:2]) % 30)[:12], "12 of 30"),
        ("click('[data-view=all]'); click('.more')", NAMES[:24], "24 of 30"),
        ("sign.value = 'repeats'; sign.dispatchEvent(new Event('change'))", NAMES[:4], "4 of 4"),
        ("search.value = '17.PNG dog'; search.dispatchEvent(new Event('input'))", ["17.png"], "1 of 1"),
        ("search.value = 'zebra'; search.dispatchEvent(new Event('input'))", [], "0 of 0"),
    ],
)
def test_the_gallery_shows_what_is_asked_for(pictures, tmp_path, action, shown, count):
    found = in_browser(pictures, tmp_path, f"const click = what => document.querySelector(what).click(); {action}")
    assert re.findall(r'<p class="file">(.*?)</p>', found) == shown
    assert f"<output>{count}</output>" in found


@pytest.mark.skipif(browser is None, reason="needs Chromium to run the page's script")
def test_a_word_shows_where_the_decoder_looked(pictures, tmp_path):
    action = """
        const card = document.querySelector("article"), word = card.querySelectorAll(".caption button")[1];
        word.click();
        const pixels = card.querySelector("canvas").getContext("2d").getImageData(0, 0, 2, 2).data;
        document.title = [3, 7, 11, 15].map(place => pixels[place]).join(" ") + " " + word.className;
        card.querySelector("details.strip").open = true;"""
    found = in_browser(pictures, tmp_path, action)
    assert "<title>0 176 176 176 on</title>" in found
    strip = found.split('<details class="strip" open="">')[1].split("</details>")[0]
    assert re.findall(r"<figcaption>(.*?)</figcaption>", strip) == ["a", "dog", "on", "a", "mat", "0"]


def in_browser(pictures: list[Path], folder: Path, action: str) -> str:
    """The page's elements after its script and `action` have run."""
    file = folder / "report.html"
    text = page(pictures)
    assert text.count("update();\n</script>") == 1
    file.write_text(text.replace("update();\n</script>", f"update();\n{action}\n</script>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=1000", "--dump-dom"]
    done = subprocess.run([browser, *flags, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
