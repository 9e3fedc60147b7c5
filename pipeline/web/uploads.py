"""The image in a request's body: raw bytes or the only file of a form, counted while they arrive, kept in memory."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

FIELD = "image"
TIMEOUT = 30.0
"""Seconds within which a body must arrive."""
_FORM_OVERHEAD = 4096
"""Bytes that the boundaries and headers of a form may add to an image."""


@dataclass(frozen=True)
class Limits:
    """Limits on image files and concurrent requests."""

    max_bytes: int = 20_000_000
    """Largest image file."""
    max_requests: int = 64
    """Concurrent requests; more get HTTP 503."""


async def read_image(request: Request, max_bytes: int) -> bytes:
    """The bytes of the image, at most `max_bytes`.

    Raises `HTTPException`: 400 for a form that cannot be read or has other fields, 408 for a body that does not
    arrive in time, 413 for one that is too large, 415 for another content type, 499 for a client that disconnects
    and when the server stops.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not form and not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415, f"the body must be an image (image/..., application/octet-stream) or a form with the field {FIELD}"
        )
    allowed = max_bytes + (_FORM_OVERHEAD if form else 0)
    try:
        async with asyncio.timeout(TIMEOUT), aclosing(_limited(request, allowed, max_bytes)) as chunks:
            if form:
                return await _form_image(request, chunks, max_bytes)
            return b"".join([chunk async for chunk in chunks])
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {TIMEOUT:.0f} seconds") from None
    except (ClientDisconnect, asyncio.CancelledError):
        raise HTTPException(499, "the upload was interrupted") from None


async def discard(request: Request, limit: int) -> None:
    """Read up to `limit` bytes of the rest of a body, for at most two seconds: a client that is still sending would
    not see an early response."""
    read = 0
    try:
        async with asyncio.timeout(2):
            async for chunk in request.stream():
                read += len(chunk)
                if read > limit:
                    return
    except Exception:  # the response is sent anyway
        return


async def _limited(request: Request, allowed: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a body of at most `allowed` bytes. Raises `HTTPException` 413."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > allowed:
        raise _too_large(max_bytes)
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > allowed:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the image is larger than the limit of {max_bytes} bytes")


async def _form_image(request: Request, chunks: AsyncGenerator[bytes, None], max_bytes: int) -> bytes:
    """The only file of a multipart form. Its file name is not used. Raises `HTTPException` 400 and 413."""
    parser = MultiPartParser(request.headers, chunks, max_files=1, max_fields=0)
    parser.spool_max_size = max_bytes + _FORM_OVERHEAD  # files never leave the memory
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, LookupError, UnicodeError) as error:
        reason = error.message if isinstance(error, MultiPartException) else str(error)
        raise HTTPException(400, f"the form cannot be read: {reason}; send the file {FIELD} and no other") from error
    try:
        image = form.get(FIELD)
        if len(form) != 1 or not isinstance(image, UploadFile):
            names = ", ".join(form) or "none"
            raise HTTPException(400, f"the form must have the file {FIELD} and no other field; it has: {names}")
        content = await image.read()
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
        return content
    finally:
        await form.close()
