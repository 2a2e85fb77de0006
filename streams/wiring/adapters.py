"""Opens the index and the encoder that the settings name; no other file names adapters."""

import os
import warnings
from typing import TYPE_CHECKING

from pixtide.search.port import GenerationCatalog
from pixtide.streams.extras import extra
from pixtide.streams.settings import Settings

if TYPE_CHECKING:
    from pixtide.encoders.port import Encoder


def open_catalog(settings: Settings) -> GenerationCatalog:
    """The index: Weaviate if its address is set, else LanceDB in the home folder."""
    if settings.weaviate_url is None:
        with extra("embedded"):
            from pixtide.search.lancedb.catalog import LanceCatalog

        return LanceCatalog(folder=settings.home / "index" / (settings.namespace or "default"))
    # Authlib, which weaviate-client imports, prints warnings about its own future versions.
    with extra("weaviate"), warnings.catch_warnings(record=True):
        from pixtide.search.weaviate.catalog import WeaviateCatalog

    key = settings.weaviate_api_key
    return WeaviateCatalog(
        http_url=settings.weaviate_url,
        grpc_port=settings.weaviate_grpc_port,
        api_key=key.get_secret_value() if key else None,
        ca_file=settings.weaviate_ca_file,
        namespace=settings.namespace,
    )


def load_encoder(settings: Settings, model: str) -> "Encoder":
    """Load the encoder that a model setting names."""
    # Must be set before torch is imported. Threads that spin while they wait take cores from the
    # other processes of this machine: with two such processes on two busy cores, a text of 8 ms
    # took half a second.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if model == "starter":
        with extra("starter"):
            from pixtide.encoders.starter import StarterEncoder

        return StarterEncoder.load(
            device=settings.device, precision=settings.precision, batch_size=settings.batch_size
        )
    with extra("worker"):
        from pixtide.encoders.open_clip.encoder import OpenClipEncoder

    return OpenClipEncoder.load(
        model,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        compiled=settings.compile,
    )
