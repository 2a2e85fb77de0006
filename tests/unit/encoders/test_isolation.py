"""One picture that the model fails on costs that picture; a broken model costs the worker."""

from collections.abc import Sequence

import numpy as np
import pytest

from pixtide.encoders.isolation import encode_each
from pixtide.encoders.port import Crop, Pixels, Vectors
from pixtide.schemas.errors import FatalError, TransientError


class Fussy:
    """Encodes a picture to its first value; fails on a batch with certain ones in it."""

    fingerprint = "fussy"
    device = "cpu"
    dimension = 2
    crop = Crop(1, 1)

    def __init__(self, bad: Sequence[int], error: Exception | None = None) -> None:
        self.bad = bad
        self.error = error or FatalError("the model failed")
        self.calls: list[int] = []

    def warm_up(self) -> None:
        self.encode_pictures(pixels_of(0))

    def encode_pictures(self, pixels: Pixels) -> Vectors:
        self.calls.append(len(pixels))
        values = pixels[:, 0, 0, 0]
        if set(values) & set(self.bad):
            raise self.error
        return np.stack([values, values + 1], axis=1).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError

    def check_text(self, text: str) -> None:
        raise NotImplementedError


def pixels_of(*values: int) -> Pixels:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)


@pytest.mark.parametrize("bad", [(), (1,), (16,), (5, 6, 11), tuple(range(1, 17))])
def test_the_bad_ones_are_nan_and_the_others_stand(bad: tuple[int, ...]) -> None:
    values = np.arange(1, 17)
    vectors = encode_each(Fussy(bad), pixels_of(*values))
    assert vectors.shape == (16, 2)
    lost = np.isin(values, bad)
    assert np.isnan(vectors[lost]).all()
    np.testing.assert_array_equal(vectors[~lost, 0], values[~lost])


def test_a_good_batch_is_encoded_once() -> None:
    encoder = Fussy(())
    encode_each(encoder, pixels_of(*range(1, 17)))
    assert encoder.calls == [16]


def test_a_model_that_fails_at_a_blank_picture_too_is_broken() -> None:
    encoder = Fussy(range(256))
    with pytest.raises(FatalError, match="the model failed"):
        encode_each(encoder, pixels_of(*range(1, 17)))
    assert encoder.calls == [16, 8, 4, 2, 1, 1], "it is asked no further than to be sure"


def test_a_busy_device_is_no_pictures_fault() -> None:
    encoder = Fussy((3,), TransientError("out of memory"))
    with pytest.raises(TransientError):
        encode_each(encoder, pixels_of(1, 2, 3))
    assert encoder.calls == [3]
