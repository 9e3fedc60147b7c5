"""The picture in a request's body: raw bytes or one part of a form, counted while they arrive, kept in memory only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import HTTPException, Request
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

FIELD = "image"
SECONDS = 30.0
"""In which a body has to arrive."""
_FORM_ROOM = 4096
"""Bytes that a form's own lines may add to a picture."""


async def read_picture(request: Request, limit: int) -> bytes:
    """The picture's bytes, at most `limit`.

    Raises `HTTPException`: 400 for a body that is not what its headers say, 408 for one that does not arrive, 413 for
    one that is too large, 415 for another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not form and not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415, f"the body must be a picture (image/..., application/octet-stream) or a form with the field {FIELD}"
        )
    allowed = limit + (_FORM_ROOM if form else 0)
    try:
        async with asyncio.timeout(SECONDS), aclosing(_counted(request, allowed, limit)) as chunks:
            if form:
                return await _from_form(request, chunks, limit)
            return b"".join([chunk async for chunk in chunks])
    except TimeoutError:
        raise HTTPException(408, f"the picture did not arrive within {SECONDS:.0f} seconds") from None


async def discard(request: Request, limit: int) -> None:
    """Read what is left of a body, up to `limit` bytes and for a moment: a client that is still sending would not see
    an answer that was given before."""
    seen = 0
    try:
        async with asyncio.timeout(2):
            async for chunk in request.stream():
                seen += len(chunk)
                if seen > limit:
                    return
    except Exception:  # the answer is given all the same
        return


async def _counted(request: Request, allowed: int, limit: int) -> AsyncIterator[bytes]:
    too_large = HTTPException(413, f"the picture is larger than the limit of {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > allowed:
        raise too_large
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > allowed:
            raise too_large
        yield chunk


async def _from_form(request: Request, chunks: AsyncIterator[bytes], limit: int) -> bytes:
    parser = MultiPartParser(request.headers, chunks, max_files=1, max_fields=0)
    parser.spool_max_size = limit + 1  # never a temporary file
    try:
        form = await parser.parse()
    except (MultiPartException, MultipartParseError, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise HTTPException(400, f"the form cannot be read: {reason}") from error
    picture = form.get(FIELD)
    if not isinstance(picture, UploadFile):
        raise HTTPException(400, f"the form has no file in the field {FIELD}")
    return await picture.read()
