"""Every code that a request itself can earn, and the header names of other clients."""

import re

import pytest

from schemas.errors import QueryCode, RequestError
from schemas.queries import SearchReply, normalise, read_request
from schemas.reply_address import (
    MAX_CORRELATION_ID_BYTES,
    check_correlation,
    deadline_ms,
    reply_address,
)

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
