"""Writes docs/asyncapi.yaml from the schemas: `python docs/asyncapi.py`.

AsyncAPI 3.0 (https://www.asyncapi.com/docs/reference/specification/v3.0.0), Kafka bindings 0.5.0.
Topics are channels; what each part of pixtide, and each of its clients, does there are operations.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pixtide.schemas import reply_address as address
from pixtide.schemas import topics
from pixtide.schemas.codec import CloudEventAttributes
from pixtide.schemas.dead_letters import (
    REASON,
    VALUE_MISSING,
    VALUE_URI,
    SourceRecord,
    dead_letter_headers,
)
from pixtide.schemas.errors import ReasonCode
from pixtide.schemas.events import DELETED_V1, UPLOADED_V1, UploadData
from pixtide.schemas.outcomes import DeadLetterReason, Outcome
from pixtide.schemas.queries import AttributeFilter, Filters, SearchReply, SearchRequest

PAGE = Path(__file__).with_name("asyncapi.yaml")
BINDINGS = "0.5.0"
PAYLOADS = (UploadData, Outcome, SearchRequest, SearchReply)
#: Models in which an unknown field is refused; readers of all others ignore it.
CLOSED = {Filters.__name__, AttributeFilter.__name__}
#: A reply goes where its request says, so that this channel has no address of its own.
ANY_REPLY_TOPIC = "the reply topic that a request names"

Node = dict[str, Any]


def document() -> Node:
    """The whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "pixtide",
            "version": "1.0.0",
            "description": "Makes a stream of pictures searchable by words, over Kafka. Written by"
            " `python docs/asyncapi.py`; docs/contracts.md tells the same in prose.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


_SOURCE = SourceRecord(topic="", topic_id="", partition=0, offset=0, timestamp_ms=0)
_SOURCE_NAMES = [name for name, _ in _SOURCE.headers()]

#: The messages of each topic.
_MESSAGES_OF = {
    topics.UPLOADED: ("Upload", "UploadedPicture", "StructuredEvent", "Delete", "Tombstone"),
    topics.RETRY: ("Retry",),
    topics.DEAD_LETTERS: ("DeadLetter",),
    topics.INDEXED: ("Outcome",),
    topics.REQUESTS: ("SearchRequest",),
    topics.REPLIES: ("SearchReply",),
}


def _channels() -> Node:
    channels: Node = {}
    for topic in topics.topics(embedded=False):
        channels[topic.name] = {
            "address": topic.name,
            "description": f"{topic.purpose} (key: {topic.key})",
            "messages": {
                name: _to(f"components/messages/{name}") for name in _MESSAGES_OF[topic.name]
            },
            "bindings": {
                "kafka": {
                    "topic": topic.name,
                    "partitions": topic.partitions,
                    "topicConfiguration": _configuration(topic),
                    "bindingVersion": BINDINGS,
                }
            },
        }
    channels["replies"] = {
        "address": None,
        "description": f"{ANY_REPLY_TOPIC}; it must be on the allow-list, as search.replies is",
        "messages": {"SearchReply": _to("components/messages/SearchReply")},
    }
    return channels


def _configuration(topic: topics.Topic) -> Node:
    """Numbers and lists, as the bindings have them."""
    config: Node = topic.config()
    numbers = {name: int(value) for name, value in config.items() if value.isdigit()}
    return config | {"cleanup.policy": [config["cleanup.policy"]]} | numbers


def _operations() -> Node:
    reply = {
        "address": {
            "description": ANY_REPLY_TOPIC,
            "location": f"$message.header#/{address.REPLY_TOPIC}",
        },
        "channel": _to("channels/replies"),
        "messages": [_to("channels/replies/messages/SearchReply")],
    }
    return {
        "publishPictures": _operation("publisher", "send", topics.UPLOADED),
        "followOutcomes": _operation("publisher", "receive", topics.INDEXED),
        "ingestPictures": _operation("ingest", "receive", topics.UPLOADED),
        "ingestRetries": _operation("ingest", "receive", topics.RETRY),
        "retryDeadLetters": _operation("operator", "send", topics.RETRY),
        "reportOutcomes": _operation("ingest", "send", topics.INDEXED),
        "deadLetter": _operation("ingest", "send", topics.DEAD_LETTERS),
        "answerSearches": _operation("query", "receive", topics.REQUESTS) | {"reply": reply},
        "search": _operation("client", "send", topics.REQUESTS) | {"reply": reply},
    }


def _operation(part: str, action: str, topic: str) -> Node:
    """What a part of pixtide, or a client of it, does on a topic."""
    return {
        "action": action,
        "tags": [{"name": part}],
        "channel": _to(f"channels/{topic}"),
    }


def _messages() -> Node:
    event = "a CloudEvent in binary mode"
    json, image = {"const": "application/json"}, {"type": "string", "pattern": "^image/"}
    return {
        "Upload": _message(
            f"{event} that names or carries a picture",
            _ref(UploadData),
            headers=_event_headers(UPLOADED_V1, json),
        ),
        "UploadedPicture": _message(
            f"{event} whose value is the picture",
            {"type": "string", "format": "binary"},
            headers=_event_headers(UPLOADED_V1, image),
            contentType="image/*",
        ),
        "StructuredEvent": _message(
            "a CloudEvent in structured mode",
            _to("components/schemas/StructuredEvent"),
            contentType="application/cloudevents+json",
        ),
        "Delete": _message(f"{event} that deletes", {}, headers=_event_headers(DELETED_V1)),
        "Tombstone": _message("a null value deletes the picture", {"type": "null"}),
        "Outcome": _message("what became of an event", _ref(Outcome)),
        "DeadLetter": _message(
            "a record as it came, and why it can't be indexed", {}, headers=_dead_letter_headers()
        ),
        "Retry": _message(
            "a dead letter's record as it came, to be applied under the version of its source",
            {},
            headers=_headers({name: _text() for name in _SOURCE_NAMES}, _SOURCE_NAMES),
        ),
        "SearchRequest": _message(
            "what is searched for, and where the reply goes",
            _ref(SearchRequest),
            headers=_request_headers(),
            correlationId=_CORRELATION_ID,
        ),
        "SearchReply": _message(
            "results or an error; it may come late or twice",
            _ref(SearchReply),
            headers=_reply_headers(),
            correlationId=_CORRELATION_ID,
        ),
    }


_CORRELATION_ID = {"location": f"$message.header#/{address.CORRELATION_ID}"}


def _message(summary: str, payload: Node, **more: Any) -> Node:
    key = {"kafka": {"key": _text(), "bindingVersion": BINDINGS}}
    return {"summary": summary, **more, "payload": payload, "bindings": key}


# headers


def _event_headers(kind: str, content_type: Node | None = None) -> Node:
    """CloudEvents' context attributes, and ours that describe a picture."""
    names = [n for n in CloudEventAttributes.model_fields if n != "datacontenttype"]
    headers: Node = {f"ce_{name}": _text() for name in names}
    headers |= {"ce_specversion": {"const": "1.0"}, "ce_type": {"const": kind}}
    if content_type is not None:
        headers["content-type"] = content_type
    return _headers(headers, ["ce_specversion", "ce_id", "ce_source", "ce_type"])


def _dead_letter_headers() -> Node:
    reason = DeadLetterReason(code=ReasonCode.NO_SOURCE, stage="", exception="", message="")
    ours = [name for name, _ in dead_letter_headers(_SOURCE, reason, "", [])]
    headers: Node = {name: _text() for name in ours}
    headers[REASON] = {"type": "string", "enum": [str(code) for code in ReasonCode]}
    headers[VALUE_URI] = _text("where the value lies that the topic doesn't take")
    headers[VALUE_MISSING] = _text("why the value is nowhere; such a letter can't be tried again")
    return _headers(headers, ours)


def _request_headers() -> Node:
    correlation_id = _text(f"1 to {address.MAX_CORRELATION_ID_BYTES} bytes, echoed untouched")
    headers = {
        address.REPLY_TOPIC: _text("must be on the allow-list"),
        address.CORRELATION_ID: correlation_id,
        address.REPLY_PARTITION: _text("4 bytes big-endian, or ASCII digits"),
        address.DEADLINE: {"type": "string", "pattern": "^[0-9]{1,15}$"}
        | _text("epoch milliseconds; after it the request is dropped"),
    }
    return _headers(headers, [address.REPLY_TOPIC, address.CORRELATION_ID])


def _reply_headers() -> Node:
    headers = {
        address.CORRELATION_ID: _text("the request's"),
        address.NEST_IS_DISPOSED: _text("one byte, for NestJS: the only reply"),
    }
    return _headers(headers, list(headers))


def _headers(properties: Node, required: list[str]) -> Node:
    return {"type": "object", "properties": properties, "required": required}


def _text(description: str | None = None) -> Node:
    return {"type": "string"} | ({"description": description} if description else {})


# payloads


def _schemas() -> Node:
    _, generated = models_json_schema(
        [(model, "validation") for model in PAYLOADS],
        ref_template="#/components/schemas/{model}",
    )
    schemas: Node = generated["$defs"]
    for name, schema in schemas.items():
        if name not in CLOSED:
            schema.pop("additionalProperties", None)
    return schemas | {"StructuredEvent": _structured_event()}


def _structured_event() -> Node:
    schema = CloudEventAttributes.model_json_schema()
    schema["title"] = "StructuredEvent"
    del schema["description"]
    schema["properties"] |= {
        "specversion": {"const": "1.0"},
        "type": {"enum": [UPLOADED_V1, DELETED_V1]},
        "data": _ref(UploadData),
        "data_base64": _text("the picture"),
    }
    return schema


def _ref(model: type[BaseModel]) -> Node:
    return _to(f"components/schemas/{model.__name__}")


def _to(path: str) -> Node:
    return {"$ref": f"#/{path}"}


class _Plain(yaml.SafeDumper):
    """Writes what is used twice twice: anchors would hide it."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def page() -> str:
    """The document, as it should be."""
    return yaml.dump(document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    PAGE.write_text(page())
