"""A front before another HTTP server: hands requests on and answers back, so that a subclass changes only what that server lacks."""

import http.client
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Of one connection only: they must not be handed on.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet each; waiting for more would cost 40 ms a request.
    disable_nagle_algorithm = True
    wbufsize = -1
    # The port of the server behind.
    behind = 0

    def handle_any(self):
        self.change(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def change(self, body: bytes):
        """What is done with a request; a subclass says it."""
        raise NotImplementedError

    def sent_headers(self) -> dict[str, str]:
        return {key: value for key, value in self.headers.items() if key.lower() not in HOP_BY_HOP}

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]):
        """The status, headers and content that the server behind answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for key, value in headers.items():
                connection.putheader(key, value)
            if body or method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def say(self, status: int, headers, content: bytes):
        self.send_response_only(status)
        length = None
        for key, value in headers:
            if key.lower() == "content-length":
                length = value
            elif key.lower() not in HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def serve(front: type[Front]):
    """`PORT PORT_BEHIND` are the program's arguments."""
    port, front.behind = int(sys.argv[1]), int(sys.argv[2])
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", port), front).serve_forever()
