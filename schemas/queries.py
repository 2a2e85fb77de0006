"""Search over Kafka: what may be asked, and what is answered."""

import json
import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

from pixtide.schemas.base import Contract, FewTexts, explain, shortened, without_surrogates
from pixtide.schemas.errors import QueryCode, RequestError

#: How far a search reaches: results beyond this rank can't be asked for, in pages or at once.
WINDOW = 1000
MAX_TERMS = 16
#: Characters of all texts of a request together, and of a word: models take far fewer, and some
#: need seconds to see that one is longer.
MAX_TEXT, MAX_WORD = 8192, 300
#: Of a list that may have fewer; the rest makes it too long.
_LOOKED_AT = 32


def _whole(number: Any) -> Any:
    """JSON has one kind of number: 10.0 is a whole one, as many clients write it."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


_Limit = Annotated[int, Field(strict=True, ge=1, le=WINDOW), BeforeValidator(_whole)]
_Pixels = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1), BeforeValidator(_whole)]
_Word = Annotated[str, Field(max_length=1000)]
Scalar = bool | int | float | _Word


class AttributeFilter(Contract):
    """A condition on one attribute that the generation declares; all that is given must hold.

    Texts and booleans are compared whole; numbers and dates (ISO 8601) may be given ranges.
    """

    name: _Word
    eq: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = Field(
        default=None, min_length=1, max_length=100, fail_fast=True
    )
    gt: int | float | _Word | None = None
    gte: int | float | _Word | None = None
    lt: int | float | _Word | None = None
    lte: int | float | _Word | None = None

    def __eq__(self, other: object) -> bool:
        """As JSON, where true isn't 1; so two requests are equal only where they ask the same."""
        return isinstance(other, AttributeFilter) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def conditions(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Those that are given, by their names."""
        return self.model_dump(exclude={"name"}, exclude_none=True)

    @model_validator(mode="after")
    def _some(self) -> "AttributeFilter":
        given = self.conditions()
        if not given:
            raise ValueError("an attribute filter needs eq, one_of, gt, gte, lt or lte")
        for value in given.values():
            scalars = value if isinstance(value, tuple) else (value,)
            if not all(_is_finite(each) for each in scalars):
                raise ValueError("an attribute filter's number must be finite")
        return self


def _is_finite(value: Scalar) -> bool:
    try:
        return isinstance(value, str) or math.isfinite(value)
    except OverflowError:  # a whole number beyond what a double holds
        return False


class Filters(Contract):
    """Conditions that every result meets; all of them together.

    Times without a zone are UTC; `uploaded_after` is inclusive, `uploaded_before` is not.
    Widths and heights are in pixels, as shown.
    """

    tags_all: FewTexts = ()
    tags_any: FewTexts = ()
    tags_none: FewTexts = ()
    uploaded_after: datetime | None = None
    uploaded_before: datetime | None = None
    formats: FewTexts = ()
    orientations: Annotated[tuple[Literal["landscape", "portrait", "square"], ...], FailFast()] = (
        Field(default=(), max_length=100)
    )
    min_width: _Pixels | None = None
    max_width: _Pixels | None = None
    min_height: _Pixels | None = None
    max_height: _Pixels | None = None
    attributes: Annotated[tuple[AttributeFilter, ...], FailFast()] = Field(
        default=(), max_length=20
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, fields: Any) -> Any:
        """A filter that we don't know must not be ignored: it would widen the results."""
        _refuse_unknown(fields, cls)
        if isinstance(fields, dict) and isinstance(fields.get("attributes"), list | tuple):
            for condition in fields["attributes"][:_LOOKED_AT]:
                _refuse_unknown(condition, AttributeFilter)
        return fields


def _refuse_unknown(fields: Any, model: type[Contract]) -> None:
    if isinstance(fields, dict) and (unknown := set(fields) - set(model.model_fields)):
        raise ValueError(f"unknown filter {shortened(min(map(str, unknown)))}")


class Term(Contract):
    """One thing that results should be near to; with a negative weight, far from.

    It is exactly one of words, an indexed picture's id, a picture's address (as in an upload
    event), and a picture's bytes.
    """

    text: str | None = Field(default=None, max_length=MAX_TEXT)
    image_id: _Word | None = None
    uri: str | None = Field(default=None, max_length=8192)
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

    text: str = Field(default="", max_length=MAX_TEXT)
    terms: Annotated[tuple[Term, ...], FailFast()] = Field(default=(), max_length=MAX_TERMS)
    mode: Literal["meaning", "hybrid", "keyword"] = "meaning"
    keyword_weight: float = Field(default=0.5, gt=0, lt=1, allow_inf_nan=False)
    limit: _Limit = 10
    cursor: str | None = Field(default=None, max_length=2000)
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
    """Read and check the value of a request record. A field that is null is as one left out.

    Raises:
        RequestError: with the code of the first thing that is wrong; nothing else, whatever
            the value is.
    """
    try:
        request = SearchRequest.model_validate(_fields(value or b""), extra="ignore")
    except ValidationError as error:
        raise RequestError(_code(error), explain(error)) from error
    return checked(request)


def _fields(value: bytes) -> Any:
    try:
        parsed = _parsed(value)
    except (ValueError, RecursionError) as error:
        message = f"the request is not JSON: {shortened(str(error))}"
        raise RequestError(QueryCode.MALFORMED_REQUEST, message) from error
    fields = _given(parsed)
    if isinstance(fields, dict):
        filters = fields["filters"] = _given(fields.get("filters", {}))
        of_each = [(fields, "terms"), (filters, "attributes")]
        for holder, name in of_each:
            if isinstance(holder, dict) and isinstance(held := holder.get(name), list):
                holder[name] = [_given(each) for each in held[:_LOOKED_AT]] + held[_LOOKED_AT:]
    return fields


def _parsed(value: bytes) -> Any:
    """JSON to Python. Texts that clients cut within a character keep their other characters."""
    try:
        return from_json(value)
    except ValueError as error:
        if "hex escape" not in str(error) and "surrogate" not in str(error):
            raise
        return without_surrogates(json.loads(value.decode()))


def _given(fields: Any) -> Any:
    """The fields that are not null."""
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if value is not None}


def _code(error: ValidationError) -> QueryCode:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = first["loc"]
    if first["type"] == "string_too_long" and where and where[-1] == "text":
        return QueryCode.QUERY_TOO_LONG
    return _CODES.get(str(where[0]) if where else "", QueryCode.MALFORMED_REQUEST)


def checked(request: SearchRequest) -> SearchRequest:
    """The request with its texts normalised, so that requests that ask the same are equal.

    Raises:
        RequestError: EMPTY_QUERY where there is nothing to look for, QUERY_TOO_LONG for more
            than any model takes, MALFORMED_REQUEST for terms that the mode doesn't take.
    """
    _check_lengths([request.text, *(term.text for term in request.terms if term.text)])
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


def _check_lengths(texts: Sequence[str]) -> None:
    if sum(map(len, texts)) > MAX_TEXT:
        message = f"its texts have more than {MAX_TEXT} characters"
        raise RequestError(QueryCode.QUERY_TOO_LONG, message)
    if any(len(word) > MAX_WORD for text in texts for word in text.split()):
        message = f"a word has more than {MAX_WORD} characters"
        raise RequestError(QueryCode.QUERY_TOO_LONG, message)


def normalise(text: str) -> str:
    """NFC, control characters out, white space folded: equal queries become equal strings."""
    visible = "".join(
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFC", text)
        if char.isspace() or unicodedata.category(char) not in ("Cc", "Cf", "Cs")
    )
    return " ".join(visible.split())
