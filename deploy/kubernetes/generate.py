"""Writes what of deploy/kubernetes is written elsewhere already.

The chart's topics from schemas/topics.py, its users from streams/kafka/acls.py, its alerts from
deploy/prometheus, and from its values.yaml the table of options in README.md and
values.schema.json, which refuses all others. Run `python deploy/kubernetes/generate.py`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pixtide.schemas.topics import topics
from pixtide.streams.kafka.acls import Grant, grants

FOLDER = Path(__file__).parent
CHART = FOLDER / "pixtide"
README = FOLDER / "README.md"
_HEADER = "# Written by deploy/kubernetes/generate.py.\n"
_BEGIN, _END = "<!-- options: written by generate.py -->\n", "<!-- end -->\n"


def topics_file() -> str:
    """The topics, for Strimzi's `KafkaTopic`s."""
    table = [
        {"name": topic.name, "partitions": topic.partitions, "config": topic.config()}
        for topic in topics(embedded=False)
    ]
    return _HEADER + yaml.safe_dump({"topics": table}, sort_keys=False)


def users_file() -> str:
    """The rules of each process's principal, for Strimzi's `KafkaUser`s."""
    users = {process: [_acl(grant) for grant in given] for process, given in grants().items()}
    return _HEADER + yaml.safe_dump({"users": users}, sort_keys=False)


def _acl(grant: Grant) -> dict[str, Any]:
    return {
        "resource": {
            "type": grant.resource,
            "name": grant.name,
            "patternType": "prefix" if grant.prefixed else "literal",
        },
        "operations": list(grant.operations),
    }


def alerts_file() -> str:
    """The alerts, which Helm reads from within the chart only."""
    groups = yaml.safe_load((FOLDER.parent / "prometheus/alerts.yaml").read_text())
    return _HEADER + yaml.safe_dump(groups, sort_keys=False, width=200)


def readme() -> str:
    """The page, with its table of options as it should be."""
    before, rest = README.read_text().split(_BEGIN)
    rows = [f"| `{name}` | `{json.dumps(value)}` | {what} |" for name, value, what in options()]
    table = "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) + "\n"
    return before + _BEGIN + table + _END + rest.split(_END)[1]


def options() -> Iterator[tuple[str, Any, str]]:
    """Each option of the chart's values.yaml: its path, its default, the comment before it.

    Raises:
        ValueError: one has no comment.
    """
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"( *)# (.*)", line):
            comment.append(found[2])
        elif found := re.match(r"((?:  )?)(\w+):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            value = values
            for name in path:
                value = value[name]
            if comment:
                yield ".".join(path), value, " ".join(comment)
            elif re.fullmatch(r" *\w+:", line) is None or found[1]:
                raise ValueError(f"{'.'.join(path)} has no comment")
            comment = []
        elif not line.strip():
            comment = []


#: Maps and lists of Kubernetes' own, which may hold what it allows.
_OPEN = re.compile(r"(requests|limits|labels|.*Namespace)$")
#: Numbers of which 0 makes no sense: Kafka or Weaviate would refuse them, or nothing would run.
_AT_LEAST_ONE = re.compile(
    r"(brokers|replication|minInSyncReplicas|maxReplicas|lagPerReplica|\w+Port)$"
)
_OF_A_GENERATION = ("gpu", "minReplicas", "maxReplicas", "lagPerReplica", "resources")


def values_schema() -> str:
    """The JSON schema that Helm holds values against."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = _schema_of(values)
    ingest = schema["properties"]["ingest"]["properties"]
    own = {name: ingest[name] for name in _OF_A_GENERATION}
    for name in ("name", "model", "compression"):
        own[name] = {"type": "string", "minLength": 1}
    ingest["generations"]["items"] = {
        "type": "object",
        "properties": own,
        "required": ["name"],
        "additionalProperties": False,
    }
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    return json.dumps(schema, indent=1) + "\n"


def _schema_of(value: Any, name: str = "") -> dict[str, Any]:
    match value:
        case dict() if value and not _OPEN.match(name):
            properties = {key: _schema_of(each, key) for key, each in value.items()}
            properties |= {"global": {}} if not name else {}  # Helm's own, passed to every chart
            return {"type": "object", "properties": properties, "additionalProperties": False}
        case dict():
            return {"type": "object"}
        case list():
            return {"type": "array"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 1 if _AT_LEAST_ONE.match(name) else 0}
        case _:
            return {"type": "string"}


if __name__ == "__main__":
    (CHART / "files/topics.yaml").write_text(topics_file())
    (CHART / "files/users.yaml").write_text(users_file())
    (CHART / "files/alerts.yaml").write_text(alerts_file())
    (CHART / "values.schema.json").write_text(values_schema())
    README.write_text(readme())
