"""Finds the generation to work for, and loads its encoder."""

from typing import TYPE_CHECKING

from pixtide.schemas.errors import FatalError, UsageError
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.settings import Settings

if TYPE_CHECKING:
    from pixtide.encoders.port import Encoder
from pixtide.streams.wiring.adapters import load_encoder

#: Part of the error message when the model's files or preprocessing have changed since.
OTHER_MODEL = "was made with the fingerprint"


def encoder_of(settings: Settings, generation: Generation) -> "Encoder":
    """The encoder of a generation.

    Raises:
        FatalError: its model isn't the one that the generation was created with.
        UsageError: it can't be loaded.
    """
    from pixtide.encoders.port import is_eight_bit

    eight_bit = is_eight_bit(generation.fingerprint)
    if eight_bit != (settings.precision == "int8"):  # the generation decides, not the setting
        settings = settings.changed(precision="int8" if eight_bit else "auto")
    encoder = load_encoder(settings, generation.model)
    check_fingerprint(encoder, generation)
    return encoder


def generation_to_work_for(catalog: GenerationCatalog, name: str | None) -> Generation:
    """The generation with that name, or the live one if there is no name.

    Raises:
        UsageError: there is no such generation, or it is retired.
    """
    generation = catalog.get(name) if name else catalog.live()
    if generation is None:
        which = f"no generation {name}" if name else "no generation is live"
        raise UsageError(f"{which}: run `pixtide index create {name or 'v1'}`")
    if generation.state is GenerationState.RETIRED:
        raise UsageError(f"generation {generation.name} is retired")
    return generation


def check_fingerprint(encoder: "Encoder", generation: Generation) -> None:
    """Raises FatalError if this encoder's vectors don't belong in that generation's collection."""
    if encoder.fingerprint != generation.fingerprint:
        raise FatalError(
            f"model {generation.model} has the fingerprint {encoder.fingerprint}, and generation "
            f"{generation.name} {OTHER_MODEL} {generation.fingerprint}: the model's files changed, "
            "or what pixtide does to pictures did. What made it still serves it; here build the "
            f"index anew from the log: pixtide reindex --model {generation.model}"
        )
