"""What fake-gcs-server lacks of Google Cloud Storage's XML API, in front of it.

The emulator keeps generation preconditions, but only in uploads of the JSON API; a plain `PUT /bucket/object`, which is how
Driftline's client writes, it refuses. Here such a PUT becomes a JSON upload with the same precondition, and its answer the
headers of the XML API. Reads of one version (`If-Match`) are judged here too. All else is handed on as it is.

    gcs_xml.py PORT EMULATOR_PORT
"""

import json
from urllib.parse import quote, unquote, urlsplit

from front import Front, serve

# The emulator tells buckets in paths from buckets in hosts by this name.
HOST = {"Host": "storage.googleapis.com"}


class GcsXml(Front):
    def change(self, body):
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.lstrip("/").partition("/")
        if self.command == "PUT" and name and not parts.query:
            return self.upload(bucket, name, body)
        headers = {key: value for key, value in self.sent_headers().items() if key.lower() not in ("host", "if-match")}
        pinned = self.headers.get("If-Match")
        status, answer, content = self.ask(self.command, self.path, body, headers | HOST)
        if self.command in ("GET", "HEAD") and name and status < 300 and pinned:
            if pinned.strip('"') not in (value.strip('"') for key, value in answer if key.lower() == "etag"):
                status, answer, content = 412, [], b"<Error><Code>PreconditionFailed</Code></Error>"
        return self.say(status, answer, content)

    def upload(self, bucket, name, body):
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(unquote(name), safe='')}"
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None:
            path += f"&ifGenerationMatch={wanted}"
        kind = self.headers.get("Content-Type") or "application/octet-stream"
        status, _, content = self.ask("POST", path, body, HOST | {"Content-Type": kind})
        if status != 200:
            return self.say(status, [], content)
        made = json.loads(content)
        return self.say(200, [("ETag", f'"{made["etag"].strip(chr(34))}"'), ("x-goog-generation", str(made["generation"]))], b"")


if __name__ == "__main__":
    serve(GcsXml)
