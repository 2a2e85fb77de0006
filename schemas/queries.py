"""Search over Kafka: what may be asked, and what is answered."""

import math
import unicodedata
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from schemas.base import Contract, explain
from schemas.errors import QueryCode, RequestError

#: How far a search reaches: results beyond this rank can't be asked for, in pages or at once.
WINDOW = 1000
MAX_TERMS = 16
Scalar = bool | int | float | str


class AttributeFilter(Contract):
    """A condition on one attribute that the generation declares; all that is given must hold.

    Texts and booleans are compared whole; numbers and dates (ISO 8601) may be given ranges.
    """

    name: str
    eq: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = Field(default=None, min_length=1, max_length=100)
    gt: int | float | str | None = None
    gte: int | float | str | None = None
    lt: int | float | str | None = None
    lte: int | float | str | None = None

    def conditions(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Those that are given, by their names."""
        return self.model_dump(exclude={"name"}, exclude_none=True)

    @model_validator(mode="after")
    def _some(self) -> "AttributeFilter":
        given = self.conditions()
        if not given:
            raise ValueError("an attribute filter needs eq, one_of, gt, gte, lt or lte")
        if any(isinstance(value, float) and not math.isfinite(value) for value in given.values()):
            raise ValueError("an attribute filter's number must be finite")
        return self


class Filters(Contract):
    """Conditions that every result meets; all of them together.

    Times without a zone are UTC; `uploaded_after` is inclusive, `uploaded_before` is not.
    Widths and heights are in pixels, as shown.
    """

    tags_all: tuple[str, ...] = ()
    tags_any: tuple[str, ...] = ()
    tags_none: tuple[str, ...] = ()
    uploaded_after: datetime | None = None
    uploaded_before: datetime | None = None
    formats: tuple[str, ...] = ()
    orientations: tuple[Literal["landscape", "portrait", "square"], ...] = ()
    min_width: int | None = Field(default=None, ge=1)
    max_width: int | None = Field(default=None, ge=1)
    min_height: int | None = Field(default=None, ge=1)
    max_height: int | None = Field(default=None, ge=1)
    attributes: tuple[AttributeFilter, ...] = Field(default=(), max_length=20)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, fields: Any) -> Any:
        """A filter that we don't know must not be ignored: it would widen the results."""
        _refuse_unknown(fields, cls)
        if isinstance(fields, dict):
            for condition in fields.get("attributes") or ():
                _refuse_unknown(condition, AttributeFilter)
        return fields


def _refuse_unknown(fields: Any, model: type[Contract]) -> None:
    if isinstance(fields, dict) and (unknown := sorted(set(fields) - set(model.model_fields))):
        raise ValueError(f"unknown filter {', '.join(map(str, unknown))}")


class Term(Contract):
    """One thing that results should be near to; with a negative weight, far from.

    It is exactly one of words, an indexed picture's id, a picture's address (as in an upload
    event), and a picture's bytes.
    """

    text: str | None = None
    image_id: str | None = None
    uri: str | None = None
    data_base64: str | None = None
    weight: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False)

    @property
    def is_picture(self) -> bool:
        """Whether a picture must be fetched and encoded for it."""
        return self.uri is not None or self.data_base64 is not None

    @model_validator(mode="after")
    def _one(self) -> "Term":
        given = (self.text, self.image_id, self.uri, self.data_base64)
        if sum(value is not None for value in given) != 1:
            raise ValueError("a term has exactly one of text, image_id, uri and data_base64")
        if self.weight == 0:
            raise ValueError("a term of weight 0 says nothing")
        return self


class SearchRequest(Contract):
    """A request on `search.requests`.

    `text` and `terms` together say what is meant: the sum of their vectors, each times its
    weight (`text` has weight 1), is the direction searched in. Pictures named as terms are not
    among the results.

    In `hybrid` mode the words of `text` are searched for in captions and tags too, and both
    rankings are fused; in `keyword` mode only the words count. `cutoff: auto` drops what is no
    nearer to the query than unrelated pictures are, so that "no good match" is an answer.
    `newest` sorts those within the window that pass `min_similarity` or, where none is given,
    the automatic cutoff. `collapse_above` is the cosine from which two pictures count as one.
    """

    text: str = ""
    terms: tuple[Term, ...] = Field(default=(), max_length=MAX_TERMS)
    mode: Literal["meaning", "hybrid", "keyword"] = "meaning"
    keyword_weight: float = Field(default=0.5, gt=0, lt=1, allow_inf_nan=False)
    limit: int = Field(default=10, strict=True, ge=1, le=WINDOW)
    cursor: str | None = None
    sort: Literal["relevance", "newest"] = "relevance"
    min_similarity: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    cutoff: Literal["none", "auto"] = "none"
    collapse_above: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    filters: Filters = Field(default_factory=Filters)
    with_vectors: bool = False
    explain: bool = False

    @property
    def has_pictures(self) -> bool:
        """Whether pictures must be fetched and encoded for it."""
        return any(term.is_picture for term in self.terms)


class Score(Contract):
    """How a result came to its place: what each ranking said of it (ranks count from 1)."""

    meaning_rank: int | None = None
    keyword_rank: int | None = None
    keyword_score: float | None = None
    fused: float | None = None


class SearchResult(Contract):
    """One picture found. `similarity` is the cosine of query and picture, −1 to 1.

    `duplicates` are the ids that were collapsed into this result; `sha256` is that of the
    original's bytes, so that what is made of it can be kept under that name.
    """

    image_id: str
    uri: str
    similarity: float
    caption: str = ""
    tags: tuple[str, ...] = ()
    attributes: dict[str, JsonValue] = Field(default_factory=dict)
    uploaded_at: datetime
    width: int
    height: int
    format: str
    bytes: int
    sha256: str = ""
    duplicates: tuple[str, ...] = ()
    vector: tuple[float, ...] | None = None
    score: Score | None = None


class SearchError(Contract):
    """Why a request got no results."""

    code: QueryCode
    message: str
    retryable: bool


class Explanation(Contract):
    """What a request that asked to `explain` is told about itself.

    `cutoff` is the similarity that results had to reach; `considered` is how many were ranked
    before cutting, collapsing and paging.
    """

    model: str
    fingerprint: str
    considered: int
    cutoff: float | None = None


class SearchReply(Contract):
    """A reply. Exactly one of `results` and `error` is set; without a `next_cursor` that is all."""

    results: tuple[SearchResult, ...] | None = None
    next_cursor: str | None = None
    generation: str | None = None
    took_ms: dict[str, float] = Field(default_factory=dict)
    explanation: Explanation | None = None
    error: SearchError | None = None

    @classmethod
    def failed(cls, error: RequestError) -> "SearchReply":
        """The reply that says why a request could not be served."""
        return cls(
            error=SearchError(
                code=error.code, message=error.message, retryable=error.code.retryable
            )
        )


_CODES = {
    "limit": QueryCode.INVALID_LIMIT,
    "filters": QueryCode.INVALID_FILTER,
    "cursor": QueryCode.INVALID_CURSOR,
}


def read_request(value: bytes | None) -> SearchRequest:
    """Read and check the value of a request record.

    Raises:
        RequestError: with the code of the first thing that is wrong.
    """
    try:
        request = SearchRequest.from_json(value or b"")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["loc"]
        code = _CODES.get(str(first[0]) if first else "", QueryCode.MALFORMED_REQUEST)
        raise RequestError(code, explain(error)) from error
    return checked(request)


def checked(request: SearchRequest) -> SearchRequest:
    """The request with its texts normalised, so that requests that ask the same are equal.

    Raises:
        RequestError: EMPTY_QUERY where there is nothing to look for, MALFORMED_REQUEST for
            terms that the mode doesn't take.
    """
    text = normalise(request.text)
    terms = tuple(
        term if term.text is None else term.model_copy(update={"text": normalise(term.text)})
        for term in request.terms
    )
    if (not text and not terms) or any(term.text == "" for term in terms):
        raise RequestError(QueryCode.EMPTY_QUERY, "the text has no visible character")
    if request.mode != "meaning" and not text:
        raise RequestError(QueryCode.EMPTY_QUERY, f"a {request.mode} search needs words in `text`")
    if request.mode == "keyword" and terms:
        message = "a keyword search takes `text` alone; mode hybrid takes terms too"
        raise RequestError(QueryCode.MALFORMED_REQUEST, message)
    return request.model_copy(update={"text": text, "terms": terms})


def normalise(text: str) -> str:
    """NFC, control characters out, white space folded: equal queries become equal strings."""
    visible = "".join(
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFC", text)
        if char.isspace() or unicodedata.category(char) not in ("Cc", "Cf", "Cs")
    )
    return " ".join(visible.split())
