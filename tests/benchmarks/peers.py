"""What serves one contender of `encode`, run by its own Python, which needn't have pixtide.

Usage: peers.py NAME CHECKPOINT DATA THREADS DEVICE. CHECKPOINT is made by `checkpoint.py`; DATA
holds pictures in folders, and texts.json. Reads jobs and writes results as `contender.py` says; a
job's `work` is "texts" or the name of a folder of pictures.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Files' bytes, or texts, to rows of numbers.
Encode = Callable[[list[Any]], Any]

NAME, CHECKPOINT, DATA, THREADS, DEVICE = (
    sys.argv[1],
    Path(sys.argv[2]),
    Path(sys.argv[3]),
    int(sys.argv[4]),
    sys.argv[5],
)
BATCH = 32 if DEVICE == "cpu" else 256


def batches(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def opened(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def open_clip_itself() -> tuple[Encode, Encode]:
    """Batches through open_clip's own transform, tokenizer and model; decoded by all threads."""
    import open_clip
    import torch

    torch.set_num_threads(THREADS)
    name = "local-dir:" + str(CHECKPOINT / "open_clip")
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    pool = ThreadPoolExecutor(THREADS)

    def pictures(files: list[bytes]) -> list[Any]:
        rows = []
        for batch in batches(files):
            planes = torch.stack(list(pool.map(lambda data: transform(opened(data)), batch)))
            with torch.inference_mode():
                rows.extend(model.encode_image(planes, normalize=True).tolist())
        return rows

    def texts(phrases: list[str]) -> list[Any]:
        rows = []
        for batch in batches(phrases):
            with torch.inference_mode():
                rows.extend(model.encode_text(tokenizer(batch), normalize=True).tolist())
        return rows

    return pictures, texts


def pixtide(precision: Any) -> tuple[Encode, Encode]:
    """Decoded ahead by all threads, as ingest's processes do, and encoded in batches."""
    import numpy as np
    import torch

    from pixtide.encoders.open_clip.encoder import OpenClipEncoder
    from pixtide.encoders.pictures.images import Limits, decode

    torch.set_num_threads(THREADS)
    name = "local-dir:" + str(CHECKPOINT / "open_clip")
    encoder = OpenClipEncoder.load(name, device="cpu", precision=precision, batch_size=BATCH)
    pool, limits = ThreadPoolExecutor(THREADS), Limits()

    def pictures(files: list[bytes]) -> list[Any]:
        rows = []
        for batch in batches(files):
            cuts = pool.map(lambda data: decode(data, encoder.crop, limits).pixels, batch)
            rows.extend(encoder.encode_pictures(np.stack(list(cuts))).tolist())
        return rows

    return pictures, lambda phrases: encoder.encode_texts(phrases).tolist()


def pixtide_on_gpu() -> tuple[Encode, Encode]:
    """As an ingest worker: processes decode, and two threads encode what is there."""
    import numpy as np

    from pixtide.encoders.open_clip.encoder import OpenClipEncoder
    from pixtide.encoders.pictures.decoder_pool import DecoderPool
    from pixtide.encoders.pictures.images import Limits

    name = "local-dir:" + str(CHECKPOINT / "open_clip")
    encoder = OpenClipEncoder.load(name, device=DEVICE, precision="bf16", batch_size=BATCH)
    processes = DecoderPool(THREADS, 20, Limits())
    processes.start()
    decoders, encoders = ThreadPoolExecutor(2 * THREADS), ThreadPoolExecutor(2)

    def encode(cuts: list[Any]) -> Any:
        return encoder.encode_pictures(np.stack([cut.result().pixels for cut in cuts])).tolist()

    def pictures(files: list[bytes]) -> list[Any]:
        cuts = [decoders.submit(processes.decode, data, encoder.crop) for data in files]
        return [row for rows in encoders.map(encode, batches(cuts)) for row in rows]

    return pictures, lambda phrases: encoder.encode_texts(phrases).tolist()


def sentence_transformers() -> tuple[Encode, Encode]:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import CLIPModel

    torch.set_num_threads(THREADS)
    module = CLIPModel(str(CHECKPOINT / "hugging_face"))
    model = SentenceTransformer(modules=[module], device="cpu")

    def encode(items: list[Any]) -> Any:
        rows = model.encode(
            items, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return rows.tolist()

    return lambda files: encode([opened(data) for data in files]), encode


def infinity() -> tuple[Encode, Encode]:
    import asyncio

    import torch
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    torch.set_num_threads(THREADS)
    engine = AsyncEmbeddingEngine.from_args(
        EngineArgs(
            model_name_or_path=str(CHECKPOINT / "hugging_face"),
            engine="torch",
            device=DEVICE,
            dtype="float32" if DEVICE == "cpu" else "bfloat16",
            batch_size=BATCH,
            model_warmup=False,
            bettertransformer=False,
        )
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    def unit(vectors: Any) -> Any:
        import numpy as np

        rows = np.asarray(vectors, dtype=np.float32)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).tolist()

    def pictures(files: list[bytes]) -> Any:
        return unit(loop.run_until_complete(engine.image_embed(images=files))[0])

    def texts(phrases: list[str]) -> Any:
        return unit(loop.run_until_complete(engine.embed(sentences=phrases))[0])

    return pictures, texts


def clip_retrieval() -> tuple[Encode, Encode]:
    """Its mapper; decoded by all threads, where its own reader would start processes."""
    import torch
    from all_clip import load_clip
    from clip_retrieval.clip_inference.mapper import ClipMapper

    torch.set_num_threads(THREADS)
    name = f"open_clip:ViT-B-32/{CHECKPOINT.resolve()}/open_clip/open_clip_model.safetensors"
    _, transform, tokenizer = load_clip(name, use_jit=False)

    def mapper(**enabled: bool) -> Any:
        return ClipMapper(
            **enabled,
            enable_metadata=False,
            use_mclip=False,
            clip_model=name,
            use_jit=False,
            mclip_model="",
        )

    of_pictures = mapper(enable_image=True, enable_text=False)
    of_texts = mapper(enable_image=False, enable_text=True)
    pool = ThreadPoolExecutor(THREADS)

    def pictures(files: list[bytes]) -> list[Any]:
        rows = []
        for batch in batches(files):
            planes = torch.stack(list(pool.map(lambda data: transform(opened(data)), batch)))
            found = of_pictures({"image_tensor": planes, "image_filename": []})
            rows.extend(found["image_embs"].tolist())
        return rows

    def texts(phrases: list[str]) -> list[Any]:
        rows = []
        for batch in batches(phrases):
            found = of_texts({"text_tokens": tokenizer(batch), "text": batch})
            rows.extend(found["text_embs"].tolist())
        return rows

    return pictures, texts


def decoding(ours: bool) -> tuple[Encode, Encode]:
    """One thread: bytes to the pixels or planes that the model takes."""
    if ours:
        from pixtide.encoders.pictures.images import Limits, decode
        from pixtide.encoders.port import Crop

        crop, limits = Crop(size=224, resize=224), Limits()
        return lambda files: [decode(data, crop, limits).pixels for data in files], list
    from open_clip.transform import image_transform

    transform = image_transform(224, is_train=False)
    return lambda files: [transform(opened(data)) for data in files], list


MAKERS: dict[str, Callable[[], tuple[Encode, Encode]]] = {
    "open_clip": open_clip_itself,
    "pixtide fp32": lambda: pixtide("fp32"),
    "pixtide bf16": lambda: pixtide("bf16"),
    "pixtide int8": lambda: pixtide("int8"),
    "pixtide": pixtide_on_gpu,
    "sentence-transformers": sentence_transformers,
    "infinity-emb": infinity,
    "clip-retrieval": clip_retrieval,
    "decode: pixtide": lambda: decoding(True),
    "decode: open_clip": lambda: decoding(False),
}


def main() -> None:
    pictures, texts = MAKERS[NAME]()
    for line in sys.stdin:
        job = json.loads(line)
        if job["work"] == "texts":
            items, do = json.loads((DATA / "texts.json").read_text()), texts
        else:
            files = sorted((DATA / job["work"]).glob("*.jpg"))
            items, do = [file.read_bytes() for file in files], pictures
        items = items[: job["count"]] * job.get("times", 1)
        try:
            if job.get("vectors"):
                result = {"vectors": do(items)}
            else:
                started, done = time.perf_counter(), 0
                while time.perf_counter() - started < job["seconds"]:
                    do(items)
                    done += len(items)
                result = {"per_s": done / (time.perf_counter() - started)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the benchmark reports it
            result = {"error": repr(error)}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":  # decoding processes import it again
    main()
