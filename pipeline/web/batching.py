"""Dynamic batching: requests that arrive while a batch is captioned form the next batch.

An idle server answers a single request at once; a busy one gains the throughput of batches. One thread computes, and
one decodes images: a large one may take a gigabyte.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.inference.base_captioner import BaseCaptioner, Caption, Pixels, open_image


class CaptionRequest(BaseModel):
    """What a client asks for: the query parameters of the HTTP interface. Only equal requests share a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captions: int = Field(1, ge=1, le=10, description="Number of different captions, best first")
    beam_size: int | None = Field(None, ge=1, le=20, description="Beam size, at least captions. Default: the model's")
    max_length: int | None = Field(
        None, ge=1, le=500, description="Longest caption, in tokens; by default the longest that was trained on"
    )
    attention: bool = Field(False, description="Include attention weights, if the decoder has them")


@dataclass(frozen=True)
class DecodedImage:
    """The encoder's input, and the size of the original image."""

    pixels: Pixels
    width: int
    height: int


@dataclass(frozen=True)
class _Waiting:
    pixels: Pixels
    request: CaptionRequest
    result: "asyncio.Future[list[Caption]]"


class Batcher:
    """Captions images of many tasks with one captioner."""

    def __init__(self, captioner: BaseCaptioner) -> None:
        self._captioner = captioner
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="caption")

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Within this context, which is the lifespan of an application, images are captioned."""
        worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            worker.cancel()
            for one in self._waiting:
                one.result.cancel()
            for pool in (self._decoding, self._computing):
                pool.shutdown(cancel_futures=True)

    async def decode(self, content: bytes) -> DecodedImage:
        """Decode an image in a thread. Raises `ImageError` with the reason."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, self._decode, content)

    async def caption(self, image: DecodedImage, request: CaptionRequest) -> list[Caption]:
        """The captions of an image, once a batch with it is done."""
        result: asyncio.Future[list[Caption]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(image.pixels, request, result))
        self._arrived.set()
        return await result

    def _decode(self, content: bytes) -> DecodedImage:
        image = open_image(content, fill_truncated=self._captioner.spec.preprocessing.fill_truncated)
        return DecodedImage(self._captioner.preprocess(image), image.width, image.height)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not self._waiting:
                self._arrived.clear()
            try:
                loop = asyncio.get_running_loop()
                results = await loop.run_in_executor(self._computing, self._caption, batch)
            except Exception as error:  # fails the requests of this batch only
                for one in batch:
                    if not one.result.done():
                        one.result.set_exception(error)
                continue
            for one, captions in zip(batch, results, strict=True):
                if not one.result.done():
                    one.result.set_result(captions)

    def _next_batch(self) -> list[_Waiting]:
        """The oldest waiting image and those with equal requests."""
        request = self._waiting[0].request
        batch = [one for one in self._waiting if one.request == request][: self._captioner.batch_size]
        taken = set(map(id, batch))
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return batch

    def _caption(self, batch: list[_Waiting]) -> list[list[Caption]]:
        request = batch[0].request
        given = request.model_dump(include={"beam_size", "max_length"}, exclude_none=True)
        options = self._captioner.generation_options(**given)
        pixels = np.stack([one.pixels for one in batch])
        return self._captioner.caption_pixels(pixels, options, captions=request.captions, attention=request.attention)
