"""Real Apache Kafka and real Weaviate for the tests that need them.

Each server comes from the first of these that there is:

1. an address in the environment: PIXTIDE_TEST_KAFKA; PIXTIDE_TEST_WEAVIATE_URL with
   PIXTIDE_TEST_WEAVIATE_GRPC_PORT;
2. Docker, where an engine answers: the official images;
3. a program kept in the user's cache: Kafka's jars from Maven Central, Weaviate by `go install`.

    install.py   fetches or builds what 3. runs, once per user
    runners.py   one place to run a server in: a child process, a container, or elsewhere
    kafka.py     how Kafka is set up, and when it is ready
    weaviate.py  the same for Weaviate
    toxiproxy.py the network in front of them, which can be made to fail; always the kept program
    suite.py     the servers of one test run: started when first asked for, both at once

Beside them are a Prometheus, servers that speak S3, Azure's and Google's protocols (s3.py,
buckets.py), one that gives out tokens, and what judges deploy/ (deploy_tools.py).

`python -m tests.servers prepare` does the slow part ahead of a run.
"""

from tests.servers.kafka import KafkaServer
from tests.servers.runners import NotOurServerError, ServerError
from tests.servers.suite import SERVERS, Servers
from tests.servers.toxiproxy import Link, Toxiproxy
from tests.servers.weaviate import WeaviateServer

__all__ = [
    "SERVERS",
    "KafkaServer",
    "Link",
    "NotOurServerError",
    "ServerError",
    "Servers",
    "Toxiproxy",
    "WeaviateServer",
]
