"""The picture in a request's body: raw bytes or one part of a form, counted while they arrive, kept in memory only."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

FIELD = "image"
SECONDS = 30.0
"""In which a body has to arrive."""
_FORM_ROOM = 4096
"""Bytes that a form's own lines may add to a picture."""


async def read_image_bytes(request: Request, limit: int) -> bytes:
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
                return await _from_form(request, chunks)
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


async def _counted(request: Request, allowed: int, limit: int) -> AsyncGenerator[bytes, None]:
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


async def _from_form(request: Request, chunks: AsyncIterator[bytes]) -> bytes:
    """The content of the one part that the form may have."""
    boundary = parse_options_header(request.headers.get("content-type", ""))[1].get(b"boundary")
    if not boundary:
        raise HTTPException(400, "the form cannot be read: its content-type has no boundary")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from error
    if form.names != [FIELD.encode()] or not form.ended:
        names = ", ".join(name.decode(errors="replace") for name in form.names) or "none"
        raise HTTPException(400, f"the form must have the field {FIELD} and no other; it has: {names}")
    return bytes(form.content)


class _Form:
    """What a form's parser finds, in memory. The file's name stands in the same header as the field's, and is left."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.content = bytearray()
        self.ended = False
        self._header = b""
        self._value = b""

    def callbacks(self) -> Any:
        return {
            "on_part_begin": lambda: self.names.append(b""),
            "on_header_field": self._field,
            "on_header_value": self._values,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _values(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self.names[-1] = parse_options_header(self._value)[1].get(b"name", b"")
        self._header = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.content += data[start:end]

    def _end(self) -> None:
        self.ended = True
