"""The folder of an ONNX export: its files, its description, and one digest over both."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ArtefactError, DataError, DiskError, ParamsError
from pipeline.files import read_json
from pipeline.wording import shown_names

SCHEMA = 2
DESCRIPTION = "captioner.json"
ENCODER, START, STEP = "encoder.onnx", "start.onnx", "step.onnx"
RERANKER = "reranker.safetensors"
FAMILIARITY = "familiarity.safetensors"
README, EXAMPLE = "README.md", "caption.py"
_AGAIN = "copy the folder again, or export to a new one"
_OWN = {DESCRIPTION, ENCODER, START, STEP, RERANKER, FAMILIARITY, README, EXAMPLE, "__pycache__"}


def folder_digest(description: Mapping[str, Any], parts: Mapping[str, bytes]) -> str:
    """Hex sha256 over the description, without its own `digest`, and over the parts that captions depend on."""
    described = {key: value for key, value in description.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(parts):
        digest.update(f"\n{name} {hashlib.sha256(parts[name]).hexdigest()}".encode())
    return digest.hexdigest()


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The description and the parts of an export.

    Raises `ArtefactError` without an export and when it has another schema, is incomplete or damaged, `ParamsError` for
    a file.
    """
    if folder.is_file():
        raise ParamsError(f"{folder}: a file; the onnx runtime reads the folder that `captioner export --onnx` writes")
    path = folder / DESCRIPTION
    if not path.is_file():
        if below := sorted(folder.glob(f"*/{DESCRIPTION}")):
            remedy = f"give {below[0].parent}"
        elif any(folder.glob("*.onnx")):
            remedy = f"{DESCRIPTION} is missing; {_AGAIN}"
        else:
            new = "NEW_FOLDER" if folder.is_dir() and any(folder.iterdir()) else folder
            remedy = f"`captioner export --onnx {new}` writes one"
        raise ArtefactError(f"{folder}: no exported model; {remedy}")
    try:
        description = read_json(path)
    except DataError as error:
        raise ArtefactError(f"{error}; {_AGAIN}") from error
    schema = description.get("schema") if isinstance(description, dict) else None
    if schema != SCHEMA:
        raise ArtefactError(f"{path}: export schema {schema}, this version reads schema {SCHEMA}; export again")
    parts = {}
    optional = {"reranker": RERANKER, "familiarity": FAMILIARITY}
    for name in (ENCODER, START, STEP, *(name for key, name in optional.items() if description.get(key))):
        try:
            parts[name] = (folder / name).read_bytes()
        except OSError as error:
            raise ArtefactError(f"{folder / name}: cannot be read: {error.strerror}; {_AGAIN}") from error
    if folder_digest(description, parts) != description.get("digest"):
        raise ArtefactError(f"{folder}: damaged: its files do not match the digest in {DESCRIPTION}; {_AGAIN}")
    return description, parts


def check_replaceable(folder: Path) -> None:
    """Raise `ParamsError` when `folder` holds files that are not of an export, `DiskError` when it is a file.

    Without a description none of its files is known to be of an export, whatever its name: a README is everywhere.
    """
    if folder.exists() and not folder.is_dir():
        raise DiskError(f"{folder}: cannot be written: a file is in its place; choose another folder")
    own = _OWN if (folder / DESCRIPTION).is_file() else set()
    others = sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []
    if others:
        raise ParamsError(
            f"--onnx {folder}: the folder holds other files ({shown_names(others, 3)}); choose a new or an empty one"
        )


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write an export as a whole: into a temporary folder that then takes the place of `folder`.

    Raises `DiskError`; an earlier export is then left as it was.
    """
    check_replaceable(folder)
    folder = folder.resolve()
    beside, earlier = (folder.with_name(f".{folder.name}.{what}-export") for what in ("unfinished", "earlier"))
    shutil.rmtree(beside, ignore_errors=True)  # of an export that was killed
    try:
        beside.mkdir(parents=True)
        for name, content in contents.items():
            with (beside / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            folder.rename(earlier)
        beside.rename(folder)
    except OSError as error:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)
        raise DiskError(f"{folder}: cannot be written: {error.strerror}; an earlier export is unchanged") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)
