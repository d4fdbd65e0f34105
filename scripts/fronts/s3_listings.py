"""What versitygw lacks of S3's listings, in front of it: keys in the encoding that was asked for.

A client that lists with `encoding-type=url` decodes the keys that come back, as AWS encodes them. versitygw leaves them as they are
(github.com/versity/versitygw, issue 1985), so DuckDB looks for `fraud/eu v2` where `fraud%2Feu%20v2` lies. All else is handed on as it
is: signatures hold, for a front that keeps path, query and headers changes nothing that is signed.

    s3_listings.py PORT SERVER_PORT
"""

import html
import re
from urllib.parse import parse_qs, quote_plus, urlsplit

from front import Front, serve

# Names that are encoded, as S3's reference of ListObjects and ListObjectsV2 lists them.
NAMES = re.compile(r"<(Key|Prefix|Delimiter|Marker|NextMarker|StartAfter)>([^<]*)</\1>")


def encoded(listing: str) -> str:
    """A listing with its keys as AWS encodes them: a blank is `+`, a slash stays."""
    listing = NAMES.sub(lambda found: f"<{found[1]}>{quote_plus(html.unescape(found[2]), safe='/*')}</{found[1]}>", listing)
    listing = re.sub(r"<EncodingType>[^<]*</EncodingType>|<EncodingType/>", "", listing)
    return re.sub(r"(<ListBucketResult[^>]*>)", r"\1<EncodingType>url</EncodingType>", listing, count=1)


class S3Listings(Front):
    def change(self, body):
        status, answer, content = self.ask(self.command, self.path, body, self.sent_headers())
        wants = self.command == "GET" and parse_qs(urlsplit(self.path).query).get("encoding-type") == ["url"]
        if wants and status == 200 and b"<ListBucketResult" in content[:200]:
            content = encoded(content.decode()).encode()
        self.say(status, answer, content)


if __name__ == "__main__":
    serve(S3Listings)
