"""Files of captions and references: layouts, names of images, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SHARED

from pipeline.datasets.caption_files import parse_captions, read_caption_file, read_reference_file
from pipeline.datasets.caption_matching import match_captions
from pipeline.datasets.tables import join_references, split_references
from pipeline.errors import DataError

COCO = {
    "images": [{"id": 42, "file_name": "000042.jpg"}, {"id": 7, "file_name": "000007.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 42, "caption": "A dog."},
        {"id": 2, "image_id": 7, "caption": "A cat."},
        {"id": 3, "image_id": 42, "caption": "A brown dog."},
    ],
}
BOTH = {"42": "a dog", "7": "a cat"}


@pytest.fixture
def references(tmp_path):
    """A function that reads references from the content of a file."""

    def read(content, name="references.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_reference_file(path)

    return read


@pytest.fixture
def coco(references):
    return references(COCO)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"image_id": 7, "caption": "a cat"}, {"image_id": 42, "caption": "a dog"}]),
        json.dumps({"results": [{"image_id": 7, "caption": "a cat"}, {"image_id": 42, "caption": "a dog"}]}),
        json.dumps(BOTH),
        json.dumps({image: [caption] for image, caption in BOTH.items()}),
        json.dumps({image: [{"caption": caption}] for image, caption in BOTH.items()}),
        '{"image_id": 42, "caption": "a dog"}\n\n{"image_id": 7, "caption": "a cat"}\n',
        '{"image": "x/000042.jpg", "captions": [{"caption": "a dog", "score": -1}], "error": null}\n'
        '{"image": "x\\\\000007.jpg", "captions": [{"caption": "a cat", "score": -1}, {"caption": "b", "score": -2}]}',
        '[{"image_id": "000000000042", "caption": "a dog"}, {"image_id": "007", "caption": "a cat"}]',
        '[{"image_id": "COCO_val2014_000000000042.jpg", "caption": "a dog"}, {"image_id": 7, "caption": "a cat"}]',
        '[{"id": 1, "image_id": 42, "file_name": "000042.jpg", "caption": "a dog"}, '
        '{"image_id": 7, "caption": "a cat"}]',
        "".join(
            json.dumps(
                {"image": name, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": text}]}
            )
            + "\n"
            for name, text in (("000042.jpg", "a dog"), ("000007.jpg", "a cat"))
        ),
        "image,caption\n42,a dog\n7,a cat\n",
        "\ufeffImage;Caption\n42;a dog\n7;a cat\n",
        "image_id\tcaption\r\n42\ta dog\r\n7\ta cat\r\n",
        "file_name|split|caption\n000042.jpg|test|a dog\nphotos/000007.png|test|a cat\n",
        "000042.jpg#0\ta dog\n000007.jpg#0\ta cat\n",
    ],
)
def test_captions_are_read_in_every_layout_and_by_every_name(coco, text):
    found = match_captions(parse_captions(text, "ours"), coco)
    assert found.captions == BOTH
    assert found.references == {"42": ("A dog.", "A brown dog."), "7": ("A cat.",)}
    assert list(found.captions) == list(found.references)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.json", COCO),
        ("r.json", {"000042.jpg": ["A dog.", "A brown dog."], "000007.jpg": ["A cat."]}),
        ("r.json", {"42": [{"caption": "A dog."}, {"caption": "A brown dog."}], "7": [{"caption": "A cat."}]}),
        ("r.json", [{"image_id": 42, "captions": ["A dog.", "A brown dog."]}, {"image_id": 7, "caption": "A cat."}]),
        ("r.csv", "image,caption\n42,A dog.\n7,A cat.\n42,A brown dog.\n"),
        ("r.csv", 'image,caption\n42,"[""A dog."", ""A brown dog.""]"\n7,A cat.\n'),
        ("r.csv", "image,caption_1,caption_2\n42,A dog.,A brown dog.\n7,A cat.,\n"),
        ("captions.csv", "image,caption,cider_d,references\n42,x,9.1,A dog. | A brown dog.\n7,y,1.0,A cat.\n"),
        (
            "r.json",
            {
                "images": [
                    {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "cocoid": 42, "split": "test"}
                    | {"sentences": [{"raw": "A dog."}, {"raw": "A brown dog."}]},
                    {"filename": "000007.jpg", "split": "test", "sentences": [{"raw": "A cat."}]},
                ]
            },
        ),
    ],
)
def test_references_are_read_in_every_layout(references, name, content):
    known = references(content, name)
    found = match_captions(parse_captions(json.dumps(BOTH), "ours"), known)
    assert list(found.references.values()) == [("A dog.", "A brown dog."), ("A cat.",)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("000042.jpg", ()),
        ("00042", ("1 image is matched by number, such as 00042 with 42",)),
        ("000042", ("1 image is matched by name without suffix, such as 000042 with 42",)),
        ("000042.png", ("1 image is matched by name without suffix, such as 000042.png with 42",)),
    ],
)
def test_a_match_by_part_of_a_name_is_noted(coco, name, words):
    captions = parse_captions(json.dumps({name: "a dog", "7": "a cat"}), "ours")
    assert match_captions(captions, coco).notes == words


def test_a_name_that_could_be_two_images_matches_none(references):
    known = references({"a/1.jpg": ["a dog"], "b/1.jpg": ["a cat"], "2.jpg": ["a bird"], "2.png": ["a fish"]})
    assert [known.find(name)[0] for name in ("1.jpg", "x/a/1.jpg", "2", "2.png")] == [None, "a/1.jpg", None, "2.png"]
    # A number names an image only where the name is a number: photo-12 and scan-12 are different images.
    assert references({"photo-12.jpg": ["a dog"]}).find("scan-12.jpg")[0] is None


def test_only_the_split_of_the_captions_is_scored(references):
    known = references("image,caption,split\na.jpg,a dog,train\nb.jpg,a cat,test\nc.jpg,a bird,test\n", "all.csv")
    found = match_captions(parse_captions('{"b.jpg": "x", "c.jpg": "y"}', "ours"), known)
    assert list(found.captions) == ["b.jpg", "c.jpg"]
    assert found.notes == ("all captions belong to the test split; 1 image of other splits is ignored",)
    with pytest.raises(DataError, match=r"no caption for 1 of the 2 images .*: c\.jpg"):
        match_captions(parse_captions('{"b.jpg": "x"}', "ours"), known)


def test_an_empty_reference_is_left_out_with_a_note(references):
    known = references({"a.jpg": ["a dog", " "], "b.jpg": ["a cat"]})
    assert known.captions == {"a.jpg": ("a dog",), "b.jpg": ("a cat",)}
    assert "1 empty reference is left out" in known.notes[0]


def test_a_table_of_scored_captions_holds_its_references():
    found = parse_captions("image,caption,cider_d,references\n1.png,a dog,9.1,a dog | the dog\n", "captions.csv")
    assert found.captions == {"1.png": "a dog"}
    assert found.references.captions == {"1.png": ("a dog", "the dog")}


@pytest.mark.parametrize(
    "content",
    [
        [{"image": "1.png", "caption": "x", "references": ["a dog", "the dog"]}],
        [{"image": "1.png", "caption": "x", "reference": "a dog | the dog"}],
        {"image": "1.png", "caption": "x", "references": [{"caption": "<s>a dog</s>"}, {"caption": "<s>the dog</s>"}]},
        {"1.png": {"caption": "x", "references": ["a dog", "the dog"]}},
        {"image": ["1.png"], "caption": ["x"], "references": [["a dog", "the dog"]]},
    ],
)
def test_json_may_hold_references_beside_captions(references, content):
    expected = {"1.png": ("a dog", "the dog")}
    assert parse_captions(json.dumps(content), "ours").references.captions == expected
    assert references(content).captions == expected


@pytest.mark.parametrize("missing", [{}, {"references": None}, {"references": []}, {"references": ""}])
def test_a_caption_is_no_reference_where_the_file_has_references(references, missing):
    content = [
        {"image": "1.png", "caption": "x", "references": ["a dog"]},
        {"image": "2.png", "caption": "y", **missing},
    ]
    for known in (references(content), parse_captions(json.dumps(content), "ours").references):
        assert known.captions == {"1.png": ("a dog",)}
        assert "1 empty reference is left out, the first in" in known.notes[-1]
    with pytest.raises(DataError, match=r"a reference of 1\.png is not text: 5"):
        references([{"image": "1.png", "caption": "x", "references": 5}])


def test_of_captions_with_scores_the_first_is_scored_and_all_are_references(references):
    text = '{"image": "a.jpg", "captions": [{"caption": "a dog", "score": -1}, {"caption": "a cat", "score": -2}]}'
    found = parse_captions(text, "ours")
    assert found.captions == {"a.jpg": "a dog"}
    assert found.notes == ("ours: 1 image has several captions with scores; only the first one is scored",)
    assert references(text, "r.jsonl").captions == {"a.jpg": ("a dog", "a cat")}


def test_markup_in_captions_and_references_is_noted(references):
    found = parse_captions('{"a.jpg": "startseq a dog endseq", "b.jpg": "startseq a cat endseq "}', "ours")
    assert found.captions == {"a.jpg": "a dog", "b.jpg": "a cat"}
    assert found.notes == ("ours: every caption starts with 'startseq' and ends with 'endseq'; both are removed",)
    known = references({"a.jpg": ["<s> a dog<br/> </s>", "<s> the dog </s>"], "b.jpg": ["<s> a cat </s>"]})
    assert known.captions == {"a.jpg": ("a dog<br/>", "the dog"), "b.jpg": ("a cat",)}
    assert ["'<s>'" in known.notes[0], "1 caption holds HTML" in known.notes[1]] == [True, True]


@pytest.mark.parametrize("name", ["generated_caption", "Prediction", "hypothesis", "generated", "predicted_caption"])
def test_generated_captions_beside_others_are_noted(name):
    found = parse_captions(f"image_id,caption,{name}\n1,a dog,a cat\n", "ours")
    assert found.captions == {"1": "a dog"}
    note = f"ours: the caption is read from column 2 ('caption'), not from column 3 ({name.lower()!r})"
    assert found.notes == (note,)


@given(
    st.lists(st.text("ab |\\"), min_size=1, max_size=4).map(lambda texts: [" ".join(text.split()) for text in texts])
)
def test_joined_references_are_split_again(captions):
    assert list(split_references(join_references(captions))) == captions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not valid JSON in line 1, column 2: it ends too early"),
        ("[]", "holds no captions"),
        ("{}", "holds no captions"),
        ('[{"image_id": 1}]', "entry 1: no key caption; the keys are ['image_id']; rename them"),
        ('[{"image_id": 1, "caption": null}]', "entry 1: the caption of 1 is not text: None"),
        ('[{"image_id": 1.5, "caption": "a"}]', "entry 1: the image's name is 1.5; expected a text or an integer"),
        ("[1]", "entry 1: not a JSON object"),
        (
            '[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]',
            "more than one caption for 1; keep one caption per image",
        ),
        ('{"a.jpg": "a dog", "a.jpg": "a cat"}', "the key 'a.jpg' occurs 2 times in one object; keep one"),
        (
            '{"image": "a", "caption": "b"}\n{"image": "c", "caption": "d", "caption": "e"}',
            "line 2: not valid JSON: the key",
        ),
        (
            '{"image": "a.jpg", "captions": [], "error": "damaged"}',
            "entry 1: a.jpg: an error instead of a caption: 'damaged'",
        ),
        ('{"image": "a.jpg", "captions": []}', "entry 1: a.jpg has no caption"),
        ('{"info": {}, "boxes": [{"x": 1}], "more": [{"x": 1}]}', "JSON in an unknown layout, with the keys 'info'"),
        ("photo;words\na.jpg;a dog\n", "line 1: no column image and caption; the header is ['photo', 'words']"),
        ("image,caption,score\na.jpg,a dog, brown,1\n", "line 2: 4 fields instead of 3; quote captions with commas"),
        (
            "image,caption,score,error\na.jpg,,,a.jpg: not an image\n",
            "line 2: a.jpg: an error instead of a caption: 'a.jpg: not an image'",
        ),
        ("image,caption\n,a dog\n", "line 2: the image's name is ''; expected a text or an integer"),
        ("image,caption\n", "holds a header and no rows"),
        ('{"a.jpg": "\\ud83d"}', "entry 1: the caption of a.jpg: '\\ud83d' is no character"),
        ('{"\\ud83d.jpg": "a dog"}', "entry 1: the image's name: '\\ud83d' is no character"),
        (" \n", "the file is empty"),
    ],
)
def test_malformed_captions_are_refused_with_their_place(text, words):
    with pytest.raises(DataError, match=r"^ours") as caught:
        parse_captions(text, "ours")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"annotations": []}, "holds no captions to score against"),
        ({"info": {}, "images": COCO["images"]}, "images without captions; COCO publishes none of its test"),
        ({"annotations": [{"caption": "a"}]}, "annotation 1: the annotation has no image_id, or no caption that"),
        ({"images": [{"filename": "a.jpg", "sentences": []}]}, "holds no captions to score against"),
        ({"images": [{"filename": "a.jpg", "sentences": [{}]}]}, "image 1: the caption of a.jpg is not text: None"),
        ({"images": [{"sentences": []}]}, "image 1: the image has no filename"),
        ('{"42": ["a"], "42": ["b"]}', "the key '42' occurs 2 times"),
        ({}, "holds no captions"),
    ],
)
def test_malformed_references_are_refused_with_their_place(references, content, words):
    with pytest.raises(DataError, match=r"references\.json") as caught:
        references(content)
    assert words in str(caught.value)


def test_a_missing_and_an_undecodable_file_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        read_caption_file(tmp_path / "none.json")
    (tmp_path / "latin.csv").write_bytes("image,caption\n1,café\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"latin\.csv, line 2: the caption of 1: byte 0xe9 cannot be decoded; save the file as"
    ):
        read_caption_file(tmp_path / "latin.csv")


def test_images_without_references_and_without_captions_are_named(coco):
    with pytest.raises(DataError, match=r"no references for 1 of 1 image in .*: 9; its images are named 42 \(000042"):
        match_captions(parse_captions('[{"image_id": 9, "caption": "a"}]', "ours"), coco)
    one = parse_captions('[{"image_id": 7, "caption": "a"}]', "ours")
    with pytest.raises(DataError, match=r"no caption for 1 of the 2 images .*: 42; .* --subset"):
        match_captions(one, coco)
    found = match_captions(one, coco, subset=True)
    assert (list(found.references), len(found.missing)) == (["7"], 1)


def test_one_image_under_two_names_is_refused(coco):
    both = '[{"image_id": 7, "caption": "a"}, {"image_id": "x/000007.jpg", "caption": "b"}]'
    matched = r"two captions for 7 \(000007\.jpg\): 7, matched by name, and x/000007\.jpg, matched by path; keep one"
    with pytest.raises(DataError, match=matched):
        match_captions(parse_captions(both, "ours"), coco, subset=True)
    differing = '[{"image_id": 7, "file_name": "000042.jpg", "caption": "a"}]'
    with pytest.raises(DataError, match=r"two names that differ in .*: 7 is 7 and 000042\.jpg is 42$"):
        match_captions(parse_captions(differing, "ours"), coco, subset=True)


def test_ids_of_other_images_than_those_of_the_references_are_named(references):
    images = [{"id": number + 1, "file_name": f"{number:03d}.jpg"} for number in range(3)]
    annotations = [{"image_id": image["id"], "caption": "a dog"} for image in images]
    known = references({"images": images, "annotations": annotations})
    with pytest.raises(DataError) as caught:
        match_captions(parse_captions('{"0": "a dog", "1": "a cat", "2": "a bird"}', "ours"), known)
    found = (
        "ours: two captions for 1 (000.jpg): 0, matched by number, and 1, matched by name; keep one of them, or check"
    )
    assert str(caught.value).startswith(found)


CASE = SHARED / "cases" / "13-score-formats"


@pytest.mark.skipif(not CASE.is_dir(), reason="needs the collection of cases")
@pytest.mark.parametrize(
    ("captions", "references"),
    [
        *(
            (name, "refs.json")
            for name in (
                *("ok.json", "padded.json", "name2017.json", "stem.json", "dictres.json", "dictres2.json"),
                *("lines.jsonl", "idcol.csv", "semi.csv", "tab.tsv", "refcocodict.json"),
            )
        ),
        *(("ok.json", name) for name in ("karpathy.json", "refcocodict.json", "refs.csv")),
    ],
)
def test_usual_caption_and_reference_files_are_matched(captions, references):
    found = match_captions(read_caption_file(CASE / captions), read_reference_file(CASE / references))
    assert len(found.captions) == 3


@pytest.mark.parametrize(
    "cell", ["['a dog runs', 'a wet dog']", '["a dog runs", "a wet dog"]', "a dog runs | a wet dog"]
)
def test_references_in_a_cell_may_be_a_list(references, cell):
    quoted = cell.replace('"', '""')
    found = references(f'image,caption,references\na.jpg,a dog,"{quoted}"\n', "captions.csv")
    assert list(found.captions.values()) == [("a dog runs", "a wet dog")]


@pytest.mark.parametrize("content", ["42", "true", '"a dog"'])
def test_json_of_a_single_value_is_refused(references, content):
    with pytest.raises(DataError, match="JSON in an unknown layout"):
        references(content)
