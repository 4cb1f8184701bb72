"""``manage.py websockets list``, ``close`` and ``watch``: the WebSockets of all workers, in a terminal.

Rule: what comes from a peer, e.g. a path, is written without control characters, which a terminal would obey.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from ....groups.errors import GroupsError
from ....groups.survey import ConnectionInfo, Survey
from ... import groups, users
from ...instance import IN_MEMORY

__all__ = ["Command"]

INTERVAL = 1.0
"""Seconds between two drawings of ``watch``."""
LISTED = 1000
"""Connections that are listed at most."""
CLOSED = 100_000
"""Connections that are closed at once at most."""
TITLES = ("ID", "USER", "ADDRESS", "PATH", "WORKER", "OPEN", "IDLE", "IN", "OUT", "OUTBOX", "LATENCY", "GROUPS")
CLEAR = "\x1b[H\x1b[J"
"""Moves the cursor of a terminal to its first line, and erases what follows."""


class Command(BaseCommand):
    """Lists the WebSockets of all workers, and closes some."""

    help = "Lists, closes and watches the WebSockets of all workers of this site."
    requires_system_checks = ()
    """None: a site with a wrong setting elsewhere has WebSockets, too."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The actions and their options."""
        actions = parser.add_subparsers(dest="action", metavar="list|close|watch", required=True)
        listing = actions.add_parser("list", help="Lists the WebSockets.")
        listing.add_argument("--json", action="store_true", help="One JSON object instead of a table.")
        closing = actions.add_parser("close", help="Closes WebSockets.")
        closing.add_argument("ids", nargs="*", metavar="id", help="Their ids, which `list` shows.")
        closing.add_argument("--code", type=int, default=1008, help="The close code; 1008 by default.")
        closing.add_argument("--reason", default="", help="The close reason; empty by default.")
        closing.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive", help="Ask for no confirmation."
        )
        watching = actions.add_parser("watch", help="Lists the WebSockets once a second, until Ctrl-C.")
        for each in (listing, closing, watching):
            each.add_argument("--user", help="Those of this user: the primary key or the name.")
            each.add_argument("--path", help="Those whose path begins with this.")
            each.add_argument("--worker", help="Those of this worker: host:pid.")
            each.add_argument("--group", help="The members of this group.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        """Do what was asked for."""
        if groups.get_groups().url == IN_MEMORY:
            raise CommandError(
                'the setting GWS["groups"] is "memory://", so no other process can be asked: '
                'use "auto", a directory, or Redis'
            )
        wanted = {"user": _user(options["user"]), **{name: options[name] for name in ("path", "worker", "group")}}
        if action == "list":
            self._list(wanted, as_json=options["json"])
        elif action == "close":
            self._close(wanted, options)
        else:
            self._watch(wanted)

    # --- list ---------------------------------------------------------------------------------------------------------

    def _list(self, wanted: dict[str, Any], *, as_json: bool) -> None:
        found = _survey(wanted, LISTED)
        if as_json:
            self.stdout.write(json.dumps(_plain(found), indent=2))
            return
        self.stdout.write(_table(found))
        self._warn(found)

    def _warn(self, found: Survey) -> None:
        """Say what the survey does not have."""
        for sentence in _missing(found):
            self.stderr.write(self.style.WARNING(sentence))

    # --- close --------------------------------------------------------------------------------------------------------

    def _close(self, wanted: dict[str, Any], options: dict[str, Any]) -> None:
        ids, code, reason = options["ids"], options["code"], options["reason"]
        if not ids and not any(wanted.values()):
            raise CommandError(
                "nothing says which WebSockets to close: name ids, --user, --path, --worker or --group; "
                "`list` shows them"
            )
        try:
            users.check_close(code, reason)
        except ValueError as error:
            raise CommandError(str(error)) from None
        found = _survey(wanted, CLOSED)
        self._warn(found)
        chosen = found.connections if not ids else [each for each in found.connections if each.id in ids]
        unknown = sorted(set(ids) - {each.id for each in chosen})
        if unknown and not found.missing:  # else they may be in a worker that has not answered
            raise CommandError(f"no such WebSocket: {', '.join(unknown)}; `list` shows the ids of all")
        closing = [*(each.id for each in chosen), *unknown]
        if not closing:
            self.stdout.write("No WebSocket is to be closed.")
            return
        if options["interactive"]:
            self.stdout.write(_table(found._replace(connections=chosen)))
            self._confirm(f"Close {_count(len(closing))} with code {code}? [y/N] ")
        _call(groups.close_connections, closing, code, reason)
        self.stdout.write(self.style.SUCCESS(f"{_count(len(closing))} closed with code {code}."))

    @staticmethod
    def _confirm(question: str) -> None:
        try:
            answer = input(question)
        except EOFError:
            raise CommandError("there is no terminal to confirm it: use --no-input") from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was closed")

    # --- watch --------------------------------------------------------------------------------------------------------

    def _watch(self, wanted: dict[str, Any]) -> None:
        try:
            while True:
                try:
                    found = _survey(wanted, LISTED)
                    text = "\n".join([_table(found), *_missing(found)])
                except CommandError as error:  # of the backend: it may be back soon
                    text = str(error)
                self.stdout.write((CLEAR if self.stdout.isatty() else "") + text)
                self.stdout.flush()
                time.sleep(INTERVAL)
        except KeyboardInterrupt:
            pass


def _user(given: str | None) -> str | None:
    """The primary key of a user that is named by that or by the username."""
    found = None if given is None else users.find_key(given)
    if given is not None and found is None:
        field = get_user_model().USERNAME_FIELD
        raise CommandError(f"no user {given!r}: wanted is a primary key or a {field}")
    return found


def _survey(wanted: dict[str, Any], limit: int) -> Survey:
    found: Survey = _call(groups.survey, limit=limit, **wanted)
    if wanted["worker"] is not None and not found.workers and not found.missing:
        names = ", ".join(worker.name for worker in _call(groups.workers)) or "none"
        raise CommandError(f"no worker {wanted['worker']!r}; there are: {names}")
    return found


def _call(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call it, and report what the backend is unable to do as an error of the command."""
    try:
        return function(*arguments, **keywords)
    except GroupsError as error:
        url = groups.get_groups().url
        raise CommandError(f"the workers cannot be reached by the setting groups ({url!r}): {error}") from None


def _missing(found: Survey) -> list[str]:
    """What a survey does not have, in sentences."""
    sentences = []
    if not found.workers and not found.missing:
        sentences.append(
            "No worker is known. A process is one from its first WebSocket on. If there are WebSockets, their server "
            "has other groups: another setting, user of the operating system, or directory."
        )
    if found.missing:
        sentences.append(f"Not answered in time, and missing here: {', '.join(found.missing)}.")
    if found.more:
        sentences.append(
            f"There are more than these {len(found.connections)}: use --user, --path, --worker or --group."
        )
    return sentences


def _plain(found: Survey) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "connections": [each._asdict() for each in found.connections],
        "workers": [each._asdict() for each in found.workers],
        "missing": found.missing,
        "more": found.more,
    }


def _table(found: Survey) -> str:
    now = time.time()
    rows = [TITLES, *(_row(each, now) for each in found.connections)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    workers = len(found.workers)
    return "\n".join([*lines, "", f"{_count(len(found.connections))} in {workers} worker{'s' * (workers != 1)}"])


def _row(info: ConnectionInfo, now: float) -> tuple[str, ...]:
    user = "-" if info.user is None else f"{info.user} {info.user_name or ''}"
    latency = "-" if info.latency is None else f"{1000 * info.latency:.0f} ms"
    cells = (
        *(info.id, user, info.address or "-", info.path, info.worker),
        *(_duration(now - info.since), _duration(now - info.last_activity)),
        *map(str, (info.messages_received, info.messages_sent, info.outbox)),
        *(latency, _names(info.groups)),
    )
    return tuple(map(_printable, cells))


def _names(names: Sequence[str]) -> str:
    """The first three."""
    return " ".join([*names[:3], *["…"] * (len(names) > 3)]) or "-"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text).strip()


def _count(number: int) -> str:
    return f"{number} WebSocket{'s' * (number != 1)}"
