"""What fake-gcs-server lacks of Google Cloud Storage's XML API, in front of it.

The emulator keeps generation preconditions, but only in uploads of the JSON API; a plain `PUT /bucket/object`, which is how
Driftline's client writes, it refuses. Here such a PUT becomes a JSON upload with the same precondition, and its answer the
headers of the XML API. Reads of one version (`If-Match`) are judged here too. All else is handed on as it is.

    gcs_xml.py PORT EMULATOR_PORT
"""

import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

# Of one connection only: they must not be handed on.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet each; waiting for more would cost 40 ms a request.
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.lstrip("/").partition("/")
        if self.command == "PUT" and name and not parts.query:
            return self.upload(bucket, name, body)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP_BY_HOP}
        pinned = headers.pop("If-Match", None) or headers.pop("if-match", None)
        status, answer, content = self.ask(self.command, self.path, body, headers)
        if self.command in ("GET", "HEAD") and name and status < 300 and pinned:
            if pinned.strip('"') not in (value.strip('"') for key, value in answer if key.lower() == "etag"):
                status, answer, content = 412, [], b"<Error><Code>PreconditionFailed</Code></Error>"
        self.say(status, answer, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def upload(self, bucket, name, body):
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(unquote(name), safe='')}"
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None:
            path += f"&ifGenerationMatch={wanted}"
        kind = self.headers.get("Content-Type") or "application/octet-stream"
        status, _, content = self.ask("POST", path, body, {"Content-Type": kind})
        if status != 200:
            return self.say(status, [], content)
        made = json.loads(content)
        self.say(200, [("ETag", f'"{made["etag"].strip(chr(34))}"'), ("x-goog-generation", str(made["generation"]))], b"")

    def ask(self, method, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]), timeout=60)
        try:
            # The emulator tells buckets in paths from buckets in hosts by this name.
            connection.request(method, path, body=body, headers={**headers, "Host": "storage.googleapis.com"})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def say(self, status, headers, content):
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


ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
