"""The readers on published datasets, where these are present."""

import csv
import json

from reading import detect, kept, read, write


def test_all_captions_of_flickr8k_are_kept(shared):
    entries = read("flickr8k", shared / "data" / "flickr8k-captions" / "captions.txt")
    assert (len(entries.captions), entries.skipped, entries.notes) == (40_455, [], [])
    assert len({row.image for row in entries.captions}) == 8_091
    as_table = read("table", shared / "data" / "flickr8k-captions" / "captions.txt")
    assert kept(as_table) == kept(entries)


def test_captions_of_flickr8k_are_those_of_the_csv_module(shared):
    path = shared / "data" / "flickr8k-captions" / "captions.txt"
    with path.open(newline="", encoding="utf-8") as file:
        expected = [(image, " ".join(caption.split())) for image, caption in list(csv.reader(file))[1:]]
    assert [(image, caption) for image, caption, _ in kept(read("flickr8k", path))] == expected


def test_captions_are_the_same_in_every_format(shared, tmp_path):
    """flickr8k-mini write as each format that can hold it."""
    source = kept(read("flickr8k", shared / "data" / "flickr8k-mini"))
    by_image = {}
    for image, caption, split in source:
        by_image.setdefault((image, split), []).append(caption)
    rows = [{"image": image, "caption": captions, "split": split} for (image, split), captions in by_image.items()]
    sentences = [
        {"filename": one["image"], "split": one["split"], "sentences": [{"raw": text} for text in one["caption"]]}
        for one in rows
    ]
    token = "".join(f"{r['image']}#{n}\t{text}\n" for r in rows for n, text in enumerate(r["caption"]))
    results = "".join(f"{r['image']}| {n}| {text}\n" for r in rows for n, text in enumerate(r["caption"]))
    without = [(image, caption, None) for image, caption, _ in source]
    assert kept(read("table", write(tmp_path, "\n".join(map(json.dumps, rows)), "rows.jsonl"))) == source
    assert kept(read("karpathy", write(tmp_path, json.dumps({"images": sentences}), "dataset_x.json"))) == source
    assert kept(read("flickr8k", write(tmp_path, token, "f/Flickr8k.token.txt"))) == without
    header = "image_name| comment_number| comment\n"
    assert kept(read("flickr30k", write(tmp_path, header + results, "f/results.csv"))) == without


def test_the_small_datasets_are_read_completely(shared):
    flickr = read("flickr8k", shared / "data" / "flickr8k-mini")
    assert (len(flickr.captions), len(flickr.skipped)) == (798 * 5, 0)
    found = detect(shared / "data" / "coco-mini")
    assert found.format == "coco"
    rows = read("coco", found.captions).captions
    assert len({row.image for row in rows}) == 80
