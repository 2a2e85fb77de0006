"""A seeded ViT in open_clip's format and in that of Hugging Face's CLIPModel.

Both hold the same numbers. Random weights are as fast as trained ones, and are at hand offline.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import tokenizer as bpe
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file

from pixtide.schemas.errors import UsageError

_BLOCK = (
    (r"ln_1\.(.*)", r"layer_norm1.\1"),
    (r"ln_2\.(.*)", r"layer_norm2.\1"),
    (r"attn\.out_proj\.(.*)", r"self_attn.out_proj.\1"),
    (r"mlp\.c_fc\.(.*)", r"mlp.fc1.\1"),
    (r"mlp\.c_proj\.(.*)", r"mlp.fc2.\1"),
)
_REST = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "logit_scale": "logit_scale",
}


def write(folder: Path, architecture: str = "ViT-B-32") -> None:
    """Make `open_clip` and `hugging_face` in the folder, unless they are there."""
    if (folder / "hugging_face" / "model.safetensors").exists():
        return
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UsageError(f"open_clip knows no architecture {architecture!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.CLIP(**config).state_dict()
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    ours, theirs = folder / "open_clip", folder / "hugging_face"
    for each in (ours, theirs):
        each.mkdir(parents=True, exist_ok=True)
    (ours / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(weights, ours / "open_clip_model.safetensors")
    for name, content in (_config(config) | _tokenizer()).items():
        (theirs / name).write_text(content if isinstance(content, str) else json.dumps(content))
    save_file(_renamed(weights), theirs / "model.safetensors", metadata={"format": "pt"})


def _renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {_REST[name]: tensor for name, tensor in weights.items() if name in _REST}
    # open_clip multiplies by its projections from the right, a Linear by the transposed
    renamed["visual_projection.weight"] = weights["visual.proj"].T.contiguous()
    renamed["text_projection.weight"] = weights["text_projection"].T.contiguous()
    for name, tensor in weights.items():
        found = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)", name)
        if not found:
            continue
        tower = "vision_model" if found[1] else "text_model"
        block = f"{tower}.encoder.layers.{found[2]}"
        if found[3].startswith("attn.in_proj_"):
            kind = found[3].removeprefix("attn.in_proj_")
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{block}.self_attn.{part}_proj.{kind}"] = third.contiguous()
            continue
        for pattern, replacement in _BLOCK:
            if re.fullmatch(pattern, found[3]):
                renamed[f"{block}.{re.sub(pattern, replacement, found[3])}"] = tensor
    return renamed


def _config(config: dict[str, Any]) -> dict[str, Any]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    tower = {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "projection_dim": config["embed_dim"]}
    side = vision["image_size"]
    return {
        "config.json": {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": config["embed_dim"],
            "vision_config": tower
            | {
                "model_type": "clip_vision_model",
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // 64,
                "image_size": side,
                "patch_size": vision["patch_size"],
            },
            "text_config": tower
            | {
                "model_type": "clip_text_model",
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "vocab_size": text["vocab_size"],
                "max_position_embeddings": text["context_length"],
                "bos_token_id": 49406,
                "eos_token_id": 49407,
                "pad_token_id": 49407,
            },
        },
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "feature_extractor_type": "CLIPFeatureExtractor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": OPENAI_DATASET_MEAN,
            "image_std": OPENAI_DATASET_STD,
        },
    }


def _tokenizer() -> dict[str, Any]:
    lines = gzip.decompress(Path(bpe.default_bpe()).read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    symbols = list(bpe.bytes_to_unicode().values())
    words = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(m.split()) for m in merges)]
    begin, end = "<|startoftext|>", "<|endoftext|>"
    about = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": begin,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "model_max_length": 77,
        "do_lower_case": True,
    }
    return {
        "vocab.json": {word: n for n, word in enumerate([*words, begin, end])},
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "tokenizer_config.json": about,
    }
