"""Which index and which encoder the settings name: the only file that names adapters."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pixtide.schemas.errors import UsageError
from pixtide.search.port import GenerationCatalog
from pixtide.streams.settings import Settings

if TYPE_CHECKING:
    from pixtide.encoders.port import Encoder


def open_catalog(settings: Settings) -> GenerationCatalog:
    """The index: Weaviate where its address is set, else LanceDB in the home."""
    if settings.weaviate_url is None:
        with extra("embedded"):
            from pixtide.search.lancedb.catalog import LanceCatalog

        return LanceCatalog(folder=settings.home / "index" / (settings.namespace or "default"))
    # Authlib, which weaviate-client imports, insists on telling users about its own future.
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
    """The encoder that a model setting names."""
    # Before torch is imported. Threads that spin while they wait take the cores from the other
    # processes here: two of them on two busy cores made a text of 8 ms take half a second.
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


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a package that is not installed into what to do about it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'pixtide[{name}]'") from error
