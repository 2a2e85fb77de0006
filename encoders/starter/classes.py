"""The vectors of the ImageNet-1k classes in the sentence encoder's space.

A class is the mean of two sentences about it: all its names, and its names with WordNet's gloss,
both as timm carries them. Computing the 1000 x 384 matrix takes some seconds, so it is kept in
the user's cache folder under a name that says what it was made of.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from encoders.port import Vectors

_log = logging.getLogger(__name__)

SHAPE = (1000, 384)


def class_matrix(key: str, encode: Callable[[Sequence[str]], Vectors]) -> Vectors:
    """The class vectors, from the cache or computed: float32 of shape (1000, 384).

    Args:
        key: stands for all that the matrix depends on.
        encode: texts to float32 (n, 384) of unit length.
    """
    cached = _cache_folder() / f"starter-classes-{key}.npy"
    matrix = _read(cached)
    if matrix is not None:
        return matrix
    with _alone(cached):  # workers that start together need not all compute it
        matrix = _read(cached)
        if matrix is None:
            matrix = _compute(encode)
            _write(cached, matrix)
    return matrix


def _compute(encode: Callable[[Sequence[str]], Vectors]) -> Vectors:
    from timm.data.imagenet_info import (
        ImageNetInfo,
    )  # takes seconds to import, and is needed just this once

    info = ImageNetInfo()
    _log.info("describing the starter model's %d classes, once on this machine", SHAPE[0])
    names = [info.index_to_description(place) for place in range(SHAPE[0])]
    glosses = [info.index_to_description(place, detailed=True) for place in range(SHAPE[0])]
    matrix = (encode(names) + encode(glosses)) / 2
    return matrix.astype(np.float32)


def _cache_folder() -> Path:
    """`$XDG_CACHE_HOME/pixtide`, or `~/.cache/pixtide` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "pixtide"


def _read(cached: Path) -> Vectors | None:
    try:
        matrix: Vectors = np.load(cached, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent, or left half-written by a full disk
        return None
    whole = matrix.shape == SHAPE and matrix.dtype == np.float32 and np.isfinite(matrix).all()
    return matrix if whole else None


@contextmanager
def _alone(cached: Path) -> Iterator[None]:
    """Hold a lock beside the cached file; where none can be had, go on without."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        lock = cached.with_suffix(".lock").open("w")
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(cached: Path, matrix: Vectors) -> None:
    """Keep the matrix; whoever reads meanwhile finds all of it or nothing."""
    try:
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as file:
            np.save(file, matrix)
        Path(file.name).replace(cached)
    except OSError as error:  # a cache that can't be written only costs time
        _log.warning("the starter model's class vectors are not kept: %s", error)
