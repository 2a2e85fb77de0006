"""What Weaviate's errors mean, where it says one thing and means another."""

import httpx
import pytest
from weaviate.exceptions import UnexpectedStatusCodeError

from pixtide.schemas.errors import PixtideError, TransientError, UsageError
from pixtide.search.weaviate.errors import verdict_of


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (
            "failed to execute query: rpc error: code = Canceled desc = grpc: the client connection"
            " is closing",
            TransientError,
        ),
        ("forbidden: anonymous access not enabled", UsageError),
    ],
)
def test_a_node_that_cannot_reach_another_forbids_nothing(
    said: str, verdict: type[PixtideError]
) -> None:
    answer = httpx.Response(403, json={"error": [{"message": said}]})
    error = UnexpectedStatusCodeError("forbidden!", answer)
    assert type(verdict_of(error)) is verdict
