"""Generations, rows and vectors to try an index with."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np

from pixtide.schemas.errors import ReasonCode
from pixtide.schemas.identity import Version
from pixtide.search.generations import Generation, LogIdentity
from pixtide.search.port import RowState, StoredImage, Vector

DIMENSION = 8
NOON = datetime(2026, 3, 4, 12, 0, 0, 123000, tzinfo=UTC)


def generation(name: str = "v1", **changes: Any) -> Generation:
    fields: dict[str, Any] = {
        "name": name,
        "model": "starter",
        "fingerprint": "sha256:abc",
        "dimension": DIMENSION,
        "collection": f"images_{name}",
        "group": f"ingest.{name}",
        "log": LogIdentity(topic="images.uploaded", topic_id="t0", partitions=6),
        "attributes": {"shop": "text", "price": "number", "sold": "boolean", "made": "date"},
        "created_at": NOON,
    }
    return Generation(**fields | changes)


def towards(*axes: float) -> Vector:
    """The unit vector in that direction."""
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(axes)] = axes
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def live(
    image_id: str, offset: int = 0, vector: Vector | None = None, **changes: Any
) -> StoredImage:
    row = StoredImage(
        image_id=image_id,
        state=RowState.LIVE,
        version=Version(1, 0, offset),
        uri=f"https://pictures.example/{offset}.jpg",
        width=640,
        height=480,
        format="JPEG",
        uploaded_at=NOON,
        vector=towards(1) if vector is None else vector,
    )
    return replace(row, **changes)


def deleted(image_id: str, offset: int) -> StoredImage:
    return StoredImage(image_id, RowState.DELETED, Version(1, 0, offset))


def poisoned(image_id: str, offset: int) -> StoredImage:
    return StoredImage(
        image_id,
        RowState.DEAD_LETTERED,
        Version(1, 0, offset),
        reason=ReasonCode.TRUNCATED_IMAGE,
    )


def full_row() -> StoredImage:
    """A row that has something in every field."""
    return StoredImage(
        image_id="Ordner/Katze 'Mia' \"1\" \\ 100%_ — 猫 🐈/\n.jpg",
        state=RowState.LIVE,
        version=Version(epoch=3, partition=5, offset=2**53 - 1),
        uri="s3://bucket/key?x=1&y='2'",
        sha256="ab" * 32,
        width=4032,
        height=3024,
        format="HEIF",
        orientation="rotate-90",
        bytes=2**33,
        caption='Eine Katze — "猫", l\'été\t\u200d🐈\u200d⬛\n',
        tags=("cat", "two words", "it's", 'quo"te', "", "猫"),
        attributes={
            "shop": "Müller & Söhne",
            "price": 12.5,
            "sold": False,
            "made": "2026-02-03T04:05:06Z",
            "deep": {"list": [1, None, True, {"x": "y"}], "big": 2**70, "tiny": 1e-300},
        },
        uploaded_at=datetime(2026, 3, 4, 12, 0, 0, 987000, tzinfo=timezone(timedelta(hours=5.5))),
        reason=ReasonCode.TOO_LARGE,
        vector=towards(1, 2, 3),
    )
