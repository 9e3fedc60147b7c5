"""The web application behind `captioner serve`: one page, and an interface for programs.

Nothing of a request is written to disk; file names of clients are not even read.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline import __version__
from pipeline.encoders.images import FORMATS, ImageError
from pipeline.inference.base_captioner import BaseCaptioner, Caption, part_seen
from pipeline.text.vocabulary import SPECIAL_TOKENS
from pipeline.web.batching import Batcher, Opened, Wish
from pipeline.web.reference import reference_page
from pipeline.web.security import Guard
from pipeline.web.uploads import FIELD, discard, read_image_bytes

_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_STATIC = ("page.css", "page.js", "attention.js", "captions.js", "files.js", "table.js")

LOOK_SECONDS = 0.25
"""How often it is asked whether a client that waits is still there."""


@dataclass(frozen=True)
class Limits:
    """What a server takes upon itself."""

    max_bytes: int = 20_000_000
    """Of a picture."""
    max_requests: int = 64
    """Pictures that are being received, waiting or captioned at a time."""


@dataclass(frozen=True)
class CaptionOut:
    """A caption as programs get it."""

    caption: str
    score: float
    certainty: float
    agreement: float | None
    words: list[str]
    attention: list[list[float]] | None


@dataclass(frozen=True)
class PictureOut:
    """A picture's captions, best first; where the decoder looked is by rows of a `grid` x `grid` over `seen`."""

    captions: list[CaptionOut]
    width: int
    height: int
    grid: int
    seen: list[float]


@dataclass(frozen=True)
class ModelOut:
    """What answers here, and its limits."""

    encoder: str
    vocabulary: int
    grid: int
    attention: bool
    formats: list[str]
    max_bytes: int
    version: str


@dataclass(frozen=True)
class HealthOut:
    """Whether the server works."""

    status: str


@dataclass(frozen=True)
class ErrorOut:
    """Why there is no answer."""

    error: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOut, "description": "The body is not what its headers say"},
    403: {"model": ErrorOut, "description": "The request is for another host, or from another site's page"},
    408: {"model": ErrorOut, "description": "The body did not arrive in time"},
    413: {"model": ErrorOut, "description": "The picture is larger than the server's limit"},
    415: {"model": ErrorOut, "description": "The body is neither a picture nor a form"},
    422: {"model": ErrorOut, "description": "Not a usable picture, or a parameter out of its range; with the reason"},
    503: {"model": ErrorOut, "description": "Too many requests at a time; try again after `Retry-After` seconds"},
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "string", "format": "binary"}},
            }
        },
        "application/octet-stream": _PICTURE,
        **{f"image/{kind.lower()}": _PICTURE for kind in FORMATS},
    },
}


def make_app(captioner: BaseCaptioner[Any], *, limits: Limits = Limits(), hosts: Collection[str] | None = None) -> FastAPI:
    """The application. It answers requests whose Host is one of `hosts`; None: any."""
    batcher = Batcher(captioner)
    static = _static_files()
    looks = _looks(captioner)
    inside = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(
        title="Captioner",
        version=__version__,
        description="Captions for pictures. Send one picture per request; requests are batched together.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.batcher = batcher
    app.add_middleware(Guard, hosts=hosts)

    @app.post("/v1/captions", responses=_ERRORS, openapi_extra={"requestBody": _BODY})
    async def captions(
        request: Request,
        captions: Annotated[int, Query(ge=1, le=10, description="How many different captions, best first")] = 1,
        beam_size: Annotated[
            int | None, Query(ge=1, le=20, description="Captions kept in the search; 1 is greedy. By default 3 or 10")
        ] = None,
        max_length: Annotated[int, Query(ge=1, le=100, description="Longest caption, in words")] = 30,
        attention: Annotated[bool, Query(description="Also say where the decoder looked for each word")] = False,
    ) -> PictureOut:
        """Caption the picture in the body: its bytes alone, or a form with the picture in the field `image`."""
        nonlocal inside
        if inside >= limits.max_requests:
            raise HTTPException(503, "too many requests at a time; try again", headers={"Retry-After": "1"})
        inside += 1
        try:
            content = await read_image_bytes(request, limits.max_bytes)
            picture = await batcher.open(content)
            wish = Wish(captions, beam_size, max_length, attention)
            found = await _unless_gone(request, batcher.captions(picture, wish))
        except ImageError as error:
            raise HTTPException(422, f"not a usable picture: {error}") from error
        finally:
            inside -= 1
        return _picture_out(captioner, picture, found)

    @app.get("/v1/model")
    async def model() -> ModelOut:
        """What answers here, and its limits."""
        return ModelOut(
            encoder=captioner.spec.name,
            vocabulary=len(captioner.vocabulary) - len(SPECIAL_TOKENS),
            grid=captioner.spec.grid,
            attention=looks,
            formats=list(FORMATS),
            max_bytes=limits.max_bytes,
            version=__version__,
        )

    @app.get("/healthz")
    async def healthz() -> HealthOut:
        """Whether the server works."""
        return HealthOut("ok")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return static["page.html"]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(reference_page(app.openapi()), media_type=_TYPES["html"])

    @app.get("/static/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in static:
            raise HTTPException(404, "no such file")
        return static[name]

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code in {408, 413, 415, 503}:
            await discard(request, 2 * limits.max_bytes)
            headers["Connection"] = "close"  # a body that goes on for ever ends here
        return JSONResponse(asdict(ErrorOut(str(error.detail))), error.status_code, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        await discard(request, limits.max_bytes)
        reasons = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()]
        return JSONResponse(asdict(ErrorOut("; ".join(reasons))), 422)

    return app


async def _unless_gone(request: Request, captions: Coroutine[Any, Any, list[Caption]]) -> list[Caption]:
    """What `captions` gives; they are no longer waited for, nor computed, once the client has gone."""
    waiting = asyncio.ensure_future(captions)
    try:
        while not (await asyncio.wait({waiting}, timeout=LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise HTTPException(499, "the client has gone")
    finally:
        waiting.cancel()
    return waiting.result()


def _picture_out(captioner: BaseCaptioner[Any], picture: Opened, found: list[Caption]) -> PictureOut:
    seen = part_seen(captioner.spec.transform, picture.width, picture.height)
    return PictureOut(
        captions=[_caption_out(caption) for caption in found],
        width=picture.width,
        height=picture.height,
        grid=captioner.spec.grid,
        seen=[round(share, 4) for share in seen],
    )


def _caption_out(caption: Caption) -> CaptionOut:
    attention = caption.attention
    return CaptionOut(
        caption=caption.text,
        score=round(caption.score, 4),
        certainty=round(caption.certainty, 4),
        agreement=None if caption.agreement is None else round(caption.agreement, 4),
        words=list(caption.words),
        attention=None if attention is None else [[round(weight, 4) for weight in step] for step in attention],
    )


def _looks(captioner: BaseCaptioner[Any]) -> bool:
    """Whether the decoder looks at regions: ask it about an empty picture, which also warms it up."""
    import numpy as np

    size = captioner.spec.transform.size
    blank = np.zeros((1, size, size, 3), np.uint8)
    ((caption, *_),) = captioner.describe(blank, captioner.make_search(beam_size=1), attention=True)
    return caption.attention is not None


def _static_files() -> dict[str, Response]:
    """The page and what it loads, by name: nothing else is ever served from the disk."""
    folder = resources.files("pipeline.web") / "static"
    return {
        name: Response(
            (folder / name).read_bytes(),
            media_type=_TYPES[name.rpartition(".")[2]],
            headers={"cache-control": "no-cache"},
        )
        for name in ("page.html", *_STATIC)
    }
