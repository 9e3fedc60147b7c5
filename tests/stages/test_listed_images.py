"""The stage around the extraction: a list of pictures that is read again and again, and has to stay the same."""

import pytest

from pipeline.datasets.tables import IMAGE_COLUMNS
from pipeline.errors import DataError
from pipeline.files import write_csv
from pipeline.stages.extract import ListedImages

ROWS = [(f"{name}.png", f"pictures/{name}.png", name * 64, "train") for name in "abc"]


@pytest.fixture
def listed(tmp_path):
    write_csv(tmp_path / "images.csv", IMAGE_COLUMNS, ROWS)
    return ListedImages.of(tmp_path / "images.csv")


def test_a_list_gives_the_same_pictures_each_time(listed):
    assert [picture.image for picture in listed] == [picture.image for picture in listed] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("rows", [ROWS[::-1], ROWS[:2], [*ROWS, ROWS[0]]])
def test_a_list_that_is_replaced_meanwhile_is_refused(listed, rows):
    begun = iter(listed)
    next(begun)
    write_csv(listed.path, IMAGE_COLUMNS, rows)
    for one in (begun, iter(listed)):
        with pytest.raises(DataError, match="changed while its pictures were extracted"):
            list(one)


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        ListedImages.of(tmp_path / "images.csv")
