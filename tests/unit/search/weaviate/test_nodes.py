"""Addresses of Weaviate: one, or several of one cluster."""

import pytest

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.search.weaviate.nodes import connection_params, nodes_at


def test_one_address_is_one_node() -> None:
    [node] = nodes_at("https://weaviate.example.org/", None, [50051])
    assert (node.url, node.port, node.grpc_host) == (
        "https://weaviate.example.org",
        443,
        "weaviate.example.org",
    )
    params = connection_params(node, [node])
    assert params._grpc_target == "weaviate.example.org:50051"
    assert params.http.secure and params.grpc.secure


@pytest.mark.parametrize(("ports", "expected"), [([7], (7, 7)), ([7, 8], (7, 8))])
def test_of_several_grpc_goes_to_all(ports: list[int], expected: tuple[int, int]) -> None:
    nodes = nodes_at("http://127.0.0.1:1, http://localhost:2", None, ports)
    params = connection_params(nodes[1], nodes)
    assert params._http_url == "http://localhost:2"
    assert params._grpc_target == f"ipv4:127.0.0.1:{expected[0]},127.0.0.1:{expected[1]}"


def test_a_name_that_nobody_knows_is_left_out() -> None:
    nodes = nodes_at("http://no.such.host.invalid:1,http://127.0.0.1:2", None, [7, 8])
    assert connection_params(nodes[1], nodes)._grpc_target == "ipv4:127.0.0.1:8"
    unknown = [nodes[0], nodes[0]]
    with pytest.raises(TransientError, match=r"no\.such\.host"):
        connection_params(nodes[0], unknown)


@pytest.mark.parametrize(
    ("urls", "ports"),
    [
        ("http://a,http://b", [1, 2, 3]),
        ("http://a,https://b", [1]),
        ("http://a,", [1]),
        ("a:8080", [1]),
        ("http://a:port", [1]),
    ],
)
def test_what_makes_no_sense_is_refused(urls: str, ports: list[int]) -> None:
    with pytest.raises(UsageError):
        nodes_at(urls, None, ports)
