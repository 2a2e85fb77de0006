"""What the Weaviate client's errors mean: the verdict for each."""

import re

import grpc  # type: ignore[import-untyped]
from weaviate.exceptions import (
    AuthenticationFailedError,
    InsufficientPermissionsError,
    UnexpectedStatusCodeError,
    WeaviateInsertInvalidPropertyError,
    WeaviateInvalidInputError,
)

from pixtide.schemas.errors import FatalError, PixtideError, TransientError, UsageError
from pixtide.search.port import CollectionGoneError


class TooMuchError(TransientError):
    """An answer or a request is too large for one message: ask for less."""


_TOO_MUCH = re.compile(r"message larger than max|larger than the maximum", re.I)
_GONE = re.compile(
    r"could not find (class|index for class)|not (found|present) in schema|non-existing index", re.I
)
#: Weaviate's messages for an object that can never be stored as it is. Any other error of an object
#: (read-only, disk full, shutting down, …) is a problem of the server.
_AT_FAULT = re.compile(
    r"invalid .*property|no such prop|unknown property|property '.*':"
    r"|vector (dimensions|lengths?)|requires an? (integer|float)|expected property|analyze prop",
    re.I,
)


def is_objects_fault(text: str) -> bool:
    """Whether Weaviate refused an object for its content, as far as the message shows."""
    return _AT_FAULT.search(text) is not None


#: A node that could not ask another one reports this by a 403.
_BETWEEN_NODES = re.compile(
    r"rpc error: code = (Canceled|Unavailable|DeadlineExceeded|Unknown)"
    r"|leader not found|no leader|not the leader|leadership"
)


def verdict_of(error: Exception) -> PixtideError:
    """What a failed call means; TransientError if in doubt, since then nothing is lost."""
    text = f"Weaviate: {error}"
    if _GONE.search(text):
        return CollectionGoneError(text)
    if _TOO_MUCH.search(text):
        return TooMuchError(text)
    if _BETWEEN_NODES.search(text):
        return TransientError(text)
    if isinstance(error, InsufficientPermissionsError | AuthenticationFailedError):
        return UsageError(text)
    if isinstance(error, WeaviateInvalidInputError | WeaviateInsertInvalidPropertyError):
        return FatalError(text)
    if isinstance(error, UnexpectedStatusCodeError) and error.status_code in (401, 403, 422):
        return UsageError(text)
    # The client keeps the text of a gRPC error, but its code only in the cause.
    cause = error if isinstance(error, grpc.RpcError) else error.__cause__ or error.__context__
    if isinstance(cause, grpc.Call) and cause.code() is grpc.StatusCode.UNAUTHENTICATED:
        return UsageError(text)
    return TransientError(text)
