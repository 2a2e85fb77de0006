"""The trained part of the starter model, made by `train.py`: the repository contains it."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixtide.encoders.port import Vectors
from pixtide.schemas.errors import UsageError

#: The digest of classes.npy; part of the fingerprint, as is the other one.
SHA256 = "1115380c7c79f7882181421152f7d61a92d4773754825e94c8a700359a19ebe1"
FILE = Path(__file__).with_name("classes.npy")
CONCEPTS_SHA256 = "8f5d4903eac2b8c6be5413f7af792ee0f73a160eafd27544bf906860485d5a94"
CONCEPTS_FILE = Path(__file__).with_name("concepts.npz")


@dataclass(frozen=True)
class Concepts:
    """What emoji show, as further classes; each gives a score for the 1280 features of a picture.

    float32 of shape `head` (1280, n), `bias` (n,), and `vectors` (n, 384) in the sentence encoder's
    space. Their common mean is subtracted, and their length is their weight.
    """

    head: Vectors
    bias: Vectors
    vectors: Vectors


def class_matrix(file: Path = FILE, sha256: str = SHA256) -> Vectors:
    """Vectors of the ImageNet-1k classes in the sentence encoder's space, float32 (1000, 384).

    Raises:
        UsageError: the file is missing, or is another one.
    """
    stored = np.load(_checked(file, sha256), allow_pickle=False)
    matrix: Vectors = stored.astype(np.float32)
    return matrix


def concepts(file: Path = CONCEPTS_FILE, sha256: str = CONCEPTS_SHA256) -> Concepts:
    """The concepts. Raises UsageError as `class_matrix`."""
    with np.load(_checked(file, sha256), allow_pickle=False) as stored:
        head, bias, vectors = (
            stored[name].astype(np.float32) for name in ("head", "bias", "vectors")
        )
    return Concepts(head, bias, vectors)


def _checked(file: Path, sha256: str) -> io.BytesIO:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"the starter model's {file.name} can't be read: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise UsageError(
            f"{file} is not the file that the starter model is made of (sha256 {digest}); "
            "install pixtide again"
        )
    return io.BytesIO(data)
