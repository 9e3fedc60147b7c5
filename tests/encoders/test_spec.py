"""The encoder spec: a canonical JSON whose digest never changes for the same encoder."""

from dataclasses import MISSING, fields, replace

import pytest

from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.errors import ArtefactError

SPEC = EncoderSpec(
    name="resnet50",
    weights="IMAGENET1K_V2",
    weights_sha256="11ad3fa6" * 8,
    layer="layer4",
    grid=7,
    preprocessing=Preprocessing(224, 232, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (255, 255, 255)),
    precision="float32",
)
CANONICAL_JSON = (
    '{"grid":7,"layer":"layer4","name":"resnet50","precision":"float32","preprocessing":{"background":[255,255,255],'
    '"interpolation":"bilinear","mean":[0.485,0.456,0.406],"shorter_side":232,"size":224,"std":[0.229,0.224,0.225]},'
    '"schema":3,"weights":"IMAGENET1K_V2",'
    '"weights_sha256":"11ad3fa611ad3fa611ad3fa611ad3fa611ad3fa611ad3fa611ad3fa611ad3fa6"}'
)


def test_the_canonical_json_of_version_0_2_0_is_kept():
    """Changing it makes every stored feature and every model file unusable."""
    assert SPEC.to_json() == CANONICAL_JSON
    assert EncoderSpec.from_json(CANONICAL_JSON) == SPEC


def test_fields_at_their_defaults_are_left_out_so_that_new_ones_keep_old_digests():
    optional = {field.name for field in fields(SPEC) if field.default is not MISSING}
    assert {"source", "dtype"} <= optional
    other = replace(SPEC, source="another")
    assert '"source":"another"' in other.to_json()
    assert EncoderSpec.from_json(other.to_json()) == other
    assert other.digest != SPEC.digest


def test_differences_name_the_fields():
    other = replace(SPEC, grid=1, preprocessing=replace(SPEC.preprocessing, size=225))
    assert SPEC.differences(other) == [
        "grid: 7 (model), 1 (features)",
        "preprocessing.size: 224 (model), 225 (features)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not an encoder spec"),
        ("[]", "not an encoder spec"),
        ('{"schema":2}', "has schema 2, this version reads 3"),
        (CANONICAL_JSON.replace('"grid":7,', ""), "not an encoder spec"),
        (CANONICAL_JSON.replace('"grid":7,', '"grid":7,"unknown":1,'), "not an encoder spec"),
        (CANONICAL_JSON.replace('"size":224,', ""), "not an encoder spec: preprocessing.size"),
        (CANONICAL_JSON.replace('"size":224,', '"size":224,"unknown":1,'), "preprocessing.unknown"),
        (CANONICAL_JSON.replace('"size":224', '"size":"224"'), "preprocessing.size: must be a valid integer"),
        (CANONICAL_JSON.replace('"grid":7', '"grid":7.0'), "grid: must be a valid integer"),
        (CANONICAL_JSON.replace('"grid":7', '"grid":20000'), "grid: must be less"),
        (CANONICAL_JSON.replace('"grid":7', '"grid":0'), "only imported features have"),
        (CANONICAL_JSON.replace("bilinear", "none"), "only imported features have"),
        (CANONICAL_JSON.replace("float32", "float64"), "precision: String must match"),
        (CANONICAL_JSON.replace("bilinear", "lanczos"), "preprocessing.interpolation: must be 'nearest'"),
        (CANONICAL_JSON.replace('"size":224', '"size":1000000'), "preprocessing.size: must be less"),
        (CANONICAL_JSON.replace("0.229", "0.0"), "preprocessing.std.0: must be greater"),
        (CANONICAL_JSON.replace("0.485", "NaN"), "preprocessing.mean"),
        (CANONICAL_JSON.replace("11ad3fa6", ""), "weights_sha256: String must have at least 64"),
        ("[" * 100_000, "not an encoder spec"),
    ],
)
def test_other_texts_are_refused(text, problem):
    with pytest.raises(ArtefactError, match=problem):
        EncoderSpec.from_json(text)
