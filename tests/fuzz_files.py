"""Fuzzes the files that the program reads back: `python tests/fuzz_files.py [MUTATIONS] [SEED]`.

Of each kind (model file, features.h5) it damages a valid file MUTATIONS times. The file must be refused by
a `CaptionerError`, or hold exactly what the valid one holds: no traceback, no hang, no silent acceptance. Half of the
mutations of JSON get a sha256 that fits, as an attacker would make it; such a file may be accepted if everything it is
used for works. The first file that violates this is kept, and the seed repeats it.

It is beside the tests, because `test_fuzz_files.py` runs it with few mutations.
"""

import faulthandler
import hashlib
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encoders.spec import EncoderSpec, Preprocessing, sha256_of_tensors
from pipeline.errors import CaptionerError
from pipeline.features.feature_file import FeatureFile, write_feature_file
from pipeline.features.feature_layout import DIGEST_BYTES, HEADER_BYTES, Header, digest_outside_features
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.model_metadata import KEY

MODELS = Path(__file__).parent / "inference" / "models"
SLOW_SECONDS = 60
"""The process ends with a traceback when one file takes longer; an undamaged one takes milliseconds."""
MEMORY = 2 << 30
"""Bytes that a file of some kilobytes may cost beyond what the libraries use."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 255, 2**31, 2**63, 10**26, -(10**26), 0.0, -0.5, 0.5, 1e-300, 1e300),
    *(
        float("inf"),
        float("nan"),
        "",
        "x",
        "0",
        "1e5",
        "\x1b[2J",
        "\u202e",
        "\ud800",
        "../../etc/passwd",
        "a" * 100_000,
    ),
    *([], {}, [[]], [1, 2, 3], {"a": 1}, [None] * 1000, {"kind": "inject"}, "file", "imported", "nearest"),
)
Mutation = tuple[bytes, bool]
"""The file, and whether a person could have made it: its checksums fit."""


@dataclass(frozen=True)
class Target:
    """A kind of file: a valid one, how it is damaged, and how it is used."""

    name: str
    content: bytes
    mutate: Callable[[bytes, random.Random], Mutation]
    use: Callable[[Path, bool], None]
    """Read the file and use it. Raises `CaptionerError` for one that is refused, else whatever must not happen."""
    exit_codes: tuple[int, ...]
    """Of the errors that may refuse it."""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three changes of bits, bytes or blocks."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(data)) if data else 0
        size = rng.choice((1, 2, 8, 64, 1024))
        block = data[place : place + size]
        what = rng.randrange(8)
        if what < 3 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif what == 3:
            data[place : place + size] = rng.randbytes(len(block))
        elif what == 4:
            data[place : place + size] = bytes(len(block))
        elif what == 5:
            del data[place : rng.choice((place + size, len(data)))]
        elif what == 6:
            data[place:place] = block
        else:
            number = rng.choice((2**64 - 1, 2**63, 2**40, 2**31, 0))
            data[place : place + 8] = struct.pack("<Q", number)
    return bytes(data)


def with_other_value(content: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one part replaced, removed or added."""
    if isinstance(content, dict) and content and rng.random() < 0.9:
        changed = dict(content)
        key = rng.choice(sorted(changed))
        what = rng.random()
        if what < 0.1:
            del changed[key]
        elif what < 0.2:
            changed[rng.choice(("", "more", "Kind", key + "x"))] = rng.choice(VALUES)
        else:
            changed[key] = with_other_value(changed[key], rng)
        return changed
    if isinstance(content, list) and content and rng.random() < 0.8:
        place = rng.randrange(len(content))
        return [*content[:place], with_other_value(content[place], rng), *content[place + 1 :]]
    if isinstance(content, str) and content.startswith("{") and rng.random() < 0.9:
        return json.dumps(with_other_value(json.loads(content), rng), sort_keys=True, separators=(",", ":"))
    if type(content) in (int, float) and rng.random() < 0.5:
        return rng.choice((content + 1, content - 1, -content, content * 2, content / 3, content * 10**9))
    return rng.choice(VALUES)


def mutate_model(content: bytes, rng: random.Random) -> Mutation:
    """Damage bytes, or a value of the metadata or of the header, or the tensors."""
    if rng.random() < 0.5:
        return damaged(content, rng), False
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if rng.random() < 0.2:
        return packed(with_other_value(header, rng), data), False
    metadata = json.loads(header["__metadata__"][KEY])
    sealed = rng.random() < 0.7
    if rng.random() < 0.3:  # tensors with a sha256 that fits
        data = damaged(data, rng)[: len(data)].ljust(len(data), b"\0")
        metadata["tensors_sha256"] = tensors_sha256(header, data)
    else:
        metadata = with_other_value(metadata, rng)
    if sealed and isinstance(metadata, dict):
        metadata = {key: value for key, value in metadata.items() if key != "sha256"}
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
        metadata["sha256"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    header["__metadata__"][KEY] = json.dumps(metadata)
    return packed(header, data), sealed


def packed(header: Any, data: bytes) -> bytes:
    """A safetensors file."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensors_sha256(header: dict[str, Any], data: bytes) -> str:
    from safetensors.torch import load

    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    return sha256_of_tensors(load(packed(tensors, data)))


def use_model(path: Path, sealed: bool, valid: bytes) -> None:
    """Load the model; caption an image with one that has the sha256 of its content."""
    model = TrainedModel.load(path)
    if sealed:
        captioner = Captioner.load(path, device="cpu")
        ((best, *_), *_) = captioner.captions(
            [np.zeros((40, 40, 3), np.uint8)], captioner.generation_options(max_length=5)
        )
        best.text.encode(errors="surrogatepass")
    else:
        again = path.with_name("again.safetensors")
        model.save(again)
        assert again.read_bytes() == valid, "another model than the valid one, accepted silently"


def features_file(folder: Path) -> bytes:
    """A features.h5 of seven images."""
    spec = EncoderSpec(
        name="net",
        weights="random:1",
        weights_sha256="0" * 64,
        layer="features",
        grid=2,
        preprocessing=Preprocessing(64, None, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (255, 255, 255)),
        precision="float32",
    )
    rows = np.random.default_rng(1).random((7, 4, 6)).astype(np.float16)
    images = [f"{number}.jpg" for number in range(7)]
    path = folder / "valid.h5"
    write_feature_file(path, spec, images, (4, 6), lambda wanted: np.stack([rows[int(image[0])] for image in wanted]))
    return path.read_bytes()


def mutate_features(content: bytes, rng: random.Random) -> Mutation:
    """Damage bytes anywhere or in the header, or a value of the header."""
    if rng.random() < 0.5:
        return damaged(content, rng), False
    if rng.random() < 0.3:
        return damaged(content[:HEADER_BYTES], rng)[:HEADER_BYTES].ljust(HEADER_BYTES) + content[HEADER_BYTES:], False
    fields = with_other_value(json.loads(content[: HEADER_BYTES - DIGEST_BYTES]), rng)
    room = HEADER_BYTES - DIGEST_BYTES
    header = json.dumps(fields, sort_keys=True).encode()[:room].ljust(room)
    changed = header + content[room:]
    if rng.random() < 0.3:
        return changed, False
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(changed)
            digest = digest_outside_features(file, Header.unpack(changed[:HEADER_BYTES]))
    except CaptionerError:
        return changed, False
    return header + digest.encode() + content[HEADER_BYTES:], True


def use_features(path: Path, sealed: bool, valid: FeatureFile) -> None:
    """Open the file and read all rows."""
    found = FeatureFile.open(path)
    rows = found.load(found.images)
    assert rows.shape == (len(found.images), found.regions, found.channels)
    if not sealed:
        assert (found.spec, found.images) == (valid.spec, valid.images), (
            "other images or another spec, accepted silently"
        )
        assert rows.tobytes() == valid.load(valid.images).tobytes(), "other rows, accepted silently"


def targets(folder: Path) -> list[Target]:
    """All kinds. `folder` must outlive them."""
    model = (MODELS / "0.2.0-attention.safetensors").read_bytes()
    features = features_file(folder)
    valid = FeatureFile.open(folder / "valid.h5")
    return [
        Target("model", model, mutate_model, lambda path, sealed: use_model(path, sealed, model), (4, 6)),
        Target("features", features, mutate_features, lambda path, sealed: use_features(path, sealed, valid), (4,)),
    ]


def fuzz(target: Target, mutations: int, seed: int) -> int:
    """Try `mutations` damaged files; returns how many were refused. Raises `AssertionError` naming the failing one."""
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.name
        path.write_bytes(target.content)
        target.use(path, False)  # the valid file
        for number in range(mutations):
            rng = random.Random(f"{seed} {target.name} {number}")
            content, sealed = target.mutate(target.content, rng)
            path.write_bytes(content)
            try:
                faulthandler.dump_traceback_later(SLOW_SECONDS, exit=True)
                target.use(path, sealed)
                continue
            except CaptionerError as error:
                problem = "" if error.exit_code in target.exit_codes else f"exit code {error.exit_code}: {error}"
                cause: Exception = error
            except Exception as error:
                problem = repr(error)
                cause = error
            finally:
                faulthandler.cancel_dump_traceback_later()
            refused += not problem
            if problem:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{target.name}-{seed}-{number}"
                kept.write_bytes(content)
                message = f"{target.name}, seed {seed}, mutation {number}: {problem}; kept as {kept}"
                raise AssertionError(message) from cause
    return refused


def main() -> None:
    mutations = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}, {mutations:,} mutations of each kind")
    with tempfile.TemporaryDirectory() as folder:
        for target in targets(Path(folder)):
            fuzz(target, 3, seed)  # imports everything
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
            began = time.monotonic()
            refused = fuzz(target, mutations, seed)
            print(
                f"{target.name}: {refused:,} refused, {mutations - refused:,} sound, {time.monotonic() - began:.0f} s"
            )


if __name__ == "__main__":
    main()
