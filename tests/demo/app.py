"""The small HTTP app of the demo. It knows nothing of a mesh: plain HTTP to its neighbours, by name.

GET /       says hello
GET /visit  counts the visit in redis and quotes the front page of the web server
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import urllib.request


class DualStack(http.server.ThreadingHTTPServer):
    """Listens on IPv6 and IPv4."""

    address_family = socket.AF_INET6
    daemon_threads = True


class App(http.server.BaseHTTPRequestHandler):
    """Two pages."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        try:
            if self.path == "/visit":
                page = urllib.request.urlopen(os.environ["WEB"], timeout=5).read().decode()
                answer: dict[str, object] = {"visit": _count_visit(), "web said": page.strip()}
            else:
                answer = {"hello": f"from the app, you came from {self.client_address[0]}"}
            status = 200
        except OSError as error:
            status, answer = 502, {"error": str(error)}
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _count_visit() -> int:
    host, _, port = os.environ["REDIS"].rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
        connection.sendall(b"INCR visits\r\n")
        answer = connection.makefile("rb").readline()
    if not answer.startswith(b":"):
        raise OSError(f"redis answered {answer!r}")
    return int(answer[1:])


if __name__ == "__main__":
    DualStack(("::", int(os.environ["PORT"])), App).serve_forever()
