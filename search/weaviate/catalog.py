"""The generations in Weaviate: their collections, their records, and the alias of the live one.

A generation's collection is named `<namespace><collection>`, the collection of records
`<namespace>PixtideGenerations` and the alias `<namespace>Images`, each with a capital first. The
alias `<namespace>PixtideTurn` exists while somebody changes one of these.
"""

import contextlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from weaviate import WeaviateClient
from weaviate.classes.config import ConsistencyLevel
from weaviate.collections import Collection

from pixtide.schemas.base import explain
from pixtide.schemas.errors import FatalError, TransientError, UsageError
from pixtide.schemas.identity import object_id
from pixtide.search.generations import COLLECTION, NAME, Generation, GenerationState
from pixtide.search.port import CollectionGoneError
from pixtide.search.weaviate.collection import create_collection, create_records, train
from pixtide.search.weaviate.connection import Connection
from pixtide.search.weaviate.index import WeaviateIndex

_MAX_GENERATIONS = 1000
#: A turn is a few requests long.
_TURN_S, _ASK_AGAIN_S = 30.0, 0.05

_log = logging.getLogger(__name__)


class WeaviateCatalog:
    """The `GenerationCatalog` in Weaviate 1.34 or newer. Safe to share between threads.

    Every method raises TransientError while Weaviate is away, and UsageError if it is too old or
    refuses the key. It connects at the first call.

    Args:
        http_url: `http://host:port`, or `https://…` for TLS, which then also applies to gRPC; or
            several of `http://…` with commas, nodes of one cluster.
        grpc_port: the gRPC port; one for all nodes, or one for each.
        namespace: prefixes every name, so that several stacks may share one server.
        timeout_s: how long one request may take.
        grpc_host: the gRPC host; the host of `http_url` by default.
        ca_file: the CA bundle (PEM) for an https server.
    """

    def __init__(
        self,
        *,
        http_url: str,
        grpc_port: int | Sequence[int],
        api_key: str | None = None,
        namespace: str = "",
        timeout_s: float = 10,
        grpc_host: str | None = None,
        ca_file: Path | None = None,
    ):
        if not re.fullmatch(r"([A-Za-z][A-Za-z0-9_]{0,63})?", namespace):
            raise UsageError(f"the namespace {namespace!r} isn't a letter, then letters, 0-9 and _")
        self._namespace = namespace
        self._alias = self._named("Images")
        self._records = self._named("PixtideGenerations")
        self._turn = self._named("PixtideTurn")
        self._connection = Connection(
            http_url=http_url,
            grpc_ports=(grpc_port,) if isinstance(grpc_port, int) else grpc_port,
            grpc_host=grpc_host,
            api_key=api_key,
            ca_file=ca_file,
            timeout_s=timeout_s,
        )

    def create(self, generation: Generation) -> None:
        """Create the collection, then its record; safe to repeat after a crash in between.

        Raises:
            UsageError: the name or the collection is taken, or the collection's name is not
                allowed.
        """
        if not re.fullmatch(COLLECTION, generation.collection):
            raise UsageError(f"{generation.collection!r} can't name a collection")
        name = self._named(generation.collection)
        if name in (self._alias, self._records, self._turn):
            raise UsageError(f"a collection can't be named {name}")
        for other in self.list():
            if other.name == generation.name:
                raise UsageError(f"there is a generation {generation.name!r} already")
            if self._named(other.collection) == name:
                raise UsageError(f"the collection {name} is the generation {other.name}'s")
        self._ensure_records(generation.replication)
        self._connection.call_ready(lambda client: _create_empty(client, name, generation))
        self._connection.call(lambda client: self._record(client, generation))

    def get(self, name: str) -> Generation | None:
        """The record of that generation."""
        if not re.fullmatch(NAME, name):
            return None
        return self._recorded(name) if self._exists(self._records) else None

    def _known(self, name: str) -> Generation:
        generation = self.get(name)
        if generation is None:
            raise UsageError(f"there is no generation {name!r}")
        return generation

    def _recorded(self, name: str) -> Generation | None:
        """The record, when the collection of records is known to exist."""
        found = self._connection.fetch_objects(self._records, [object_id(name)])
        return _parsed(str(found[0]["properties"]["record"])) if found else None

    def list(self) -> list[Generation]:
        """All records, oldest first. Asks one replica, which may lack a new record for a moment."""
        records = self._connection.call_ready(self._listed)
        return sorted(records, key=lambda generation: generation.created_at)

    def _listed(self, client: WeaviateClient) -> Sequence[Generation]:
        if not client.collections.exists(self._records):
            return []
        records = client.collections.use(self._records)
        page = records.with_consistency_level(ConsistencyLevel.ONE).query.fetch_objects(
            limit=_MAX_GENERATIONS
        )
        return [_parsed(str(found.properties["record"])) for found in page.objects]

    def change(self, name: str, change: Callable[[Generation], Generation]) -> Generation:
        """Replace the record with that name by the result of `change`, during our turn.

        A generation that is ready has enough rows to train `pq` on.

        Raises:
            UsageError: there is no such generation.
            TransientError: also if we don't get our turn for long.
        """
        self._known(name)
        with self._alone():
            changed = change(self._known(name))
            if changed.compression == "pq" and changed.state is GenerationState.READY:
                collection = self._named(changed.collection)
                self._connection.call(lambda client: train(client, collection))
            self._connection.call(lambda client: self._record_again(client, changed))
        return changed

    def live(self) -> Generation | None:
        """The generation that the alias points to.

        Raises:
            TransientError: the alias points to a collection that has no record on any node.
        """

        def fetch(client: WeaviateClient) -> str | None:
            alias = client.alias.get(alias_name=self._alias)
            if alias is None:
                return None
            for generation in self._listed(client):
                if self._named(generation.collection) == alias.collection:
                    return generation.name
            # a node that came back without its disk learns it again soon; other nodes know it now
            raise CollectionGoneError(
                f"{self._alias} points to {alias.collection}, which no record knows"
            )

        try:
            name = self._connection.call_ready(fetch)
        except CollectionGoneError as error:
            raise TransientError(str(error)) from error
        return self._recorded(name) if name else None  # replicas agree; the list may be outdated

    def promote(self, name: str) -> None:
        """Point the alias at that generation by one atomic update.

        Raises:
            UsageError: the generation or its collection doesn't exist, or it is retired.
        """
        self._known(name)
        with self._alone():
            generation = self._known(name)
            if generation.state is GenerationState.RETIRED:
                raise UsageError(f"the generation {name} is retired")
            self.open(generation)
            target = self._named(generation.collection)

            def point(client: WeaviateClient) -> None:
                if not client.alias.update(alias_name=self._alias, new_target_collection=target):
                    client.alias.create(alias_name=self._alias, target_collection=target)

            self._connection.call(point)

    def drop(self, generation: Generation) -> None:
        """Drop the collection; the record stays. Safe to repeat.

        Raises:
            UsageError: that generation is live.
        """
        name = self._named(generation.collection)
        if not self._exists(self._records):
            return
        with self._alone():
            if generation.is_same(self.live()):
                raise UsageError(f"the generation {generation.name} is live")
            self._connection.call(lambda client: client.collections.delete(name))

    def open(self, generation: Generation) -> WeaviateIndex:
        """The collection of that generation.

        Raises:
            CollectionGoneError: the record or the collection is missing.
            FatalError: it holds vectors of another fingerprint.
        """
        name = self._named(generation.collection)
        recorded = self._recorded(generation.name) if self._exists(name) else None
        if recorded is None:
            raise CollectionGoneError(f"the generation {generation.name} is gone")
        if recorded.fingerprint != generation.fingerprint:
            raise FatalError(
                f"the generation {generation.name} is of {recorded.fingerprint},"
                f" not of {generation.fingerprint}"
            )
        return WeaviateIndex(connection=self._connection, name=name, generation=generation)

    def read_only(self) -> Sequence[str]:
        """Shards, as `Collection/shard`, that Weaviate has closed to writes.

        It closes them at 90 % of its disk, or of its memory if that is set, and never opens them
        again automatically.
        """
        return [f"{name}/{shard}" for name, shard in self._closed_shards()]

    def make_writable(self) -> Sequence[str]:
        """Open them; Weaviate (1.35) checks its disk again only after a restart."""
        closed = self._closed_shards()
        for name, shard in closed:
            self._connection.call(_opener(name, shard))
        return [f"{name}/{shard}" for name, shard in closed]

    def _closed_shards(self) -> Sequence[tuple[str, str]]:
        known = [self._records, *(self._named(each.collection) for each in self.list())]

        def ask(client: WeaviateClient) -> Sequence[tuple[str, str]]:
            return [
                (name, shard.name)
                for name in known
                if client.collections.exists(name)
                for shard in client.collections.use(name).config.get_shards()
                if shard.status == "READONLY"
            ]

        return self._connection.call_ready(ask)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Change records, the alias or collections while nobody else does.

        Weaviate has no compare-and-set. But an alias can be created only once, whichever node is
        asked. So whoever creates this alias has the turn, and then removes it. An alias that exists
        for too long belongs to a process that has died.
        """
        self._take_turn()
        try:
            yield
        finally:
            try:
                self._connection.call(lambda client: client.alias.delete(alias_name=self._turn))
            except TransientError as error:  # the next one waits for it, and then removes it
                _log.warning("%s stays for now: %s", self._turn, error)

    def _take_turn(self) -> None:
        # a random part, so that one of two waiting processes is first
        waits_s = _TURN_S * random.uniform(1, 1.5)  # noqa: S311
        over = time.monotonic() + waits_s
        while not self._is_our_turn():
            if time.monotonic() > over:
                self._connection.call(lambda client: client.alias.delete(alias_name=self._turn))
                over = time.monotonic() + waits_s
            time.sleep(_ASK_AGAIN_S)

    def _is_our_turn(self) -> bool:
        try:
            self._connection.call(
                lambda client: client.alias.create(
                    alias_name=self._turn, target_collection=self._records
                )
            )
        except (UsageError, TransientError) as error:
            if "already exists" not in str(error):
                raise
            return False
        return True

    def _named(self, name: str) -> str:
        """A name in this namespace; Weaviate requires a capital first letter."""
        whole = self._namespace + name
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,229}", whole):
            raise UsageError(f"{whole!r} can't name a collection of Weaviate's")
        return whole[0].upper() + whole[1:]

    def _exists(self, name: str) -> bool:
        return self._connection.call_ready(lambda client: client.collections.exists(name))

    def _ensure_records(self, replication: int) -> None:
        if self._exists(self._records):
            return
        try:
            self._connection.call(lambda client: create_records(client, self._records, replication))
        except UsageError:  # somebody else was faster
            if not self._exists(self._records):
                raise

    def _record(self, client: WeaviateClient, generation: Generation) -> None:
        _use(client, self._records).data.insert(
            {"name": generation.name, "record": generation.to_json().decode()},
            uuid=object_id(generation.name),
        )

    def _record_again(self, client: WeaviateClient, generation: Generation) -> None:
        _use(client, self._records).data.replace(
            uuid=object_id(generation.name),
            properties={"name": generation.name, "record": generation.to_json().decode()},
        )


def _opener(name: str, shard: str) -> Callable[[WeaviateClient], object]:
    return lambda client: client.collections.use(name).config.update_shards("READY", shard)


def _create_empty(client: WeaviateClient, name: str, generation: Generation) -> None:
    """Create the collection; an empty one without a record is left over from a crashed `create`."""
    if client.collections.exists(name):
        found = client.collections.use(name).with_consistency_level(ConsistencyLevel.ONE)
        if found.query.fetch_objects(limit=1).objects:
            raise UsageError(f"the collection {name} has rows, but no generation records it")
        client.collections.delete(name)
    create_collection(client, name, generation)


def _use(client: WeaviateClient, name: str) -> Collection[Mapping[str, Any], None]:
    collection: Collection[Mapping[str, Any], None] = client.collections.use(name)
    return collection.with_consistency_level(ConsistencyLevel.QUORUM)


def _parsed(record: str) -> Generation:
    try:
        return Generation.from_json(record.encode())
    except ValidationError as error:
        raise FatalError(f"a generation's record is damaged: {explain(error)}") from error
