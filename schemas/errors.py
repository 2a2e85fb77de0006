"""The error tree. Every failure in pixtide has exactly one verdict.

PixtideError
├── TransientError   a server or device has a problem now: pause, back off, try again
├── PoisonError      this one record is bad: dead letter with a ReasonCode, go on
├── FatalError       going on would do harm: stop, non-zero exit
├── RequestError     this one search request can't be served: typed error reply
└── UsageError       a command or a setting is wrong: say what to do, exit code 2
"""

from enum import StrEnum


class ReasonCode(StrEnum):
    """Why an upload event was dead-lettered."""

    # the record
    UNREADABLE_RECORD = "UNREADABLE_RECORD"
    UNEXPECTED = "UNEXPECTED"
    # the event
    MALFORMED_EVENT = "MALFORMED_EVENT"
    INVALID_CLOUDEVENT = "INVALID_CLOUDEVENT"
    UNSUPPORTED_VERSION = "UNSUPPORTED_VERSION"
    AMBIGUOUS_HEADER = "AMBIGUOUS_HEADER"
    MISSING_KEY = "MISSING_KEY"
    KEY_MISMATCH = "KEY_MISMATCH"
    WRONG_PARTITION = "WRONG_PARTITION"
    INVALID_RETRY = "INVALID_RETRY"
    UNSUPPORTED_TYPE = "UNSUPPORTED_TYPE"
    AMBIGUOUS_SOURCE = "AMBIGUOUS_SOURCE"
    NO_SOURCE = "NO_SOURCE"
    INVALID_DATA = "INVALID_DATA"
    INVALID_NUMBER = "INVALID_NUMBER"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    TOO_LARGE = "TOO_LARGE"
    # the picture
    EMPTY_IMAGE = "EMPTY_IMAGE"
    TRUNCATED_IMAGE = "TRUNCATED_IMAGE"
    UNIDENTIFIED_FORMAT = "UNIDENTIFIED_FORMAT"
    FORMAT_NOT_ALLOWED = "FORMAT_NOT_ALLOWED"
    PIXEL_LIMIT = "PIXEL_LIMIT"
    DIMENSION_LIMIT = "DIMENSION_LIMIT"
    METADATA_LIMIT = "METADATA_LIMIT"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    DECODER_CRASHED = "DECODER_CRASHED"
    INVALID_VECTOR = "INVALID_VECTOR"
    REJECTED_BY_INDEX = "REJECTED_BY_INDEX"
    # where the picture is
    SCHEME_NOT_ALLOWED = "SCHEME_NOT_ALLOWED"
    ADDRESS_BLOCKED = "ADDRESS_BLOCKED"
    REDIRECT_LIMIT = "REDIRECT_LIMIT"
    INVALID_URL = "INVALID_URL"
    SOURCE_GONE = "SOURCE_GONE"
    SOURCE_CHANGED = "SOURCE_CHANGED"
    PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"
    BUCKET_NOT_ALLOWED = "BUCKET_NOT_ALLOWED"
    SOURCE_FORBIDDEN = "SOURCE_FORBIDDEN"
    SOURCE_UNAVAILABLE = "SOURCE_UNAVAILABLE"


class QueryCode(StrEnum):
    """Why a search request was answered with an error (EXPIRED is counted, never sent)."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    EMPTY_QUERY = "EMPTY_QUERY"
    QUERY_TOO_LONG = "QUERY_TOO_LONG"
    INVALID_LIMIT = "INVALID_LIMIT"
    INVALID_FILTER = "INVALID_FILTER"
    INVALID_CURSOR = "INVALID_CURSOR"
    CURSOR_EXPIRED = "CURSOR_EXPIRED"
    UNKNOWN_IMAGE = "UNKNOWN_IMAGE"
    BAD_PICTURE = "BAD_PICTURE"
    BAD_CORRELATION_ID = "BAD_CORRELATION_ID"
    BAD_DEADLINE = "BAD_DEADLINE"
    EXPIRED = "EXPIRED"
    REPLY_TOO_LARGE = "REPLY_TOO_LARGE"
    OVERLOADED = "OVERLOADED"
    INDEX_UNAVAILABLE = "INDEX_UNAVAILABLE"
    INTERNAL = "INTERNAL"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later. For other codes it would fail again."""
        return self in (QueryCode.OVERLOADED, QueryCode.INDEX_UNAVAILABLE)


class PixtideError(Exception):
    """Base of every error that pixtide raises on purpose."""


class TransientError(PixtideError):
    """A server, the network or a device has a problem now; the same work may succeed later."""


class PoisonError(PixtideError):
    """One record can never be indexed as it is."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(code, message)  # both, so that the error can cross a process boundary
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class FatalError(PixtideError):
    """The process must stop: going on would lose or corrupt something."""


class RequestError(PixtideError):
    """One search request can't be served."""

    def __init__(self, code: QueryCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class UsageError(PixtideError):
    """A command or a setting is wrong; the message says what to do."""
