"""Datasets as people have them: what is kept, what is refused and why."""

import json

import pytest

from pipeline.captions.coco import read_coco
from pipeline.captions.flickr8k import read_flickr8k
from pipeline.captions.splits import assign_splits
from pipeline.captions.table import read_table
from pipeline.errors import DataError


def table(tmp_path, text, name="captions.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def kept(captions):
    return [(row.image, row.caption, row.split) for row in captions.rows]


def refused(captions):
    return [(one.line, one.image, one.reason) for one in captions.skipped]


def test_a_quoted_comma_belongs_to_the_caption(tmp_path):
    path = table(tmp_path, 'image,caption\na.jpg,"one, two and ""three"""\n')
    assert kept(read_table(path)) == [("a.jpg", 'one, two and "three"', None)]


def test_words_that_look_like_missing_values_are_words(tmp_path):
    path = table(tmp_path, "image,caption\na.jpg,None\nb.jpg,NA\nc.jpg,0012\n")
    assert [row.caption for row in read_table(path).rows] == ["None", "NA", "0012"]


def test_columns_may_stand_in_any_order_and_the_file_may_begin_with_a_mark(tmp_path):
    path = table(tmp_path, "\ufeffsplit,caption,image\nval,a dog,a.jpg\n")
    assert kept(read_table(path)) == [("a.jpg", "a dog", "val")]


def test_each_bad_row_is_refused_with_its_line_and_reason(tmp_path):
    path = table(
        tmp_path,
        "image,caption,split\n"
        "a.jpg,fine,train\n"
        "b.jpg,,train\n"
        ",no name,train\n"
        "../c.jpg,out,train\n"
        "/etc/passwd,out,train\n"
        "..\\d.jpg,out,train\n"
        "e.jpg,one, two,train\n"
        "f.jpg,short\n"
        "g.jpg,where,dev\n",
    )
    captions = read_table(path)
    assert kept(captions) == [("a.jpg", "fine", "train")]
    leaves = "the picture's path leaves the image folder"
    assert refused(captions) == [
        (3, "b.jpg", "the caption is empty"),
        (4, "", "names no picture"),
        (5, "../c.jpg", leaves),
        (6, "/etc/passwd", leaves),
        (7, "..\\d.jpg", leaves),
        (8, "e.jpg", "1 fields too many; quote captions with commas"),
        (9, "f.jpg", "1 fields too few"),
        (10, "g.jpg", "split must be one of train, val, test, got 'dev'"),
    ]


def test_a_table_without_its_columns_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"captions.csv, line 1: no column caption"):
        read_table(table(tmp_path, "image,text\na.jpg,x\n"))


def test_a_missing_file_says_which_parameter_to_check(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: cannot be read: .*params.data.captions"):
        read_table(tmp_path / "nowhere.csv")


def test_flickr8k_lists_give_the_splits(tmp_path):
    path = table(tmp_path, "image,caption\na.jpg,x\nb.jpg,y\nc.jpg,z\n", "captions.txt")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    captions = read_flickr8k(path)
    assert kept(captions) == [("a.jpg", "x", "train"), ("b.jpg", "y", "val")]
    assert refused(captions) == [(4, "c.jpg", "the picture is in none of the split lists")]


def test_flickr8k_original_token_file_is_read(tmp_path):
    path = table(tmp_path, "a.jpg#0\tA dog , running .\na.jpg#1\tA cat\nbroken line\n", "Flickr8k.token.txt")
    captions = read_flickr8k(tmp_path)
    assert path.exists()
    assert kept(captions) == [("a.jpg", "A dog , running .", None), ("a.jpg", "A cat", None)]
    assert refused(captions) == [(3, "broken line", "no tab between the picture's name and the caption")]


def test_a_picture_in_two_flickr_lists_is_an_error(tmp_path):
    table(tmp_path, "image,caption\na.jpg,x\n", "captions.txt")
    for name in ("Flickr_8k.trainImages.txt", "Flickr_8k.testImages.txt"):
        (tmp_path / name).write_text("a.jpg\n")
    with pytest.raises(DataError, match="a picture belongs to one split"):
        read_flickr8k(tmp_path)


def coco(tmp_path, name, images, annotations):
    (tmp_path / name).write_text(json.dumps({"images": images, "annotations": annotations}))


def test_coco_names_pictures_by_their_folder_and_keeps_val_for_testing(tmp_path):
    images = [{"id": 7, "file_name": "7.jpg"}]
    coco(
        tmp_path,
        "captions_val2017.json",
        images,
        [{"image_id": 7, "caption": "A dog.\n"}, {"image_id": 8, "caption": "x"}],
    )
    captions = read_coco(tmp_path)
    assert kept(captions) == [("val2017/7.jpg", "A dog.", "test")]
    assert refused(captions) == [(2, "", "image_id 8 is not among the images")]


def test_coco_takes_validation_pictures_from_the_training_file(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(300)]
    coco(tmp_path, "captions_train2017.json", images, [{"image_id": n, "caption": "x"} for n in range(300)])
    splits = [row.split for row in assign_splits(read_coco(tmp_path).rows, 1)]
    assert set(splits) == {"train", "val"}
    assert 15 <= splits.count("val") <= 50


def test_a_file_that_is_not_coco_is_refused(tmp_path):
    (tmp_path / "captions.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="not in COCO's layout"):
        read_coco(tmp_path / "captions.json")


def test_the_split_of_a_picture_does_not_depend_on_the_others(tmp_path):
    names = [f"{number}.jpg" for number in range(400)]
    path = table(tmp_path, "image,caption\n" + "".join(f"{name},a\n{name},b\n" for name in names))
    rows = assign_splits(read_table(path).rows, 3)
    alone = table(tmp_path, f"image,caption\n{names[5]},a\n", "one.csv")
    by_image = {row.image: row.split for row in rows}
    assert assign_splits(read_table(alone).rows, 3)[0].split == by_image[names[5]]
    assert all(by_image[row.image] == row.split for row in rows)
    assert 280 <= sum(split == "train" for split in by_image.values()) <= 350


def test_the_real_flickr8k_captions_are_all_kept(shared):
    captions = read_flickr8k(shared / "data" / "flickr8k-captions" / "captions.txt")
    assert len(captions.rows) + len(captions.skipped) == 40_455
    assert len({row.image for row in captions.rows}) == 8_091


def test_the_real_mini_sets_are_read_whole(shared):
    flickr = read_flickr8k(shared / "data" / "flickr8k-mini")
    assert (len(flickr.rows), len(flickr.skipped)) == (798 * 5, 0)
    coco_rows = read_coco(shared / "data" / "coco-mini" / "annotations").rows
    assert len({row.image for row in coco_rows}) == 80
