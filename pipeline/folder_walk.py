"""Lists the files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError


def walk_files(root: Path, *, hidden_folders: bool) -> Iterator[str]:
    """Yield the names below `root` of all files, with forward slashes.

    Folders come in alphabetical order, those behind links after all others. Each folder is listed once, and a link to a
    folder below `root` therefore adds nothing. The resource forks that macOS writes (`._name`) are left out. Raises
    `DataError` for a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    seen = set()
    tops = [str(root)]
    for top in tops:  # links to folders are added on the way
        for folder, folders, files in os.walk(top, onerror=refuse):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(one for one in folders if hidden_folders or not one.startswith("."))
            tops += [path for one in folders if os.path.islink(path := os.path.join(folder, one))]
            below = os.path.relpath(folder, root).replace(os.sep, "/")
            prefix = "" if below == "." else f"{below}/"
            yield from (prefix + file for file in sorted(files) if not file.startswith("._"))
