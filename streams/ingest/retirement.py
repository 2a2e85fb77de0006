"""Stops a worker automatically when its generation is retired."""

import logging
import time
from collections.abc import Callable

from pixtide.schemas.errors import PixtideError
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.process.signals import VitalThread

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0


def stop_when_retired(
    catalog: GenerationCatalog, generation: Generation, stop: Callable[[], None]
) -> None:
    """Call `stop` when the generation's record says retired; a thread looks every 2 s."""

    def watch() -> None:
        while not _is_retired(catalog, generation):
            time.sleep(_LOOK_EVERY_S)
        logger.info("generation %s is retired: stopping", generation.name)
        stop()

    VitalThread(watch, "retirement").start()


def _is_retired(catalog: GenerationCatalog, generation: Generation) -> bool:
    try:
        found = catalog.get(generation.name)
    except PixtideError as error:  # the index has a problem: then nothing is known
        logger.debug("is %s retired? %s", generation.name, error)
        return False
    except Exception:  # go on, or the worker would outlive its generation
        logger.exception("whether generation %s is retired can't be told", generation.name)
        return False
    return found is not None and found.state is GenerationState.RETIRED
