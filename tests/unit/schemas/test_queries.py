"""Every code that a request itself can earn, and the header names of other clients."""

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixtide.schemas.errors import QueryCode, RequestError
from pixtide.schemas.queries import (
    AttributeFilter,
    Filters,
    SearchReply,
    SearchRequest,
    Term,
    normalise,
    read_request,
)
from pixtide.schemas.reply_address import (
    MAX_CORRELATION_ID_BYTES,
    check_correlation,
    check_names,
    deadline_ms,
    reply_address,
)
from pixtide.search.answering.cursor import offset_of
from pixtide.search.conditions import conditions
from pixtide.search.generations import AttributeType
from tests.contracts.samples import generation

ALLOWED = re.compile(r"search\.(replies(\..+)?|requests\.reply|requests-replies)")


def test_a_request_with_later_fields_is_read() -> None:
    request = read_request(b'{"text": "a cat", "later": 1, "filters": {"tags_all": ["x"]}}')
    assert (request.text, request.limit, request.filters.tags_all) == ("a cat", 10, ("x",))


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("MALFORMED_REQUEST", None),
        ("MALFORMED_REQUEST", b""),
        ("MALFORMED_REQUEST", b"\xff"),
        ("MALFORMED_REQUEST", b"[]"),
        ("MALFORMED_REQUEST", b'{"text": "a", "terms": [{}]}'),
        ("MALFORMED_REQUEST", b'{"text": "a", "terms": [{"text": "b", "image_id": "c"}]}'),
        ("MALFORMED_REQUEST", b'{"text": "a", "terms": [{"text": "b", "weight": 0}]}'),
        ("MALFORMED_REQUEST", b'{"text": "a", "terms": [{"text": "b", "weight": NaN}]}'),
        ("MALFORMED_REQUEST", b'{"text": "a", "mode": "telepathy"}'),
        ("MALFORMED_REQUEST", b'{"text": "a", "mode": "keyword", "terms": [{"text": "b"}]}'),
        ("EMPTY_QUERY", b"{}"),
        ("EMPTY_QUERY", b'{"text": "a", "terms": [{"text": " "}]}'),
        ("EMPTY_QUERY", b'{"terms": [{"text": "a"}], "mode": "hybrid"}'),
        ("MALFORMED_REQUEST", b'{"text": 5}'),
        ("MALFORMED_REQUEST", b'{"text": "a", "min_similarity": 2}'),
        ("EMPTY_QUERY", b'{"text": ""}'),
        ("EMPTY_QUERY", b'{"text": " \\u0000\\u200b\\n"}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": 0}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": -1}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": 1001}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": 99999999999999999999}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": true}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": NaN}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": "5"}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": 5.5}'),
        ("INVALID_LIMIT", b'{"text": "a", "limit": 1e300}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"min_width": true}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"min_width": 5.5}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"colour": "red"}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"uploaded_after": "soon"}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": 5}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"attributes": [{"name": "x"}]}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"attributes": [{"name": "x", "is": 1}]}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"attributes": [5]}}'),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"orientations": ["upside down"]}}'),
        ("INVALID_CURSOR", b'{"text": "a", "cursor": 5}'),
    ],
)
def test_bad_requests_have_their_code(code: str, value: bytes | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(value)
    assert caught.value.code == code


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    request = read_request(b'{"text": "a", "limit": 10.0, "filters": {"max_height": 2e2}}')
    assert (request.limit, request.filters.max_height) == (10, 200)
    assert b'"limit":10,' in request.to_json()


def test_requests_that_ask_for_true_and_for_1_are_two() -> None:
    asked = [
        read_request(b'{"text": "a", "filters": {"attributes": [{"name": "x", %s}]}}' % condition)
        for given in (b"true", b"1", b"false", b"0")
        for condition in (b'"eq": ' + given, b'"one_of": [%s]' % given)
    ]
    assert len(set(asked)) == len({request.filters for request in asked}) == len(asked)


def test_equal_queries_become_equal_strings() -> None:
    assert normalise("  a\t cat\u0000 ") == normalise("a cat")
    assert normalise("e\u0301te\u0301") == "été"


@pytest.mark.parametrize(
    "partition", [b"", b"-1", b"9999999999", b"\xff\xff\xff\xff", b"\x80\0\0\0"]
)
def test_what_is_no_partition_leaves_the_choice_to_the_producer(partition: bytes) -> None:
    headers = [("kafka_replyTopic", b"search.replies"), ("kafka_replyPartition", partition)]
    assert reply_address(headers, ALLOWED).partition is None


@pytest.mark.parametrize("partition", [b"\x00\x00\x00\x03", b"3"])
def test_springs_and_nests_headers(partition: bytes) -> None:
    address = reply_address(
        [
            ("kafka_replyTopic", b"search.replies"),
            ("kafka_correlationId", b"\x00\xff\x10"),
            ("kafka_replyPartition", partition),
        ],
        ALLOWED,
    )
    assert (address.topic, address.partition) == ("search.replies", 3)
    assert dict(address.headers())["kafka_correlationId"] == b"\x00\xff\x10"
    assert "kafka_nest-is-disposed" in dict(address.headers())


def test_smallryes_headers_are_answered_in_kind() -> None:
    address = reply_address(
        [("REPLY_TOPIC", b"search.requests-replies"), ("REPLY_CORRELATION_ID", b"7")], ALLOWED
    )
    assert (address.topic, address.headers()) == (
        "search.requests-replies",
        [("REPLY_CORRELATION_ID", b"7")],
    )


@pytest.mark.parametrize(
    "topic", [b"images.uploaded", b"search.replies\n", b"", b"xsearch.replies"]
)
def test_other_reply_topics_are_refused(topic: bytes) -> None:
    with pytest.raises(PermissionError):
        reply_address([("kafka_replyTopic", topic), ("kafka_correlationId", b"1")], ALLOWED)


@pytest.mark.parametrize("size", [0, MAX_CORRELATION_ID_BYTES + 1])
def test_a_bad_correlation_id_is_told(size: int) -> None:
    address = reply_address(
        [("kafka_replyTopic", b"search.replies"), ("kafka_correlationId", b"x" * size)], ALLOWED
    )
    with pytest.raises(RequestError) as caught:
        check_correlation(address)
    assert caught.value.code is QueryCode.BAD_CORRELATION_ID


def test_deadlines() -> None:
    assert deadline_ms([("pixtide-deadline", b"1700000000000")], 5) == 1700000000000
    assert deadline_ms([], 5) == 5
    for bad in (b"", b"soon", b"-1", b"1e9", b"9" * 16):
        with pytest.raises(RequestError) as caught:
            deadline_ms([("pixtide-deadline", bad)], 5)
        assert caught.value.code is QueryCode.BAD_DEADLINE


def test_a_failed_reply_says_whether_to_try_again() -> None:
    reply = SearchReply.failed(RequestError(QueryCode.INDEX_UNAVAILABLE, "down"))
    assert reply.error is not None and reply.error.retryable and reply.results is None


NAMES = st.sampled_from(["text", "name", "eq", "a", "", "\ud83c"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=20)
    | st.sampled_from(["9999-12-31", "0001-01-01T00:00:00+14:00", "\ud83c", "1e400", "x" * 400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def request_like() -> st.SearchStrategy[Any]:
    """Of the form of a request, with anything in its places."""
    attribute = st.dictionaries(st.sampled_from(sorted(AttributeFilter.model_fields)), JSON)
    filters = st.dictionaries(
        st.sampled_from(sorted(Filters.model_fields)), JSON | st.lists(attribute, max_size=3)
    )
    term = st.dictionaries(st.sampled_from(sorted(Term.model_fields)), JSON, max_size=3)
    fields = st.dictionaries(st.sampled_from(sorted(SearchRequest.model_fields)), JSON, max_size=4)
    parts = st.fixed_dictionaries(
        {}, optional={"text": st.just("a"), "filters": filters, "terms": st.lists(term, max_size=3)}
    )
    return st.tuples(fields, parts).map(lambda both: both[0] | both[1])


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON | request_like())
def test_any_json_is_a_request_or_a_typed_error(value: Any) -> None:
    try:
        request = read_request(json.dumps(value).encode())
    except RequestError as error:
        assert not error.code.retryable
        assert len(error.message) < 1000
        return
    assert SearchRequest.from_json(request.to_json()) == request
    try:
        offset_of(request, generation())
    except RequestError as error:
        assert error.code in (QueryCode.INVALID_CURSOR, QueryCode.CURSOR_EXPIRED)
    declared: dict[str, AttributeType] = {"a": "text", "b": "number", "c": "date", "d": "boolean"}
    try:
        conditions(request.filters, declared)
    except ValueError as error:
        assert len(str(error)) < 1000


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_request_or_a_typed_error(value: bytes) -> None:
    with contextlib.suppress(RequestError):
        read_request(value)


@pytest.mark.parametrize(
    "value",
    [
        {"filters": {"tags_all": [0] * 440_000}},
        {"filters": {"attributes": [{}] * 300_000}},
        {"filters": {"attributes": [{"name": "x", "one_of": [[]] * 300_000}]}},
        {"filters": {"attributes": [{"name": "x", "eq": "y" * 900_000}]}},
        {"filters": {str(n): n for n in range(90_000)}},
        {"terms": [{}] * 300_000},
        {"text": "x" * 900_000},
        {"mode": "x" * 900_000},
        {"cursor": "x" * 900_000},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_great_mistake_is_told_in_a_few_words(value: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(json.dumps({"text": "a"} | value).encode())
    assert len(caught.value.message) < 700


def test_a_field_that_is_null_is_as_one_left_out() -> None:
    nulls = dict.fromkeys(SearchRequest.model_fields)
    filters = dict.fromkeys(Filters.model_fields)
    term = {"text": "b", "image_id": None, "weight": None}
    some = {"name": "x", "eq": 1, "gt": None}
    read = read_request(json.dumps(nulls | {"text": "a", "filters": filters}).encode())
    assert read == SearchRequest(text="a")
    read = read_request(
        json.dumps({"text": "a", "terms": [term], "filters": {"attributes": [some]}}).encode()
    )
    assert read.terms == (Term(text="b"),)
    assert read.filters.attributes == (AttributeFilter(name="x", eq=1),)


def test_half_a_surrogate_pair_keeps_the_rest_of_the_text() -> None:
    assert read_request(b'{"text": "sunset \\ud83c"}').text == "sunset \ufffd"
    assert read_request(b'{"text": "sunset \\ud83c\\udf05"}').text == "sunset \U0001f305"


@pytest.mark.parametrize(
    "topic", [b"search.replies.\0", b"search.replies.\xff", b"search.replies." + b"x" * 250]
)
def test_what_kafka_takes_for_no_topic_is_none(topic: bytes) -> None:
    with pytest.raises(PermissionError) as caught:
        reply_address([("kafka_replyTopic", topic)], ALLOWED)
    assert len(str(caught.value)) < 400


def test_the_name_of_a_header_must_be_utf8() -> None:
    check_names([("é", b""), ("", b"")])
    with pytest.raises(RequestError) as caught:
        check_names([("\udcff", b"")])
    assert caught.value.code is QueryCode.MALFORMED_REQUEST


def test_what_is_written_is_strict_json() -> None:
    result: dict[str, Any] = {"image_id": "a", "uri": "", "uploaded_at": 0, "format": "JPEG"}
    result |= {"similarity": 0.5, "width": 1, "height": 1, "bytes": 1, "caption": "half \ud83c"}
    result["attributes"] = {"a": float("inf"), "\udfff": ["\ud83c", float("nan"), 10**400]}
    written = SearchReply.model_validate({"results": [result]}).to_json()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads(written, parse_constant=refuse)["results"][0]
    assert read["attributes"] == {"a": None, "\ufffd": ["\ufffd", None, 10**400]}
    assert read["caption"] == "half \ufffd"
