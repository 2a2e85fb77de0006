"""Unexpected errors of a step: they cost only the record that raised them."""

from pixtide.schemas.errors import PixtideError, PoisonError, ReasonCode
from pixtide.streams.ingest.retry import StoppedError

_MOST_CHARACTERS = 500


def is_unexpected(error: BaseException) -> bool:
    """Whether it is neither an error of ours, with its verdict, nor a request to end the process.

    A panic of a Rust library is no `Exception`, but is unexpected, too.
    """
    return not isinstance(
        error, PixtideError | StoppedError | KeyboardInterrupt | SystemExit | GeneratorExit
    )


def poison_of(error: BaseException, code: ReasonCode = ReasonCode.UNEXPECTED) -> PoisonError:
    """The PoisonError for the record that raised such an error; names the error's class."""
    poison = PoisonError(code, f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS])
    poison.__cause__ = error
    return poison
