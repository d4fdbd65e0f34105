#!/usr/bin/env python3
"""Fails when a dependency carries a licence that is not on the list.

Reads `cargo metadata --locked` (or the file given), so it needs neither network nor another tool; deny.toml says the same to
cargo-deny. Expressions are SPDX: AND needs both sides, OR needs one, WITH names an exception to the licence before it.
"""

import json
import pathlib
import re
import subprocess
import sys

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
}

# Crates that may carry what is not on the list, each with its reason.
EXCEPTIONS: dict[str, set[str]] = {
    # Mozilla's list of authorities: data, under a permissive licence for data.
    "webpki-root-certs": {"CDLA-Permissive-2.0"},
}


def tokens(expression: str) -> list[str]:
    # Before 2021 cargo wrote `MIT/Apache-2.0` for OR.
    return re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression; raises ValueError when it is not one."""
    rest = tokens(expression)

    def take() -> str:
        if not rest:
            raise ValueError("the expression ends too early")
        return rest.pop(0)

    def any_of() -> bool:
        value = all_of()
        while rest[:1] == ["OR"]:
            rest.pop(0)
            value = all_of() or value
        return value

    def all_of() -> bool:
        value = term()
        while rest[:1] == ["AND"]:
            rest.pop(0)
            value = term() and value
        return value

    def term() -> bool:
        token = take()
        if token == "(":
            value = any_of()
            if take() != ")":
                raise ValueError("a parenthesis is not closed")
            return value
        if token in {")", "AND", "OR", "WITH"}:
            raise ValueError(f"unexpected {token}")
        if rest[:1] == ["WITH"]:
            rest.pop(0)
            token = f"{token} WITH {take()}"
        return token in allowed

    value = any_of()
    if rest:
        raise ValueError(f"unexpected {rest[0]}")
    return value


def faults(metadata: dict) -> list[str]:
    found = []
    for package in metadata["packages"]:
        name, licence = package["name"], package.get("license")
        who = f"{name} {package['version']}"
        if not licence:
            if name not in EXCEPTIONS:
                found.append(f"{who}: no licence expression (licence file: {package.get('license_file')})")
            continue
        try:
            if not is_allowed(licence, ALLOWED | EXCEPTIONS.get(name, set())):
                found.append(f"{who}: {licence}")
        except ValueError as error:
            found.append(f"{who}: {licence}: {error}")
    return found


def main() -> int:
    if len(sys.argv) > 1:
        text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    else:
        command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
        root = pathlib.Path(__file__).resolve().parent.parent
        text = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    metadata = json.loads(text)
    found = faults(metadata)
    for fault in sorted(found):
        print(f"licence not allowed: {fault}", file=sys.stderr)
    print(f"licences: {len(metadata['packages'])} packages, {len(found)} not allowed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
