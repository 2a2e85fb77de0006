"""Finds an open_clip model's files, pins their version, loads them, and computes the fingerprint.

Sources: `architecture::tag`, `hf-hub:org/name@revision` and `local-dir:/folder`.
"""

import difflib
import hashlib
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import open_clip
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError

from pixtide.encoders.device import Device
from pixtide.encoders.pictures.pixels import PREPROCESSING
from pixtide.schemas.errors import UsageError

_CONFIG = "open_clip_config.json"
#: In open_clip 3.3.0's own order of preference. The hub's open_clip repositories have the first or
#: the third.
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
#: The exceptions of reading a model's files; each means that the files or their name are wrong.
_LOAD_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    httpx.HTTPError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model in evaluation mode on its device, and its parts."""

    network: Any
    tokenizer: Any
    preprocess: PreprocessCfg
    dimension: int
    fingerprint: str


@dataclass(frozen=True)
class _Files:
    """The resolved files of one model: for open_clip, and for the fingerprint."""

    name: str
    config: dict[str, Any]
    weights: Path
    folder: Path | None = None
    options: dict[str, Any] | None = None


def load_model(model: str, device: Device) -> LoadedModel:
    """Resolve `model`, download missing files from the hub, and load it.

    Raises:
        UsageError: the name is wrong, or the files can't be downloaded or read.
    """
    try:
        files = _resolve(model)
        network = open_clip.create_model(
            files.name,
            precision="fp32" if device.precision == "int8" else device.precision,
            device=device.torch_device,
            require_pretrained=True,
            **files.options or {},
        ).eval()
        tokenizer = open_clip.get_tokenizer(files.name)
        preprocess = PreprocessCfg(**network.visual.preprocess_cfg)
        fingerprint = _fingerprint(files, tokenizer, network.visual.preprocess_cfg)
    except _LOAD_ERRORS as error:
        why = str(error) or type(error).__name__
        raise UsageError(f"the model {model!r} can't be loaded: {why}") from error
    return LoadedModel(network, tokenizer, preprocess, files.config["embed_dim"], fingerprint)


def _resolve(model: str) -> _Files:
    if model.startswith("local-dir:"):
        return _in_folder(Path(model.removeprefix("local-dir:")).expanduser())
    if model.startswith("hf-hub:"):
        pinned = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})", model)
        if not pinned:
            raise UsageError(
                f"{model!r} names no revision: what a name means on the hub can change under an "
                "index. Write hf-hub:organisation/name@revision with the 40 hex digits of a commit "
                "(on the model's page under 'Files and versions')"
            )
        return _in_folder(_snapshot(pinned[1], pinned[2]))
    architecture, separator, tag = model.partition("::")
    if not separator:
        raise UsageError(
            f"the model {model!r} is none of architecture::tag (ViT-B-32::laion2b_s34b_b79k), "
            "hf-hub:organisation/name@revision and local-dir:/folder"
        )
    return _by_tag(architecture, tag)


def _by_tag(architecture: str, tag: str) -> _Files:
    config = open_clip.get_model_config(architecture)
    if config is None:
        near = difflib.get_close_matches(architecture, open_clip.list_models())
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"open_clip knows no architecture {architecture!r}{hint}")
    trained = open_clip.get_pretrained_cfg(architecture, tag)
    if not trained:
        known = [known for name, known in open_clip.list_pretrained() if name == architecture]
        raise UsageError(
            f"open_clip knows no weights {tag!r} of {architecture}; it knows {', '.join(known)}"
        )
    # use the activation that the weights were trained with; open_clip would only warn
    quick_gelu = bool(trained.get("quick_gelu"))
    config.pop("quick_gelu", None)
    if quick_gelu:
        config["quick_gelu"] = True
    weights = open_clip.download_pretrained(trained)
    options = {
        # load exactly the file that is hashed
        "pretrained": weights,
        "quick_gelu": quick_gelu,
        "force_preprocess_cfg": trained,
    }
    return _Files(architecture, config, Path(weights), options=options)


def _in_folder(folder: Path) -> _Files:
    config = json.loads((folder / _CONFIG).read_bytes())["model_cfg"]
    found = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not found:
        raise UsageError(f"{folder} holds no weights; name the file {_WEIGHTS[0]}")
    return _Files(f"local-dir:{folder}", config, found[0], folder)


def _snapshot(repository: str, revision: str) -> Path:
    """The folder with the files of one commit; asks the hub only for missing files."""

    def fetch(names: tuple[str, ...], *, offline: bool = False) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=list(names), local_files_only=offline
            )
        )

    try:
        folder = fetch((), offline=True)
    except FileNotFoundError:
        folder = Path()
    # the weights are downloaded last, so if they exist, the rest does, too
    if any((folder / name).is_file() for name in _WEIGHTS):
        return folder
    folder = fetch((_CONFIG, *_TOKENIZER))
    if not (folder / _CONFIG).is_file():
        raise UsageError(f"{repository} at {revision} is no open_clip model: it has no {_CONFIG}")
    for name in _WEIGHTS:
        if (fetch((name,)) / name).is_file():
            return folder
    raise UsageError(f"{repository} at {revision} holds no weights that open_clip reads")


def _fingerprint(files: _Files, tokenizer: Any, preprocess: dict[str, Any]) -> str:
    """16 hex digits for weights, configuration, tokenizer and preprocessing.

    They don't depend on the precision or on paths of this machine.
    """
    with files.weights.open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    parts = {
        "version": "open-clip-v1",
        "weights": digest,
        "model": _portable(files.config),
        "tokenizer": _tokenizer_identity(tokenizer, files.folder),
        "preprocess": preprocess,
        "pixels": PREPROCESSING,
    }
    return _digest(parts)[:16]


def _tokenizer_identity(tokenizer: Any, folder: Path | None) -> str:
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return "clip-bpe-16e6"
    if folder is None:
        return _digest(tokenizer.tokenizer.get_vocab())
    found = {}
    for name in _TOKENIZER:
        if (folder / name).is_file():
            data = (folder / name).read_bytes()
            is_json = name.endswith(".json")
            found[name] = _digest(_portable(json.loads(data))) if is_json else _sha256(data)
    return _digest(found)


def _portable(value: Any) -> Any:
    """The same JSON with each absolute path cut to its last name."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _digest(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
