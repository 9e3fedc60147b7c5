"""Files of captions and references."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.metrics.caption_files import (
    join_references,
    match_captions,
    parse_captions,
    read_caption_file,
    read_reference_file,
    split_references,
)

COCO = {
    "images": [{"id": 42, "file_name": "000042.jpg"}, {"id": 7, "file_name": "000007.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 42, "caption": "A dog."},
        {"id": 2, "image_id": 7, "caption": "A cat."},
        {"id": 3, "image_id": 42, "caption": "A brown dog."},
    ],
}


@pytest.fixture
def coco(tmp_path):
    path = tmp_path / "references.json"
    path.write_text(json.dumps(COCO))
    return read_reference_file(path)


def caption_file(tmp_path, text, name="captions.json"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_caption_file(path)


def test_coco_formats_are_read(tmp_path, coco):
    found = caption_file(
        tmp_path, json.dumps([{"image_id": 7, "caption": "a cat"}, {"image_id": 42, "caption": "a dog"}])
    )
    captions, references = match_captions(found, coco)
    assert captions == {"42": "a dog", "7": "a cat"}
    assert references == {"42": ("A dog.", "A brown dog."), "7": ("A cat.",)}
    assert list(captions) == list(references)


def test_captions_of_predict_match_references_by_file_name(tmp_path, coco):
    lines = [
        {"image": "photos/000042.jpg", "captions": [{"caption": "a dog", "score": -0.1}], "error": None},
        {"image": "photos\\000007.jpg", "captions": [{"caption": "a cat", "score": -0.1}], "error": None},
    ]
    found = caption_file(tmp_path, "\n".join(map(json.dumps, lines)))
    assert match_captions(found, coco)[0] == {"42": "a dog", "7": "a cat"}


def test_a_table_and_a_plain_object_are_read(tmp_path):
    found = caption_file(tmp_path, '\ufeffImage,Caption\n1.png,"a dog, brown"\n', "ours.csv")
    assert found.captions == {"1.png": "a dog, brown"}
    assert found.references is None
    (tmp_path / "references.json").write_text(json.dumps({"1.png": ["a dog", "the dog"]}))
    assert read_reference_file(tmp_path / "references.json").captions == {"1.png": ("a dog", "the dog")}
    (tmp_path / "references.csv").write_text("image,caption\n1.png,a dog\n2.png,a cat\n1.png,the dog\n")
    assert read_reference_file(tmp_path / "references.csv").captions == {
        "1.png": ("a dog", "the dog"),
        "2.png": ("a cat",),
    }


def test_a_table_of_scored_captions_holds_its_references(tmp_path):
    found = caption_file(
        tmp_path, "image,caption,cider_d,references\n1.png,a dog,9.1,a dog | the dog\n", "captions.csv"
    )
    assert found.references == {"1.png": ("a dog", "the dog")}
    assert read_reference_file(tmp_path / "captions.csv").captions == found.references


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.text("ab |\\"), min_size=1, max_size=4).map(lambda texts: [" ".join(text.split()) for text in texts])
)
def test_joined_references_are_split_again(captions):
    assert list(split_references(join_references(captions))) == captions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not valid JSON"),
        ("[]", "holds no captions"),
        ('[{"image_id": 1}]', "entry 1: expected an object with image_id and caption"),
        ('[{"image_id": 1, "caption": null}]', "entry 1: expected an object with image_id and caption"),
        (
            '[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]',
            "more than one caption for 1; keep one caption per image",
        ),
        ('{"image": "a.jpg", "captions": [], "error": "damaged"}', "line 1: a.jpg has no caption: damaged"),
        ('{"a.jpg": "a dog"}', "line 1: expected COCO's results"),
        ("photo;text\na.jpg;a dog\n", "neither JSON nor a CSV table with the columns image and caption"),
        ("image,caption\na.jpg,a dog, brown\n", "line 2: 3 fields, the header has 2"),
        ("image,caption\n", "holds no captions"),
        ("", "neither JSON nor a CSV table"),
    ],
)
def test_malformed_captions_are_refused_with_their_place(text, words):
    with pytest.raises(DataError, match=r"^ours") as caught:
        parse_captions(text, "ours")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"image_id": 1, "caption": "a"}]', "a JSON list holds captions, not references"),
        ('{"annotations": []}', "holds no annotations"),
        ('{"annotations": [{"caption": "a"}]}', "annotation 1: expected an object with image_id and caption"),
        ('{"1": "a dog"}', "1: expected a list of captions, got 'a dog'"),
        ("{}", "holds no captions"),
    ],
)
def test_malformed_references_are_refused_with_their_place(tmp_path, text, words):
    path = tmp_path / "references.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"references\.json") as caught:
        read_reference_file(path)
    assert words in str(caught.value)


def test_an_image_with_an_error_is_not_an_empty_caption():
    table = "image,caption,score,error\na.jpg,a dog,-1.2,\nb.jpg,,,b.jpg: not an image\n"
    with pytest.raises(DataError, match=r"1 images have an error and no caption, such as b.jpg"):
        parse_captions(table, "part.csv")


def test_a_missing_and_an_undecodable_file_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        read_caption_file(tmp_path / "none.json")
    (tmp_path / "latin.csv").write_bytes("image,caption\n1,café\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 at byte 19"):
        read_caption_file(tmp_path / "latin.csv")


def test_images_without_references_and_without_captions_are_named(coco):
    with pytest.raises(DataError, match=r"ours: 1 of 1 images have no references in .*references\.json: 9"):
        match_captions(parse_captions('[{"image_id": 9, "caption": "a"}]', "ours"), coco)
    one = parse_captions('[{"image_id": 7, "caption": "a"}]', "ours")
    with pytest.raises(DataError, match=r"no caption for 1 of the 2 images .*: 42; .* --subset"):
        match_captions(one, coco)
    assert list(match_captions(one, coco, subset=True)[1]) == ["7"]


def test_one_image_under_two_names_is_refused(coco):
    both = '[{"image_id": 7, "caption": "a"}, {"image_id": "x/000007.jpg", "caption": "b"}]'
    with pytest.raises(DataError, match=r"two captions for 7 \(the second one as x/000007\.jpg\)"):
        match_captions(parse_captions(both, "ours"), coco, subset=True)
