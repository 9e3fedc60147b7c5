"""The web application behind `captioner serve`: one page and an HTTP interface.

Images stay in memory, and the file names of clients are not used.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline import __version__
from pipeline.encoders.images import FORMATS, ImageError, visible_region
from pipeline.inference.base_captioner import BaseCaptioner, Caption
from pipeline.inference.familiarity import describe_unfamiliar
from pipeline.tokens import SPECIAL_TOKENS
from pipeline.web.batching import Batcher, CaptionRequest, DecodedImage
from pipeline.web.security import Guard
from pipeline.web.uploads import FIELD, Limits, discard, read_image

_STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class CaptionOut:
    """A caption. `attention` has a list of weights over the grid for each token."""

    caption: str
    score: float
    certainty: float
    agreement: float | None
    tokens: list[str]
    attention: list[list[float]] | None


@dataclass(frozen=True)
class ImageOut:
    """The captions of an image, best first. Attention weights are by rows of a `grid` x `grid` over `visible_region`
    (left, top, right, bottom as shares of the image). `familiarity` is the share of the val images that are at least as
    unlike the training images, null if the model does not know it; `warning` says so in words where it is low."""

    captions: list[CaptionOut]
    familiarity: float | None
    warning: str | None
    width: int
    height: int
    grid: int
    visible_region: list[float]


@dataclass(frozen=True)
class ModelOut:
    """The model, and the limits of the server."""

    encoder: str
    vocabulary: int
    grid: int
    attention: bool
    formats: list[str]
    max_bytes: int
    version: str


@dataclass(frozen=True)
class ErrorOut:
    """The reason why a request failed."""

    error: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOut, "description": "The form cannot be read or has other fields, or the length is ambiguous"},
    403: {"model": ErrorOut, "description": "The request is for another host, or from a page of another site"},
    408: {"model": ErrorOut, "description": "The body did not arrive in time"},
    413: {"model": ErrorOut, "description": "The image is larger than the server's limit"},
    415: {"model": ErrorOut, "description": "The body is neither an image nor a form"},
    422: {"model": ErrorOut, "description": "The image cannot be used, or a parameter is unknown or out of range"},
    503: {"model": ErrorOut, "description": "Too many concurrent requests; try again after `Retry-After` seconds"},
}
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}}},
        "application/octet-stream": {"schema": _BINARY},
        **{f"image/{name.lower()}": {"schema": _BINARY} for name in FORMATS},
    },
}


def make_app(captioner: BaseCaptioner, *, limits: Limits = Limits(), hosts: Collection[str] | None = None) -> FastAPI:
    """The application. It accepts requests whose Host header is one of `hosts`; None accepts any."""
    batcher = Batcher(captioner)
    app = FastAPI(
        title="Captioner",
        version=__version__,
        description="Captions for images. Send one image per request; concurrent requests are batched.",
        lifespan=batcher.lifespan,
        docs_url=None,  # FastAPI's documentation pages load scripts from other hosts
        redoc_url=None,
    )
    app.add_middleware(Guard, hosts=hosts, max_bytes=limits.max_bytes)
    _add_page(app)
    _add_captions(app, captioner, batcher, limits)
    _add_facts(app, captioner, limits)
    _add_error_handlers(app, limits)
    return app


def _add_captions(app: FastAPI, captioner: BaseCaptioner, batcher: Batcher, limits: Limits) -> None:
    """The route that captions an image."""
    free = asyncio.Semaphore(limits.max_requests)

    @app.post("/v1/captions", responses=_ERRORS, openapi_extra={"requestBody": _BODY})
    async def captions(request: Request, query: Annotated[CaptionRequest, Query()]) -> ImageOut:
        """Caption the image in the body: its bytes, or a form with the file `image`."""
        _refuse_repeated_parameters(request)
        if free.locked():
            raise HTTPException(503, "too many concurrent requests; try again", headers={"Retry-After": "1"})
        try:
            async with free:
                image = await batcher.decode(await read_image(request, limits.max_bytes))
                generated = await batcher.caption(image, query)
        except ImageError as error:
            raise HTTPException(422, f"the image cannot be used: {error}") from error
        return _image_out(captioner, image, generated)


def _add_facts(app: FastAPI, captioner: BaseCaptioner, limits: Limits) -> None:
    """The routes that describe the model and the server."""
    facts = ModelOut(
        encoder=captioner.spec.name,
        vocabulary=len(captioner.vocabulary) - len(SPECIAL_TOKENS),
        grid=captioner.spec.grid,
        attention=_has_attention(captioner),
        formats=list(FORMATS),
        max_bytes=limits.max_bytes,
        version=__version__,
    )

    @app.get("/v1/model")
    async def model() -> ModelOut:
        """The model, and the limits of the server."""
        return facts

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server works."""
        return {"status": "ok"}


def _add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=_STATIC))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_STATIC / "page.html", headers={"cache-control": "no-cache"})  # Back finds it as it was


def _add_error_handlers(app: FastAPI, limits: Limits) -> None:
    """Errors as JSON, sent after the rest of the body: a client that is still sending would not see them."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code in {408, 413, 415, 503}:
            await discard(request, 2 * limits.max_bytes)
            headers["Connection"] = "close"  # ends an endless body
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        await discard(request, limits.max_bytes)
        unknown = f"unknown parameter; known: {', '.join(CaptionRequest.model_fields)}"
        reasons = [
            f"{one['loc'][-1]}: {unknown if one.get('type') == 'extra_forbidden' else one['msg']}"
            for one in error.errors()
        ]
        return JSONResponse({"error": "; ".join(reasons)}, 422)


def _refuse_repeated_parameters(request: Request) -> None:
    """Raise `RequestValidationError` for parameters that are given several times, of which FastAPI takes one value."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise RequestValidationError([{"loc": ("query", name), "msg": "given more than once"} for name in repeated])


def _image_out(captioner: BaseCaptioner, image: DecodedImage, captions: list[Caption]) -> ImageOut:
    region = visible_region(captioner.spec.preprocessing, image.width, image.height)
    familiarity = captions[0].familiarity
    return ImageOut(
        captions=[_caption_out(caption) for caption in captions],
        familiarity=None if familiarity is None else round(familiarity, 4),
        warning=describe_unfamiliar(familiarity),
        width=image.width,
        height=image.height,
        grid=captioner.spec.grid,
        visible_region=[round(share, 4) for share in region],
    )


def _caption_out(caption: Caption) -> CaptionOut:
    attention = caption.attention
    return CaptionOut(
        caption=caption.text,
        score=round(caption.score, 4),
        certainty=round(caption.certainty, 4),
        agreement=None if caption.agreement is None else round(caption.agreement, 4),
        tokens=list(caption.tokens),
        attention=None if attention is None else [[round(weight, 4) for weight in step] for step in attention],
    )


def _has_attention(captioner: BaseCaptioner) -> bool:
    """Whether the decoder has attention weights, found out with a blank image; this also warms the model up."""
    size = captioner.spec.preprocessing.size
    blank = np.zeros((1, size, size, 3), np.uint8)
    ((caption, *_),) = captioner.caption_pixels(blank, captioner.generation_options(beam_size=1), attention=True)
    return caption.attention is not None
