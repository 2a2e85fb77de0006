"""OpenAPI 3.1 of the JSON API, made from the models that read and write it."""

import json
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from pixtide.schemas.base import Contract
from pixtide.schemas.outcomes import Outcome
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.streams.web.dead_letters import Letters, Retried, Retry
from pixtide.streams.web.pictures import SIDES, ImageView
from pixtide.streams.web.problems import Failure
from pixtide.streams.web.publishing import Accepted
from pixtide.streams.web.session import SignIn
from pixtide.streams.web.status import Readiness, Status

_MODELS = (
    *(SearchRequest, SearchReply, ImageView, Accepted, Outcome),
    *(Status, Readiness, SignIn, Failure, Letters, Retry, Retried),
)
_JSON = "application/json"


@cache
def openapi_document() -> str:
    """The document, as JSON."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "pixtide",
                "version": version("pixtide"),
                "description": "Search pictures by words, and publish them: both over Kafka.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "."}],
            "security": [{}, {"bearer": []}],
            "paths": _paths(),
            "components": {
                "schemas": schemas["$defs"],
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _paths() -> dict[str, Any]:
    picture = _operation("The original, as it was indexed", "getOriginal", 200, "image/*", of=_ID)
    thumbnail = _operation("A JPEG of it", "getThumbnail", 200, "image/jpeg", of=(*_ID, _SIDE))
    return {
        "/api/search": {
            "post": _operation(
                "Search",
                "search",
                200,
                SearchReply,
                body={_JSON: {"schema": _ref(SearchRequest)}},
                fails_as=(Failure, SearchReply),
            )
        },
        "/api/images": {
            "post": _operation("Publish a picture", "publish", 202, Accepted, body=_UPLOAD)
        },
        "/api/images/{image_id}": {
            "get": _operation("What is known of a picture", "getImage", 200, ImageView, of=_ID),
            "delete": _operation("Delete a picture", "delete", 202, Accepted, of=_ID),
        },
        "/thumbnails/{image_id}": {"get": thumbnail},
        "/originals/{image_id}": {"get": picture},
        "/api/outcomes": {
            "get": _operation(
                "Outcomes as they come: server-sent events `outcome`, each the JSON of an Outcome",
                "followOutcomes",
                200,
                "text/event-stream",
            )
        },
        "/api/status": {"get": _operation("Generations, counts, lag", "getStatus", 200, Status)},
        "/api/dead-letters": {"get": _operation("Dead letters", "getLetters", 200, Letters)},
        "/api/dead-letters/retry": {
            "post": _operation(
                "Try dead letters again",
                "retry",
                202,
                Retried,
                body={_JSON: {"schema": _ref(Retry)}},
            )
        },
        "/api/dead-letters/{place}/thumbnail": {
            "get": _operation(
                "A JPEG of a letter's picture, where it can be decoded",
                "getLetterThumbnail",
                200,
                "image/jpeg",
                of=(_PLACE,),
            )
        },
        "/api/session": {
            "post": _operation(
                "Show the token once, for a cookie",
                "signIn",
                204,
                None,
                body={_JSON: {"schema": _ref(SignIn)}},
            )
        },
        "/live": {"get": _operation("Whether it runs", "isLive", 200, Readiness)},
        "/ready": {
            "get": _operation(
                "Whether it can serve", "isReady", 200, Readiness, fails_as=(Failure, Readiness)
            )
        },
    }


_ID = (
    {
        "name": "image_id",
        "in": "path",
        "required": True,
        "description": "percent-encoded whole, slashes too",
        "schema": {"type": "string", "maxLength": 512},
    },
    {
        "name": "sha256",
        "in": "query",
        "description": "that of the version wanted: then the answer may be kept for ever",
        "schema": {"type": "string"},
    },
)
_PLACE = {
    "name": "place",
    "in": "path",
    "required": True,
    "description": "partition@offset in the dead-letter topic",
    "schema": {"type": "string"},
}
_SIDE = {"name": "side", "in": "query", "schema": {"type": "integer", "enum": list(SIDES)}}
_UPLOAD = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["picture"],
            "properties": {
                "picture": {"type": "string", "format": "binary"},
                "caption": {"type": "string"},
                "tags": {"type": "string", "description": "a JSON array of texts"},
            },
        }
    }
}


def _operation(
    summary: str,
    name: str,
    status: int,
    answer: type[Contract] | str | None,
    *,
    of: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
    fails_as: tuple[type[Contract], ...] = (Failure,),
) -> dict[str, Any]:
    success: dict[str, Any] = {"description": summary}
    if isinstance(answer, str):
        success["content"] = {answer: {}}
    elif answer is not None:
        success["content"] = {_JSON: {"schema": _ref(answer)}}
    why = [_ref(model) for model in fails_as]
    schema: dict[str, Any] = {"anyOf": why} if len(why) > 1 else why[0]
    failure = {"description": "why not", "content": {_JSON: {"schema": schema}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": name,
        "responses": {str(status): success, "default": failure},
    }
    if of:
        operation["parameters"] = list(of)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _ref(model: type[Contract]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
