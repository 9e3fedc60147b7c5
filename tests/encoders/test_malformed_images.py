"""Files that people have where pictures belong: each is decoded or refused, and none takes the process with it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_command, set_param
from PIL import Image

DECODE = """
import sys
from pathlib import Path
from pipeline.encoders.images import ImageError, decode
try:
    picture = decode(Path(sys.argv[1]).read_bytes())
    print(picture.mode, *picture.size)
except ImageError as error:
    print("refused:", error)
"""


def saved(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def bomb():
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    content = saved(Image.new("1", (8, 8)), "PNG")
    size = (60_000).to_bytes(4, "big")
    import zlib

    header = content[12:16] + size + size + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


JPEG, PNG = saved(noise(), "JPEG"), saved(noise(), "PNG")
CASES = {
    "jpeg": (JPEG, "RGB 40 30"),
    "progressive jpeg": (saved(noise(), "JPEG", progressive=True), "RGB 40 30"),
    "cmyk jpeg": (saved(noise("CMYK"), "JPEG"), "RGB 40 30"),
    "grey jpeg": (saved(noise("L"), "JPEG"), "RGB 40 30"),
    "sixteen-bit png": (saved(Image.fromarray(np.full((5, 4), 40_000, np.uint16)), "PNG"), "RGB 4 5"),
    "palette png": (saved(noise("P"), "PNG"), "RGB 40 30"),
    "png with alpha": (saved(noise("RGBA"), "PNG"), "RGB 40 30"),
    "animated gif": (saved(noise("P"), "GIF", save_all=True, append_images=[noise("P")]), "RGB 40 30"),
    "webp": (saved(noise(), "WEBP"), "RGB 40 30"),
    "tiff of two pages": (saved(noise(), "TIFF", save_all=True, append_images=[noise()]), "RGB 40 30"),
    "lzw tiff": (saved(noise(), "TIFF", compression="tiff_lzw"), "RGB 40 30"),
    "one pixel": (saved(noise(size=(1, 1)), "PNG"), "RGB 1 1"),
    "empty": (b"", "refused: the file is empty"),
    "text": (b"hello", "refused: not a picture"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "refused: damaged"),
    "truncated png": (PNG[: len(PNG) // 2], "refused: damaged"),
    "half a header": (PNG[:20], "refused:"),
    "png with a flipped byte": (flipped(PNG, len(PNG) // 2), "refused: damaged"),
    "bomb": (bomb(), "refused: more than the limit of 100000000 pixels"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "refused: not a"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "refused: not a picture"),
    "pdf": (b"%PDF-1.4\n%%EOF\n", "refused: not a picture"),
    "html of a login page": (b"<!DOCTYPE html><title>403</title>", "refused: not a picture"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_decoded_or_refused_in_a_process_of_its_own(case, tmp_path):
    content, expected = CASES[case]
    (tmp_path / "picture.jpg").write_bytes(content)  # the extension is wrong for most: the content counts
    done = subprocess.run(
        [sys.executable, "-c", DECODE, tmp_path / "picture.jpg"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_what_is_no_file_is_listed_and_moves_nobody(project):
    from pipeline import paths
    from pipeline.features.feature_file import FeatureFile

    for stage in ("prepare", "extract"):
        assert run_command(stage, cwd=project)[0] == 0
    before = FeatureFile.open(project / paths.FEATURES)
    expected = {image: before.load([image]).tobytes() for image in before.images}

    images = Path(project / "data/tiny/images")
    names = ["001.png", "002.png", "003.png", "005.png"]
    for name in names:
        (images / name).unlink()
    (images / names[0]).mkdir()
    os.mkfifo(images / names[1])
    (images / names[2]).symlink_to(names[2])
    (images / names[3]).symlink_to("nowhere.png")
    set_param(project, "data.max_skipped", 0.5)
    for stage in ("prepare", "extract"):
        code, _, said = run_command(stage, cwd=project)
        assert code == 0, said
    assert "14 images, 14 from the store, 0 encoded" in said
    skipped = (project / paths.SKIPPED).read_text()
    assert all(f",{name}," in skipped for name in names)
    after = FeatureFile.open(project / paths.FEATURES)
    assert set(after.images) == set(expected) - set(names)
    assert all(after.load([image]).tobytes() == expected[image] for image in after.images)
