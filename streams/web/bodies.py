"""Bodies of requests, read up to a limit, and refused for what no request says."""

from starlette.requests import Request

from pixtide.streams.web.problems import ApiError

#: Values in one JSON body: each costs time to read, and a mistake in each time to explain.
_MOST_VALUES = 4000


async def json_body(request: Request, most_bytes: int) -> bytes:
    """The body, which is to be JSON. It has a limit of its own, since it is held in memory.

    Raises:
        ApiError: 413 where it is longer, 400 where it holds more values than any request needs.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise ApiError(
                413, "TOO_LARGE", f"at most {most_bytes} bytes are taken", {"connection": "close"}
            )
    if body.count(b",") + body.count(b"[") + body.count(b"{") > _MOST_VALUES:
        raise ApiError(
            400, "MALFORMED_REQUEST", f"a request has at most {_MOST_VALUES} values and commas"
        )
    return bytes(body)
