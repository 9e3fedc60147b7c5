"""Requests become batches: while one batch is captioned, those that arrive wait, and go together into the next.

An idle server answers a single request at once; a loaded one gains what batches gain. One thread computes.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.inference.base_captioner import BaseCaptioner, Caption, Pixels, open_image

DECODERS = 2
"""Pictures that are unpacked at a time: each may take as much memory as the pixel limit allows."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of a picture. Pictures of equal wishes share a batch."""

    captions: int
    beam_size: int | None
    """None: the model's own."""
    max_length: int
    attention: bool


@dataclass(frozen=True)
class Opened:
    """A picture, shrunk to the encoder's input, and the size that it had."""

    pixels: Pixels
    width: int
    height: int


@dataclass(frozen=True)
class _Waiting:
    pixels: Pixels
    wish: Wish
    answer: "asyncio.Future[list[Caption]]"


class Batcher:
    """Captions for pictures from many tasks, by one captioner."""

    def __init__(self, captioner: BaseCaptioner[Any]) -> None:
        self._captioner = captioner
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._decoding = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="caption")
        self.batches: list[int] = []
        """The sizes of the latest batches."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Batcher"]:
        """Within, pictures are captioned."""
        worker = asyncio.create_task(self._work())
        try:
            yield self
        finally:
            worker.cancel()
            for one in self._waiting:
                one.answer.cancel()
            self._decoding.shutdown(cancel_futures=True)
            self._computing.shutdown(cancel_futures=True)

    async def open(self, content: bytes) -> Opened:
        """Raises `ImageError` with the reason."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, self._open, content)

    async def captions(self, picture: Opened, wish: Wish) -> list[Caption]:
        answer: asyncio.Future[list[Caption]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(picture.pixels, wish, answer))
        self._arrived.set()
        return await answer

    def _open(self, content: bytes) -> Opened:
        picture = open_image(content)
        return Opened(self._captioner.prepare(picture), picture.width, picture.height)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            self.batches = [*self.batches[-99:], len(batch)]
            loop = asyncio.get_running_loop()
            try:
                found = await loop.run_in_executor(self._computing, self._describe, batch)
            except Exception as error:  # goes to those who asked; the next batch is another matter
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, captions in zip(batch, found, strict=True):
                if not one.answer.done():
                    one.answer.set_result(captions)

    def _take(self) -> list[_Waiting]:
        """The oldest request and those that can go with it, without those whose client has gone."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        if not self._waiting:
            return []
        wish = self._waiting[0].wish
        batch = [one for one in self._waiting if one.wish == wish][: self._captioner.batch_size]
        taken = set(map(id, batch))
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return batch

    def _describe(self, batch: list[_Waiting]) -> list[list[Caption]]:
        wish = batch[0].wish
        width = {} if wish.beam_size is None else {"beam_size": wish.beam_size}
        search = self._captioner.make_search(max_length=wish.max_length, **width)
        pixels = np.stack([one.pixels for one in batch])
        return self._captioner.describe(pixels, search, captions=wish.captions, attention=wish.attention)
