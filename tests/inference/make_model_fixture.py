"""Writes tests/inference/models: one small model file of each decoder, and the captions that it generates.

    PYTHONPATH=tests python tests/inference/make_model_fixture.py

Version 0.2.0 wrote the files. Later versions must read them, so never write them again: add files of the new version.
"""

import json
from pathlib import Path

import torch
from support import small_encoder

from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.search import SearchOptions
from pipeline.inference.model_file import TrainedModel
from pipeline.options import RerankOptions
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS

FOLDER = Path(__file__).parent / "models"
VERSION = "0.2.0"
WORDS = ("a", "red", "green", "blue", "circle", "square")
SEARCH = SearchOptions(beam_size=3, max_length=6, length_penalty=0.7)
RERANK = RerankOptions(neighbors=2, weight=4.0)


def features(images: int, regions: int, channels: int) -> torch.Tensor:
    """Features without random numbers, whose generator may change."""
    values = torch.arange(images * regions * channels, dtype=torch.float32)
    return (values * 0.37).sin().reshape(images, regions, channels)


def captions_of(model: TrainedModel) -> list[list[dict[str, object]]]:
    """Captions of three images with and without re-ranking."""
    found = [
        model.search(features(3, model.regions, model.channels), SEARCH, rerank, captions=2)
        for rerank in (RerankOptions(), RERANK)
    ]
    return [
        [{"tokens": list(one.tokens), "score": round(one.score, 4)} for of_image in hypotheses for one in of_image]
        for hypotheses in found
    ]


def make(kind: str) -> TrainedModel:
    encoder = small_encoder()
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *WORDS), (0, 0, 0, 0, *range(9, 3, -1)), "ptb", 2)
    params = DECODERS[kind].options(kind=kind, embed=6, hidden=8).model_dump()
    sizes = {"regions": encoder.regions, "channels": encoder.channels}
    torch.manual_seed(1)
    decoder = make_decoder(params, vocabulary=len(vocabulary), **sizes)
    given = features(4, **sizes)
    decoder.normalize.fit([given])
    with torch.no_grad():
        decoder.output.weight *= 8  # so that rounding changes no caption
    model = TrainedModel(
        decoder=decoder.eval(),
        decoder_params=params,
        vocabulary=vocabulary,
        spec=encoder.spec,
        **sizes,
        encoder_tensors=encoder.tensors_to_embed() if kind == "attention" else None,  # once is enough
        params={"seed": 1, "decoder": params},
        trained_on={"images": 4, "best_epoch": 1},
    )
    return model.with_reranker([given], [[[4, 5, 8]], [[4, 6, 9]], [[4, 7, 8]], [[4, 5, 9]]])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    expected = {}
    for kind in DECODERS:
        name = f"{VERSION}-{kind}.safetensors"
        model = make(kind)
        model.save(FOLDER / name)
        expected[name] = captions_of(model)
    (FOLDER / f"{VERSION}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
