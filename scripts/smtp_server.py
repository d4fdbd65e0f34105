#!/usr/bin/env python3
"""A mail server for tests (aiosmtpd): it takes mail and writes it down, one line of JSON a message.

    scripts/python.sh scripts/smtp_server.py --out mail.jsonl --certificate chain.pem --key key.pem --user me --password secret

Prints `port=N` once it listens on 127.0.0.1, and ends with its standard input. With a certificate it offers STARTTLS and takes nothing
without it (`--implicit`: TLS from the first byte); with a user it takes nothing of anybody else. `--refuse ADDRESS` is a mailbox that
it does not have, `--busy N` refuses the first N messages for now.
"""

import argparse
import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def text_of(part) -> str:
    content = part.get_content()
    return content if isinstance(content, str) else content.decode("utf-8")


class Keep:
    """Writes each message down as it was taken."""

    def __init__(self, out, refused, busy):
        self.out, self.refused, self.busy = out, refused, busy

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refused:
            return "550 5.1.1 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server, session, envelope):
        if self.busy > 0:
            self.busy -= 1
            return "451 4.3.2 come again later"
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = [part for part in mail.walk() if not part.is_multipart()]
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "is_encrypted": session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None,
            "user": getattr(session, "kept_user", None),
            "headers": {name: str(value) for name, value in mail.items()},
            # Each as a mail program would show it: decoded, by its own character set.
            "parts": [
                {"type": part.get_content_type(), "file": part.get_filename(), "text": text_of(part)} for part in parts
            ],
            "defects": [str(defect) for part in mail.walk() for defect in part.defects],
        }
        with open(self.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
        return "250 kept"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--implicit", action="store_true")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--login-only", action="store_true", help="offer AUTH LOGIN, and not PLAIN")
    parser.add_argument("--refuse", action="append", default=[])
    parser.add_argument("--busy", type=int, default=0)
    return parser.parse_args()


async def main() -> None:
    args = arguments()
    tls = None
    if args.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(args.certificate, args.key)

    def knows(server, session, envelope, mechanism, login):
        if not isinstance(login, LoginPassword):
            return AuthResult(success=False, handled=False)
        is_known = login.login == args.user.encode() and login.password == args.password.encode()
        session.kept_user = login.login.decode()
        return AuthResult(success=is_known, handled=False)

    starttls = tls if not args.implicit else None
    handler = Keep(args.out, args.refuse, args.busy)

    def protocol():
        return SMTP(
            handler,
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=knows if args.user else None,
            auth_required=args.user is not None,
            # A connection that was encrypted from its first byte is one that aiosmtpd knows nothing of.
            auth_require_tls=starttls is not None,
            auth_exclude_mechanism=["PLAIN"] if args.login_only else [],
            data_size_limit=50_000_000,
            loop=asyncio.get_running_loop(),
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls if args.implicit else None)
    print(f"port={server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
