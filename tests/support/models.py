"""Tiny seeded models, so that tests spend their time on what they test."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

IMAGE_SIZE = 32
CONTEXT_LENGTH = 32


def tiny_clip(folder: Path, *, seed: int = 0, dimension: int = 64) -> str:
    """Write a random open_clip model of one layer a tower and return its `local-dir:` name.

    The weights depend on the seed alone. Its pictures are 32 x 32, and pictures of different
    colours get clearly different vectors; words mean nothing to it, but equal texts are equal.
    """
    config: dict[str, Any] = {
        "embed_dim": dimension,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "layers": 1,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
            # an untrained class token sees little of the picture; the patches' mean sees it all
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 32,
            "heads": 1,
            "layers": 1,
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return f"local-dir:{folder}"
