"""An OAuth server for tests: gives out tokens that nobody has signed."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

SECRET = "a client's secret"
LIFE_S = 300


class TokenServer:
    """Gives whoever knows `SECRET` a token of the client's name; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        asked = self.asked

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                asked.append(parse_qs(body))
                _, _, login = self.headers.get("authorization", "").partition(" ")
                client, _, secret = base64.b64decode(login).decode().partition(":")
                if secret == SECRET:
                    token = {"access_token": _token(client), "expires_in": LIFE_S}
                    self._say(200, token | {"token_type": "Bearer"})
                else:
                    self._say(401, {"error": "invalid_client"})

            def _say(self, status: int, what: dict[str, object]) -> None:
                said = json.dumps(what).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port = self._server.server_port

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _token(subject: str) -> str:
    """A JSON Web Token without a signature (RFC 7519, section 6)."""
    now = int(time.time())
    claims = {"sub": subject, "iat": now, "exp": now + LIFE_S}
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return "".join(base64.urlsafe_b64encode(p).decode().rstrip("=") + "." for p in parts)
