"""What each stage of ingest takes by itself, one picture after the other on one core.

Run as a contender (contender.py): `python -m tests.benchmarks.ingest_stages`, under the settings of
a deployment that has a generation of its own for this, so that nothing is known there.
"""

import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pixtide.encoders.pictures.images import Limits, decode
from pixtide.schemas.codec import decode_event, encode_event
from pixtide.schemas.events import ImageUploaded, PictureAt
from pixtide.schemas.identity import Version
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.settings import load_settings
from pixtide.streams.wiring.adapters import load_encoder, open_catalog
from pixtide.streams.wiring.pictures import picture_fetcher
from tests.benchmarks.ingest_parts import numbered, photographs, upload

T = TypeVar("T")

GENERATION = "stages"
STAGES = ("fetch", "look_up", "decode", "store", "encode", "write")


class Stages:
    """Takes pictures through the stages in batches, as a worker would, but one after another."""

    def __init__(self) -> None:
        settings = load_settings()
        generation = open_catalog(settings).get(GENERATION)
        assert generation is not None
        self._index = open_catalog(settings).open(generation)
        self._encoder = load_encoder(settings, generation.model)
        self._encoder.warm_up()
        self._store = ImageStore(settings.image_store_url)
        self._fetcher = picture_fetcher(settings, self._store)
        self._batch = settings.batch_size
        self._limits = Limits(max_pixels=settings.max_pixels)
        self._photographs = photographs()
        self._number = 0

    def measure(self, batches: int, folder: Path | None) -> dict[str, float]:
        """Milliseconds a picture in each stage; pictures lie in that folder, or in events."""
        took: defaultdict[str, float] = defaultdict(float)
        for _ in range(batches):
            self._take(took, folder)
        return {stage: took[stage] * 1000 / (batches * self._batch) for stage in STAGES}

    def _take(self, took: defaultdict[str, float], folder: Path | None) -> None:
        events = [self._event(folder) for _ in range(self._batch)]

        def timed(stage: str, work: Callable[[], T]) -> T:
            started = time.perf_counter()
            done = work()
            took[stage] += time.perf_counter() - started
            return done

        uploads = timed("fetch", lambda: [self._fetch(*event) for event in events])
        digests = {digest for _, _, digest in uploads}
        timed("look_up", lambda: self._index.get([upload.image_id for upload, _, _ in uploads]))
        timed("look_up", lambda: self._index.with_content(digests))
        crop = self._encoder.crop
        seen = timed("decode", lambda: [decode(d, crop, self._limits) for _, d, _ in uploads])
        uris = timed("store", lambda: [self._keep(upload, data) for upload, data, _ in uploads])
        pixels = np.stack([picture.pixels for picture in seen])
        vectors = timed("encode", lambda: self._encoder.encode_pictures(pixels))
        rows = [
            StoredImage(
                image_id=upload.image_id,
                state=RowState.LIVE,
                version=Version(1, 0, self._number),
                uri=uri,
                sha256=digest,
                width=picture.width,
                height=picture.height,
                format=picture.format,
                orientation=picture.orientation,
                bytes=len(data),
                uploaded_at=upload.uploaded_at,
                vector=vector,
            )
            for (upload, data, digest), picture, uri, vector in zip(
                uploads, seen, uris, vectors, strict=True
            )
        ]
        timed("write", lambda: self._index.write(rows))

    def _keep(self, upload: ImageUploaded, data: bytes) -> str:
        if isinstance(upload.picture, PictureAt):
            return upload.picture.uri
        return self._store.put(upload.image_id, data, "jpg")

    def _event(
        self, folder: Path | None
    ) -> tuple[bytes, bytes | None, Sequence[tuple[str, bytes | None]]]:
        self._number += 1
        photograph = self._photographs[self._number % len(self._photographs)]
        jpeg = numbered(photograph, -self._number)
        return encode_event(upload(f"stages/{self._number}.jpg", jpeg, folder))

    def _fetch(
        self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> tuple[ImageUploaded, bytes, str]:
        event = decode_event(key, value, headers, 0)
        assert isinstance(event, ImageUploaded)
        data = self._fetcher.fetch(event.picture)
        return event, data, hashlib.sha256(data).hexdigest()


def main() -> None:
    """Answer jobs until the pipe is closed."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # libraries start threads as they like
    stages = Stages()
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        folder = Path(job["folder"]) if job.get("folder") else None
        sys.stdout.write(json.dumps(stages.measure(job["batches"], folder)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
