"""The vectors of the ImageNet-1k classes in the sentence encoder's space, as `train.py` made them.

They are the part of the starter model that the repository carries: 1000 x 384 numbers.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from encoders.port import Vectors
from schemas.errors import UsageError

SHAPE = (1000, 384)
#: Of classes.npy; part of the fingerprint.
SHA256 = "1115380c7c79f7882181421152f7d61a92d4773754825e94c8a700359a19ebe1"
FILE = Path(__file__).with_name("classes.npy")


def class_matrix(file: Path = FILE, sha256: str = SHA256) -> Vectors:
    """The class vectors, float32 of shape (1000, 384).

    Raises:
        UsageError: the file is missing, or another one.
    """
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
    stored = np.load(io.BytesIO(data), allow_pickle=False)
    matrix: Vectors = stored.astype(np.float32)
    return matrix
