#!/usr/bin/env python3
"""Lists calendar windows by Python's zoneinfo, and writes them beside this script:

    pip install tzdata==2025.2 && PYTHONTZPATH= python3 schemas/golden/make_golden.py

A local day begins at the first minute of UTC whose local date is that day or a later one: found by trying every minute, so that nothing
here knows of gaps and repetitions. Weeks begin on Monday, months on the first.
"""

import datetime
import json
import pathlib
import platform
import zoneinfo

import tzdata

HERE = pathlib.Path(__file__).resolve().parent
MINUTE = datetime.timedelta(minutes=1)
DAY = datetime.timedelta(days=1)

# Zone, length, a local date, and how many windows from the one that holds it.
CASES = [
    ("UTC", "day", "2024-02-28", 4),
    ("UTC", "week", "2026-12-28", 3),
    ("UTC", "month", "2024-01-15", 4),
    # Both changes of the clocks: 23 and 25 hours.
    ("Europe/Amsterdam", "day", "2026-03-27", 5),
    ("Europe/Amsterdam", "day", "2026-10-23", 5),
    ("Europe/Amsterdam", "week", "2026-03-18", 3),
    ("Europe/Amsterdam", "month", "2026-02-10", 10),
    ("America/New_York", "day", "2026-03-07", 3),
    ("America/New_York", "week", "2026-10-28", 2),
    # Odd offsets.
    ("Asia/Kolkata", "day", "2026-01-01", 3),
    ("Asia/Kolkata", "week", "2026-01-01", 3),
    ("Asia/Kathmandu", "month", "2026-01-01", 2),
    ("Pacific/Chatham", "day", "2026-04-03", 4),
    # Half an hour.
    ("Australia/Lord_Howe", "day", "2026-04-03", 4),
    ("Australia/Lord_Howe", "day", "2026-10-02", 4),
    # Midnights that do not exist.
    ("America/Sao_Paulo", "day", "2018-11-02", 4),
    ("America/Sao_Paulo", "month", "2018-10-02", 3),
    ("Africa/Cairo", "day", "2023-04-26", 4),
    ("Asia/Beirut", "day", "2022-03-25", 4),
    # Clocks that go back over or at midnight.
    ("America/Sao_Paulo", "day", "2018-02-16", 4),
    ("America/St_Johns", "day", "2010-11-05", 4),
    ("America/Havana", "day", "2026-10-30", 4),
    ("Africa/Cairo", "day", "2023-10-25", 4),
    # A day that was left out: 2011-12-30.
    ("Pacific/Apia", "day", "2011-12-28", 4),
    ("Pacific/Apia", "week", "2011-12-28", 2),
    ("Pacific/Apia", "month", "2011-12-28", 2),
    # Zones that changed their minds.
    ("America/Caracas", "day", "2007-12-08", 3),
    ("Asia/Pyongyang", "day", "2015-08-14", 3),
    ("Antarctica/Casey", "day", "2010-03-03", 4),
    ("Antarctica/Troll", "day", "2026-03-28", 3),
    ("Africa/Casablanca", "day", "2026-02-13", 4),
]


def first_instant(zone: zoneinfo.ZoneInfo, day: datetime.date) -> datetime.datetime:
    instant = datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc) - DAY
    while instant.astimezone(zone).date() < day:
        instant += MINUTE
    return instant


def first_day(length: str, day: datetime.date) -> datetime.date:
    if length == "week":
        return day - day.weekday() * DAY
    return day.replace(day=1) if length == "month" else day


def next_first_day(length: str, first: datetime.date) -> datetime.date:
    if length == "month":
        return (first + 31 * DAY).replace(day=1)
    return first + (7 if length == "week" else 1) * DAY


def boundaries(zone: zoneinfo.ZoneInfo, length: str, day: datetime.date, windows: int) -> list[str]:
    first = first_day(length, day)
    found = [first_instant(zone, first)]
    while len(found) <= windows:
        first = next_first_day(length, first)
        # A day that was left out begins where the next one does: it is no window.
        if (instant := first_instant(zone, first)) > found[-1]:
            found.append(instant)
    return [instant.strftime("%Y-%m-%dT%H:%M:%SZ") for instant in found]


def main() -> None:
    cases = [
        {
            "timezone": name,
            "window": length,
            "boundaries": boundaries(zoneinfo.ZoneInfo(name), length, datetime.date.fromisoformat(day), windows),
        }
        for name, length, day, windows in CASES
    ]
    made_by = {"python": platform.python_version(), "tzdata": tzdata.IANA_VERSION}
    lines = ",\n    ".join(json.dumps(case) for case in cases)
    text = f'{{\n  "made_by": {json.dumps(made_by)},\n  "cases": [\n    {lines}\n  ]\n}}\n'
    (HERE / "windows.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    assert not zoneinfo.TZPATH, "zoneinfo would take the system's database: set PYTHONTZPATH to nothing"
    main()
