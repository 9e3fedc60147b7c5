"""`captioner compare A B`: files, and revisions of a repository."""

import json

import pytest
from support import needs_git, run_command, run_program

from pipeline import paths

WORDS = ["dog", "cat", "zebra", "horse", "child", "man", "woman", "boat", "train", "tree"]
REFERENCES = {f"{word}.png": f"a {word} stands near a river | the {word} near the water" for word in WORDS}


def table(captions):
    lines = ["image,caption,cider_d,references"]
    lines += [f"{word}.png,{captions(word)},0.0,{REFERENCES[f'{word}.png']}" for word in WORDS]
    return "\n".join(lines) + "\n"


def good(word):
    return f"a {word} stands near a river"


def bad(word):
    return good(word) if word in WORDS[:2] else "a man on a"


def few_images(count):
    return f"warning: {count} images: the intervals and p-values of so few are too small\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bad.csv").write_text(table(bad))
    (tmp_path / "good.csv").write_text(table(good))
    return tmp_path


def test_the_better_of_two_files_is_named_with_its_p_value(folder):
    code, out, err = run_command("compare", "bad.csv", "good.csv", "--top", "2", cwd=folder)
    assert (code, err) == (0, few_images(10))
    lines = out.splitlines()
    assert lines[0] == "10 images; A: bad.csv, B: good.csv"
    cider = next(line for line in lines if line.startswith("CIDEr-D"))
    assert cider.endswith("0.002  B is better")  # 2 to the power of 1 - 10: at least this, with so few images
    assert "8 of 10 captions changed; CIDEr-D is higher for 8 and lower for 0 of them" in out
    assert sum(line.startswith("  A ") for line in lines) == 2
    assert "  B " in out


def test_equal_files_do_not_differ(folder):
    code, out, _ = run_command("compare", "good.csv", "good.csv", cwd=folder)
    assert code == 0
    table = out.split("\n\n")[1].splitlines()[1:]
    assert all(line.endswith("no clear difference") for line in table)
    assert "-0.0" not in out
    assert "0 of 10 captions changed" in out


def test_json_holds_every_change(folder):
    code, out, _ = run_command("compare", "good.csv", "bad.csv", "--json", cwd=folder)
    assert code == 0
    found = json.loads(out)
    assert found["differences"]["bleu_4"]["difference"] < 0
    low, high = found["differences"]["bleu_4"]["interval"]
    assert low < found["differences"]["bleu_4"]["difference"] < high < 0
    assert found["images"] == 10
    assert len(found["changed"]) == 8
    assert {one["second"] for one in found["changed"]} == {"a man on a"}


def test_captions_in_coco_format_need_references(folder):
    captions = [{"image_id": f"{word}.png", "caption": good(word)} for word in WORDS]
    (folder / "coco.json").write_text(json.dumps(captions))
    code, _, err = run_command("compare", "coco.json", "good.csv", cwd=folder)
    assert code == 2
    assert err == "error: coco.json: holds no references; name their file with --references\n"
    code, out, _ = run_command("compare", "coco.json", "good.csv", "--references", "good.csv", cwd=folder)
    assert code == 0
    assert "0 of 10 captions changed" in out


def test_other_references_are_refused(folder):
    (folder / "other.csv").write_text(table(good).replace("near a river | the dog", "far away | the dog"))
    code, _, err = run_command("compare", "good.csv", "other.csv", cwd=folder)
    assert code == 3
    assert "hold different references for 1 image, such as dog.png" in err
    in_another_order = " | ".join(reversed(REFERENCES["dog.png"].split(" | ")))
    (folder / "other.csv").write_text(table(good).replace(REFERENCES["dog.png"], in_another_order))
    assert run_command("compare", "good.csv", "other.csv", cwd=folder)[0] == 0


def test_images_that_one_side_lacks_are_left_out_with_a_warning(folder):
    rows = (folder / "good.csv").read_text().splitlines()
    (folder / "fewer.csv").write_text("\n".join(rows[:-3]) + "\n")
    code, out, err = run_command("compare", "good.csv", "fewer.csv", cwd=folder)
    assert code == 0
    assert err == "warning: 3 images left out: only one of the two files has their captions\n" + few_images(7)
    assert out.startswith("7 images")


def test_images_that_neither_side_has_are_left_out_with_a_warning(folder):
    for name in ("one.json", "other.json"):
        (folder / name).write_text(json.dumps({"a.jpg": "a dog", "b.jpg": "a cat"}))
    (folder / "references.json").write_text(json.dumps({f"{letter}.jpg": ["a dog"] for letter in "abcde"}))
    code, out, err = run_command("compare", "one.json", "other.json", "--references", "references.json", cwd=folder)
    assert (code, out.startswith("2 images")) == (0, True)
    assert err == "warning: 3 images left out: neither of the two files has their captions\n" + few_images(2)


@needs_git
def test_neither_a_file_nor_a_revision_ends_with_two(folder):
    code, _, err = run_command("compare", "nothing", "good.csv", cwd=folder)
    assert code == 2
    assert err.startswith("error: nothing: no such file, and no git repository with commits")
    run_program("git", "init", "-q", cwd=folder)  # without a commit
    code, _, err = run_command("compare", "nothing", "good.csv", cwd=folder)
    assert (code, err.partition(" commits")[0]) == (2, "error: nothing: no such file, and no git repository with")
    code, _, err = run_command("compare", "", "good.csv", cwd=folder)
    assert (code, err) == (2, "error: an empty name; give a file or a revision\n")
    code, _, err = run_command("compare", "nothing.csv", "good.csv", cwd=folder)
    assert (code, err) == (3, "error: nothing.csv: no such file\n")


def test_scores_that_are_equal_as_printed_name_no_winner(folder):
    """BLEU-4 of both is 0.0, though one of the two tiny numbers is always larger."""
    (folder / "short.csv").write_text(table(lambda word: "a man"))
    (folder / "shorter.csv").write_text(table(lambda word: "a"))
    code, out, _ = run_command("compare", "short.csv", "shorter.csv", cwd=folder)
    assert code == 0
    bleu = next(line for line in out.splitlines() if line.startswith("BLEU-4"))
    assert bleu.split()[1:4] == ["0.0", "0.0", "+0.0"]
    assert bleu.endswith("no clear difference")
    assert "-0.0" not in out


@pytest.fixture
def repository(tmp_path):
    """Two commits: captions that are bad, then good ones; the workspace has the good ones and another caption."""
    run_program("git", "init", "-q", "-b", "main", cwd=tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("")
    captions = tmp_path / paths.SCORED_CAPTIONS
    captions.parent.mkdir()
    for name, text in (("first", table(bad)), ("second", table(good))):
        captions.write_text(text)
        for command in (("add", "-A"), ("commit", "-qm", name), ("tag", name)):
            run_program("git", *command, cwd=tmp_path)
    captions.write_text(table(good).replace("a tree stands near a river,", "a tree,"))
    return tmp_path


@needs_git
def test_revisions_are_compared_with_each_other_and_with_the_workspace(repository):
    code, out, err = run_command("compare", "first", "second", cwd=repository)
    assert (code, err) == (0, few_images(10))
    assert "8 of 10 captions changed; CIDEr-D is higher for 8" in out
    code, out, _ = run_command("compare", "HEAD", cwd=repository)
    assert code == 0
    assert out.startswith("10 images; A: HEAD, B: workspace")
    assert "1 of 10 captions changed" in out
    assert "a tree\n" in out


@needs_git
def test_a_revision_that_is_not_there_or_has_no_captions_is_named(repository):
    code, _, err = run_command("compare", "nothing", "second", cwd=repository)
    assert code == 2
    assert err.startswith("error: nothing: neither a file nor a revision; give a file, a commit, a branch")
    for command in (
        ("checkout", "-q", "--orphan", "empty"),
        ("rm", "-rfq", "."),
        ("commit", "-qm", "x", "--allow-empty"),
    ):
        run_program("git", *command, cwd=repository)
    (repository / ".dvc").mkdir(exist_ok=True)
    code, _, err = run_command("compare", "empty", "second", cwd=repository)
    assert code == 3
    assert err == "error: metrics/captions.csv: not in revision empty; run `dvc repro score` there and commit it\n"


@needs_git
def test_captions_of_a_revision_that_are_not_utf_8_are_named(repository):
    (repository / paths.SCORED_CAPTIONS).write_bytes(b"image,caption\na.jpg,caf\xe9\n")
    run_program("git", "commit", "-qam", "latin", cwd=repository)
    code, _, err = run_command("compare", "HEAD", "second", cwd=repository)
    assert (code, err) == (3, "error: metrics/captions.csv of revision HEAD: not UTF-8 at byte 23\n")


def test_one_image_proves_nothing(folder):
    for name, caption in (("one.csv", "a man on a"), ("other.csv", "a dog stands near a river")):
        (folder / name).write_text(f"image,caption,references\ndog.png,{caption},{REFERENCES['dog.png']}\n")
    code, out, err = run_command("compare", "one.csv", "other.csv", cwd=folder)
    assert code == 0
    assert "warning: one image: CIDEr-D is 0 by definition" in err
    table = out.split("\n\n")[1].splitlines()[1:]
    assert all("none" in line and line.endswith("no clear difference") for line in table)
    code, out, _ = run_command("compare", "one.csv", "other.csv", "--json", cwd=folder)
    bleu = json.loads(out)["differences"]["bleu_1"]
    assert (bleu["difference"] > 0, bleu["interval"], bleu["p_value"]) == (True, None, None)
