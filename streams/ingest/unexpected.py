"""What nobody expects a step to raise: it costs the record that it was raised for, and no other."""

from pixtide.schemas.errors import PixtideError, PoisonError, ReasonCode
from pixtide.streams.ingest.retry import StoppedError

_MOST_CHARACTERS = 500


def is_unexpected(error: BaseException) -> bool:
    """Whether it is none of ours, which have a verdict each, and nobody's wish to end the process.

    A panic of a library in Rust is no `Exception`, yet as unexpected.
    """
    return not isinstance(
        error, PixtideError | StoppedError | KeyboardInterrupt | SystemExit | GeneratorExit
    )


def poison_of(error: BaseException, code: ReasonCode = ReasonCode.UNEXPECTED) -> PoisonError:
    """The poison that such an error is for its record, which names the error's class."""
    poison = PoisonError(code, f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS])
    poison.__cause__ = error
    return poison
