"""REST calls that bypass Weaviate's client: state, version, and objects by id."""

from typing import Any
from uuid import UUID

import httpx

from pixtide.schemas.errors import TransientError, UsageError

_OLDEST = (1, 34)


def _get(http: httpx.Client, path: str, **headers: str) -> httpx.Response:
    try:
        answer = http.get(path, headers=headers)
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UsageError(
                f"Weaviate at {http.base_url}: {error}: name who may vouch for it "
                "(PIXTIDE_WEAVIATE_CA_FILE)"
            ) from error
        raise TransientError(f"Weaviate at {http.base_url}: {error!r}") from error
    if answer.status_code >= 500:
        raise TransientError(f"Weaviate at {http.base_url}: {path}: {answer.status_code}")
    if answer.status_code == 403 and "rpc error" in answer.text:  # between two nodes
        raise TransientError(f"Weaviate at {http.base_url}: {path}: {answer.text}")
    if answer.status_code in (401, 403):
        raise UsageError(f"Weaviate at {http.base_url} refuses the API key")
    return answer


def require_ready(http: httpx.Client) -> None:
    """Raises TransientError until the server has read its schema and its cluster has a leader."""
    _get(http, "/v1/.well-known/ready")


def fetch(http: httpx.Client, name: str, uuid: UUID) -> dict[str, Any] | None:
    """The object of that id as JSON, with its vectors, or None. Raises as `call` does.

    Asks most of the replicas, and the newest object counts.
    """
    answer = _get(http, f"/v1/objects/{name}/{uuid}?include=vector&consistency_level=QUORUM")
    if answer.status_code == 404:
        return None
    if answer.status_code != 200:
        raise TransientError(f"Weaviate: {name}/{uuid}: {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def require_collection(http: httpx.Client, name: str) -> None:
    """Raises TransientError if that node doesn't know the collection, and so no object of it."""
    if _get(http, f"/v1/schema/{name}", consistency="false").status_code == 404:
        raise TransientError(f"Weaviate at {http.base_url} knows of no collection {name}")


def require_version(http: httpx.Client) -> None:
    """Raises UsageError if the API key is refused or Weaviate is older than 1.34."""
    answer = _get(http, "/v1/meta")
    try:
        version = str(answer.json()["version"])
        release = tuple(int(part) for part in version.split(".")[:2])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"at {http.base_url} is no Weaviate") from error
    if release < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UsageError(
            f"Weaviate at {http.base_url} is {version}; pixtide needs {oldest} or newer"
        )
