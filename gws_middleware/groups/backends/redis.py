"""Groups over several hosts: a Redis or Valkey server moves and keeps their messages.

A group without history is a channel. One with history is a stream and the fields beside it, ``epoch``, ``top`` and
``run``: a script appends to the stream and publishes in one step. An epoch belongs to one process of the server, whose
``run_id`` is read at each connect: after a restart from an older snapshot, or after a failover, the same offsets can
mean other messages, so the group begins a new epoch.

Rule 1: nothing is sent a second time that could be published twice. What has a history has an id, by which the script
finds whether it was published; for the rest the outcome is unknown.
Rule 2: while there is no connection, what is called fails at once.
Rule 3: a record that is written while it is put again is put once more afterwards, because it is not known which of
both the server got last.

Keys and channels, where ``n`` is ``crc32(name) % 64``::

    gws:{n}:s:NAME   the stream of a group: id "offset-milliseconds", fields m (message) and i (id)
    gws:{n}:m:NAME   epoch, top, run
    gws:{n}:c:NAME   the channel
    gws:p            processes, and until when each is living (milliseconds of the server's clock)
    gws:t:PROCESS    the tables in which a process has records
    gws:r:PROCESS:TABLE    its records: fields and values
"""

from __future__ import annotations

import _socket
import itertools
import math
import os
import random
import re
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any, TypeAlias, cast
from weakref import WeakSet
from zlib import crc32

from .. import waiting
from ..errors import GroupsError, GroupsUnavailable, UnknownOutcome
from ..position import Entry, Page, Position
from .base import TIMEOUT, Buried, Confirmed, Event, Lost, Publish, Record, Want
from .outages import Outages
from .redislink import Command, Link, LinkError, RefusedError, Server

__all__ = ["RedisBackend", "RedisFeed"]

PING = 5.0
"""Seconds between two PINGs of a feed; an answer has to come as fast."""
BATCH = 500
"""Channels of one SUBSCRIBE."""
SLICE = 500
"""Replies after which a feed returns what it has read."""
LIVING = 15.0
"""Seconds after its last sign for which a process counts as living."""
_LIVING = round(LIVING * 1000)
REPEAT = 3600.0
"""Seconds after which a process puts its records again."""
REPEAT_WHERE_EVICTED = 60.0
"""The same where the server may delete them when its memory is full."""
_STAYING = round(3 * REPEAT * 1000)
"""Milliseconds after which the server deletes records that no process has buried."""
BURIED = 1000
"""Records of dead processes that one call of ``bury()`` removes, and those of one table more."""
IDLE = 4
"""Connections that are kept for threads of the operating system."""
AFTERWARDS = 7 * 86400
"""Seconds for which the epoch of a group is kept after its last message has expired."""

_PUBLISH = """
local results, now = {}, redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local run, fresh, repeated = ARGV[1], ARGV[2], ARGV[3] == '1'
for number = 1, #KEYS / 3 do
  local meta, stream, channel = KEYS[3 * number - 2], KEYS[3 * number - 1], KEYS[3 * number]
  local size, age = tonumber(ARGV[4 * number]), tonumber(ARGV[4 * number + 1])
  local id, payload = ARGV[4 * number + 2], ARGV[4 * number + 3]
  if size == 0 then
    redis.call('PUBLISH', channel, 'l' .. payload)
    results[number] = false
  else
    local found = redis.call('HMGET', meta, 'epoch', 'run')
    local epoch, offset = found[1], nil
    if not epoch or found[2] ~= run then
      if repeated then
        return redis.error_reply('the group has begun a new epoch, and what it had is not known')
      end
      redis.call('DEL', stream, meta)
      epoch = fresh .. string.format('x%x', number)
      redis.call('HSET', meta, 'epoch', epoch, 'run', run)
    elseif repeated then
      for _, entry in ipairs(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1000)) do
        if entry[2][4] == id then
          offset = string.match(entry[1], '^%d+')
          break
        end
      end
      repeated = offset ~= nil
    end
    if not offset then
      offset = string.format('%.0f', redis.call('HINCRBY', meta, 'top', 1))
      redis.call('XADD', stream, 'MAXLEN', size, offset .. string.format('-%.0f', now), 'm', payload, 'i', id)
      redis.call('PUBLISH', channel, 'h' .. epoch .. '.' .. offset .. '.' .. payload)
      if offset % 50 == 0 then
        local old
        for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', 100)) do
          local first, stored = string.match(entry[1], '^(%d+)-(%d+)$')
          if tonumber(stored) + age > now then
            break
          end
          old = first
        end
        if old then
          redis.call('XTRIM', stream, 'MINID', string.format('%.0f', old + 1))
        end
      end
    end
    redis.call('PEXPIRE', stream, age)
    redis.call('PEXPIRE', meta, age + tonumber(ARGV[#ARGV]))
    results[number] = {epoch, offset}
  end
end
return results
"""
"""Publishes messages, all in one step.

What was sent before was published whole or not at all: the first message says which. If its epoch has ended since then,
that is not known, and nothing is published.

KEYS: of each: fields, stream, channel. ARGV: run_id; the beginning of new epochs; "1" where it was sent before; of
each: entries to keep (0 for a group without history), milliseconds to keep them, id, message; milliseconds to keep the
epoch.
"""

_READ = """#!lua flags=allow-oom
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local meta, stream, run, fresh = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local after, limit, size, age = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local found = redis.call('HMGET', meta, 'epoch', 'run', 'top')
local epoch, top = found[1], tonumber(found[3] or 0)
if not epoch or found[2] ~= run then
  redis.call('DEL', stream, meta)
  epoch, top = fresh, 0
  redis.call('HSET', meta, 'epoch', epoch, 'run', run)
end
redis.call('PEXPIRE', meta, age + tonumber(ARGV[7]))
local entries, flat = {}, {}
local first = math.max(after, top - size)
if after < 0 then
  first = math.max(0, top - math.min(limit, size))
end
if limit > 0 and first < top then
  entries = redis.call('XRANGE', stream, string.format('%.0f', first + 1), '+', 'COUNT', limit)
end
for _, entry in ipairs(entries) do
  local offset, stored = string.match(entry[1], '^(%d+)-(%d+)$')
  if tonumber(stored) + age > now then
    flat[#flat + 1] = offset
    flat[#flat + 1] = entry[2][2]
  end
end
return {epoch, string.format('%.0f', top), flat}
"""
"""Reads a group. KEYS: fields, stream. ARGV: run_id; a new epoch; offset or -1; limit; size; age and the time to keep
the epoch in milliseconds.
"""

_RECORDS = """#!lua flags=allow-oom
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local what, prefix, process, table = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local function records_of(name, of_table)
  return prefix .. ':r:' .. name .. ':' .. of_table
end
local is_known = 0
if what == 'sign' or what == 'put' or what == 'exchange' then
  if tonumber(redis.call('ZSCORE', KEYS[1], process) or 0) > 0 then
    is_known = 1
  end
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[5]), process)
end
if what == 'sign' then
  return is_known
elseif what == 'put' or what == 'exchange' then
  local key, tables = records_of(process, table), prefix .. ':t:' .. process
  for number = 7, #ARGV, 3 do
    if ARGV[number + 1] == '0' then
      redis.call('HDEL', key, ARGV[number])
    else
      redis.call('HSET', key, ARGV[number], ARGV[number + 2])
    end
  end
  if redis.call('EXISTS', key) == 1 then
    redis.call('PEXPIRE', key, ARGV[6])
    redis.call('SADD', tables, table)
    redis.call('PEXPIRE', tables, ARGV[6])
  else
    redis.call('SREM', tables, table)
  end
elseif what == 'bury' then
  local found, left = {}, tonumber(ARGV[5])
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 10)) do
    redis.call('ZADD', KEYS[1], 0, name)
    for _, each in ipairs(redis.call('SMEMBERS', prefix .. ':t:' .. name)) do
      if left <= 0 then
        return found
      end
      local flat = redis.call('HGETALL', records_of(name, each))
      for number = 1, #flat, 2 do
        found[#found + 1] = name
        found[#found + 1] = each
        found[#found + 1] = flat[number]
        found[#found + 1] = flat[number + 1]
      end
      left = left - #flat / 2
      redis.call('DEL', records_of(name, each))
      redis.call('SREM', prefix .. ':t:' .. name, each)
    end
    redis.call('ZREM', KEYS[1], name)
  end
  return found
end
if what == 'put' then
  return {is_known}
end
local found, sum, limit = {}, 0, tonumber(ARGV[5])
if what == 'exchange' then
  found[1] = is_known
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  local key = records_of(name, table)
  if what == 'count' then
    sum = sum + redis.call('HLEN', key)
  elseif what == 'records' then
    local left, cursor, seen = limit - #found / 3, '0', {}
    if left <= 0 then
      return found
    end
    repeat
      local page = redis.call('HSCAN', key, cursor, 'COUNT', left)
      cursor = page[1]
      for number = 1, #page[2], 2 do
        local field = page[2][number]
        if not seen[field] then
          seen[field] = true
          found[#found + 1] = name
          found[#found + 1] = field
          found[#found + 1] = page[2][number + 1]
        end
      end
    until cursor == '0' or #found / 3 >= limit
  else
    local value = redis.call('HGET', key, what == 'get' and ARGV[5] or ARGV[7])
    if value then
      found[#found + 1] = value
    end
  end
end
return what == 'count' and sum or found
"""
"""Everything about records. KEYS: processes. ARGV: what; the prefix; the process; the table; and

=============  ====================================================================================================
sign           milliseconds. Says that the process is living. Its result is 0 where the server does not know of it:
               it is new, or was buried
put, exchange  milliseconds for which it is living, and for which its records stay without another put; of each: field,
               "1" to set and "0" to remove it, value. The first result is that of sign; with exchange the values
               of the first field follow it
get            field
records        how many at most: some more may be returned
count
bury           how many at most: one table more may be returned
=============  ====================================================================================================
"""


class _Job:
    """What is asked for in one call.

    Args:
        commands: Makes the commands for a link; its second argument is True where they were sent before.
        repeatable: Whether they may be sent again to the same process of the server: None for "to any process".
        timeout: Seconds after which the call fails.

    """

    __slots__ = ("caller", "commands", "deadline", "error", "is_repeated", "repeatable", "replies")

    def __init__(
        self,
        commands: Callable[[Link, bool], list[Command]],
        repeatable: bool | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.commands, self.repeatable = commands, repeatable
        self.deadline = time.monotonic() + timeout
        self.replies: list[Any] = []
        self.is_repeated = False
        """Whether it was sent more than once."""
        self.error: GroupsError | None = None
        self.caller: Any = None
        """gevent's ``Waiter`` of the greenlet that waits for it, where it is one, and as long as it waits."""


class _Pipe:
    """A connection for the calls of one thread. What is asked for at the same time is sent together."""

    def __init__(self, server: Server, outages: Outages) -> None:
        self._server, self._outages = server, outages
        self._link: Link | None = None
        self._waiting: deque[_Job] = deque()
        """What is to be sent."""
        self._sent: list[_Job] = []
        """What is being sent, or waits for its replies."""
        self._timer: Any = None
        """gevent's timer of the next deadline. It is one for all callers: a timer for each would cost as much as the
        message.
        """
        self._timer_at = math.inf
        self._is_running = self._is_over = False

    def call(self, job: _Job) -> None:
        """Have it done by a greenlet, and wait for that."""
        from gevent.hub import Waiter

        job.caller = caller = cast("Any", Waiter)()
        self._waiting.append(job)
        if not self._is_running:
            import gevent

            self._is_running = True
            gevent.spawn(self._run)
        if job.deadline < self._timer_at:
            self._set_timer(job.deadline)
        try:
            caller.get()
        except BaseException:  # this greenlet is killed, or its time is over: what was not sent need not be
            job.caller = None
            if job in self._waiting:
                self._waiting.remove(job)
            raise

    def _run(self) -> None:
        """Runs in a greenlet of its own while something waits."""
        try:
            while self._waiting:
                self._sent, self._waiting = list(self._waiting), deque()
                self.exchange(self._sent, time.monotonic() + TIMEOUT)
                for job in self._sent:
                    self._wake(job)
                self._sent = []
        finally:
            self._is_running = False
            self._set_timer(math.inf)
            left, self._sent, self._waiting = [*self._sent, *self._waiting], [], deque()
            for job in left:  # none is left without an answer where this greenlet was killed
                if job.caller is not None:
                    job.error = job.error or UnknownOutcome("the greenlet that sends was killed")
                    self._wake(job)

    @staticmethod
    def _wake(job: _Job) -> None:
        """Have its caller go on, by the loop."""
        caller, job.caller = job.caller, None
        if caller is not None:
            caller.hub.loop.run_callback(caller.switch, None)

    def _set_timer(self, deadline: float) -> None:
        """Have ``_fail_late`` called at a ``time.monotonic()``; at infinity never."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._timer_at = deadline
        if deadline < math.inf:
            from gevent import get_hub

            self._timer = get_hub().loop.timer(max(0.0, deadline - time.monotonic()))
            self._timer.start(self._fail_late)

    def _fail_late(self) -> None:
        """A callback of the loop: what was not done before its deadline has failed."""
        now, reason = time.monotonic(), f"{self._server}: the server has not answered in time"
        if self._link is not None and self._link.has_data():
            # What has come is read first: this process may have been stopped, and the server has answered in time.
            self._set_timer(now + 0.01)
            return
        late = [job for job in self._waiting if job.deadline <= now]
        for job in late:  # the connection is used by others, which wait for the server
            self._waiting.remove(job)
            job.error = GroupsUnavailable(reason)
        sent = [job for job in self._sent if job.deadline <= now and job.caller is not None]
        self._fail(sent, reason)  # their replies are read, and dropped, when they come
        for job in (*late, *sent):
            self._wake(job)
        self._set_timer(min((job.deadline for job in (*self._waiting, *self._sent) if job.caller), default=math.inf))

    def exchange(self, jobs: list[_Job], deadline: float) -> None:
        """Send what these ask for, and read the replies, before a ``time.monotonic()``."""
        left = self._try(jobs, deadline, None)
        if left:
            # Those of which the replies are missing, to the same process of the server.
            self._try(left, deadline, self._server.run_id)

    def _try(self, jobs: list[_Job], deadline: float, sent_to: str | None) -> list[_Job]:
        """Send, and read. Those that are to be sent again."""
        left, done = jobs, 0
        try:
            link = self._connected(deadline)
            if sent_to is not None:
                left = [job for job in jobs if job.repeatable is None or link.run_id == sent_to]
                self._fail([job for job in jobs if job not in left], "the server is another process now")
                for job in left:
                    job.is_repeated = True
            commands = [job.commands(link, sent_to is not None) for job in left]
        except LinkError as error:
            self.close()
            self._outages.report("publish", error)
            for job in jobs:
                if sent_to is None or job.repeatable is None:
                    job.error = GroupsUnavailable(str(error))
                else:
                    job.error = UnknownOutcome(f"the connection has ended, and there is no other one: {error}")
            return []
        try:
            link.send([command for each in commands for command in each])
            for job, asked in zip(left, commands, strict=True):
                job.replies = [link.read(deadline) for _ in asked]
                done += 1
        except LinkError as error:
            left = left[done:]
            self.close()
            self._outages.report("publish", error)
            if sent_to is not None or time.monotonic() >= deadline:
                self._fail(left, str(error))
                return []
            self._fail([job for job in left if job.repeatable is False], str(error))
            return [job for job in left if job.repeatable is not False]
        except BaseException:
            self.close()  # replies are missing: the next ones would be taken for them
            raise
        self._outages.report("publish", None)
        return []

    @staticmethod
    def _fail(jobs: list[_Job], reason: str) -> None:
        for job in jobs:
            if job.repeatable is None:
                job.error = GroupsUnavailable(reason)
            else:
                job.error = UnknownOutcome(f"the message was published or not: {reason}")

    def _connected(self, deadline: float) -> Link:
        link = self._link
        if self._is_over:
            raise LinkError(f"{self._server}: groups were released")
        if link is None or link.run_id != self._server.run_id:
            self.close()
            link = self._link = self._server.connect(deadline - time.monotonic())
            link.send([("SCRIPT", "LOAD", script) for script in _SCRIPTS])
            for _ in _SCRIPTS:
                reply = link.read(deadline)
                if isinstance(reply, RefusedError):
                    self.close()
                    raise LinkError(f"{self._server}: SCRIPT LOAD: {reply}")
        return link

    def end(self) -> None:
        """Close the connection. What waits for its turn here fails."""
        self._is_over = True
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        link, self._link = self._link, None
        if link is not None:
            link.close()


_UnderWay: TypeAlias = dict[object, tuple[str, Mapping[str, bytes | None]]]
"""Table and values of each call that is under way."""


class RedisBackend:
    """The backend of several hosts.

    Args:
        url: See ``redislink.Server``.
        prefix: What all keys and channels begin with: sites with different ones share a server. 1 to 50 letters,
            digits, ``_`` and ``-``.

    Raises:
        ValueError: The URL or the prefix is wrong.
        ImportError: redis-py or hiredis is not installed.

    """

    def __init__(self, url: str, *, prefix: str = "gws") -> None:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,50}", prefix) is None:
            raise ValueError(f"the prefix is {prefix!r}: wanted are 1 to 50 letters, digits, _ and -")
        self.server = Server(url)
        self.outages = Outages()
        self._prefix = prefix
        self._hosts_name = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname()[:40])
        self.feeds: set[RedisFeed] = set()
        self.server.on_change = self._ring
        self._begin()
        _backends.add(self)

    def _begin(self) -> None:
        """Have nothing open."""
        self._pipes: Any = waiting.new_local()
        self._idle: deque[_Pipe] = deque()
        self._process = f"{self._hosts_name}-{os.getpid()}-{secrets.token_hex(4)}"
        self._records: dict[str, dict[str, bytes]] = {}
        """By table and field."""
        self._is_signing = False
        self._signer_ends: Any = None
        """The event that ends the signer, where there is one."""
        self._was_buried = False
        """The server does not have all of the records: another process has buried them, or it was emptied."""
        self._repeated = "", -math.inf
        """The process of the server that has all of them, and since when."""
        self._writes: _UnderWay = {}
        """What is being written now."""
        self._repeats: _UnderWay = {}
        """What is being put again now."""
        self._unsure: set[tuple[str, str]] = set()
        """Tables and fields for which both were under way at the same time."""
        self._token, self._count = secrets.token_hex(6), itertools.count(1)

    def _ring(self) -> None:
        for feed in list(self.feeds):
            feed.ring()

    # --- calls -------------------------------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Publish], timeout: float = TIMEOUT) -> list[Position | None]:
        """See ``Backend``."""
        if not batch:
            return []
        if len(batch) == 1 and batch[0].history is None:
            command: Command = ("PUBLISH", self.key("c", batch[0].group), b"l" + batch[0].payload)
            self._call(_Job(lambda link, again: [command], repeatable=False, timeout=timeout), "PUBLISH")
            return [None]
        keys: list[str] = []
        fields: list[str | bytes | int] = []
        for group, payload, history in batch:
            keys += [self.key("m", group), self.key("s", group), self.key("c", group)]
            size, age = (0, 0) if history is None else (history.size, max(1, round(history.age * 1000)))
            fields += [size, age, self._new_name(), payload]
        fresh = self._new_name()

        def commands(link: Link, again: bool) -> list[Command]:
            head: Command = ("EVALSHA", _SHA[_PUBLISH], len(keys), *keys, link.run_id, fresh, int(again))
            return [(*head, *fields, AFTERWARDS * 1000)]

        is_kept = all(each.history for each in batch)
        [found] = self._call(_Job(commands, repeatable=is_kept, timeout=timeout), "publish")
        return [None if each is None else Position(each[0].decode(), int(each[1])) for each in found]

    def read(self, wants: Sequence[Want]) -> list[Page]:
        """See ``Backend``."""
        if not wants:
            return []

        def commands(link: Link, again: bool) -> list[Command]:
            return [self._read_command(want, link.run_id) for want in wants]

        return [_page(want, reply) for want, reply in zip(wants, self._call(_Job(commands), "read"), strict=True)]

    def _read_command(self, want: Want, run_id: str) -> Command:
        group, history, after, limit = want
        age = max(1, round(history.age * 1000))
        keys = 2, self.key("m", group), self.key("s", group)
        given = -1 if after is None else min(after, 2**53), min(limit, history.size), history.size
        return ("EVALSHA", _SHA[_READ], *keys, run_id, self._new_name(), *given, age, AFTERWARDS * 1000)

    def feed(self, until: float = math.inf) -> RedisFeed:
        """See ``Backend``."""
        return RedisFeed(self, until)

    def put(self, table: str, values: Mapping[str, bytes | None], timeout: float = TIMEOUT) -> None:
        """See ``Backend``."""
        if values:
            self._write("put", table, values, timeout)

    def _write(
        self, what: str, table: str, values: Mapping[str, bytes | None], timeout: float = TIMEOUT
    ) -> list[bytes]:
        """Write records of this process. What ``exchange`` has found."""
        had_records = bool(self._records)
        with self._under_way(self._writes, self._repeats, table, values):
            answer: list[Any] = self._ask(what, table, *self._changes(values), timeout=timeout)
            is_known, *found = answer
            if not had_records:  # before the first one is kept: this process of the server has all of them
                self._repeated = self.server.run_id, time.monotonic()
            for field, value in values.items():
                self._keep(table, field, value)
        if had_records and not is_known:  # the server has lost the others
            self._was_buried = True
            self.sign()
        elif not self._unsure.isdisjoint((table, field) for field in values):
            self.sign()
        self._start_signer()
        return found

    @contextmanager
    def _under_way(
        self, own: _UnderWay, others: _UnderWay, table: str, values: Mapping[str, bytes | None]
    ) -> Iterator[None]:
        """While values are written, or put again: what of them is also sent by the other way is not sure."""
        token = object()
        own[token] = table, values
        for of_table, fields in list(others.values()):
            if of_table == table:
                self._unsure.update((table, field) for field in fields if field in values)
        try:
            yield
        finally:
            del own[token]

    @staticmethod
    def _changes(values: Mapping[str, bytes | None]) -> list[str | bytes | int]:
        flat: list[str | bytes | int] = [_LIVING, _STAYING]
        for field, value in values.items():
            flat += [field, 0 if value is None else 1, b"" if value is None else value]
        return flat

    def _keep(self, table: str, field: str, value: bytes | None) -> None:
        fields = self._records.setdefault(table, {})
        if value is None:
            fields.pop(field, None)
        else:
            fields[field] = value
        if not fields:
            del self._records[table]

    def get(self, table: str, field: str, timeout: float = TIMEOUT) -> list[bytes]:
        """See ``Backend``."""
        found: list[bytes] = self._ask("get", table, field, timeout=timeout)
        return found

    def exchange(self, table: str, field: str, value: bytes | None) -> list[bytes]:
        """See ``Backend``."""
        return self._write("exchange", table, {field: value})

    def records(self, table: str, limit: int, timeout: float = TIMEOUT) -> list[Record]:
        """See ``Backend``."""
        flat = self._ask("records", table, limit, timeout=timeout)
        parts = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return [Record(name.decode(), table, field.decode(), value) for name, field, value in parts][:limit]

    def count(self, table: str) -> int:
        """See ``Backend``."""
        return int(self._ask("count", table))

    def bury(self) -> list[Record]:
        """See ``Backend``."""
        flat = self._ask("bury", "", BURIED)
        parts = zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        return [Record(name.decode(), table.decode(), field.decode(), value) for name, table, field, value in parts]

    def _ask(self, what: str, table: str, *arguments: str | bytes | int, timeout: float = TIMEOUT) -> Any:
        """Run the script of records."""
        [found] = self._call(_Job(lambda link, again: [self._command(what, table, *arguments)], timeout=timeout), what)
        return found

    def _command(self, what: str, table: str, *arguments: str | bytes | int) -> Command:
        key = f"{self._prefix}:p"
        return ("EVALSHA", _SHA[_RECORDS], 1, key, what, self._prefix, self._process, table, *arguments)

    def sign(self) -> None:
        """Say that this process is living. Its records are put again where the server has lost them, and once an hour.
        Never waits where the caller is a greenlet.
        """
        if self._records or self._unsure:
            if waiting.can_switch():
                if not self._is_signing:
                    import gevent

                    self._is_signing = True
                    gevent.spawn(self._sign)
            else:
                self._sign()

    def _start_signer(self) -> None:
        """A feed signs every few seconds. A process without one has a greenlet for that, where greenlets can run."""
        if self._records and self._signer_ends is None and waiting.can_switch():
            import gevent
            from gevent.event import Event

            self._signer_ends = Event()
            gevent.spawn(self._run_signer, self._signer_ends)

    def _run_signer(self, ends: Any) -> None:
        """Runs in a greenlet of its own while this process has records. In a forked child it ends."""
        try:
            while (self._records or self._unsure) and not ends.wait(PING) and self._signer_ends is ends:
                if not self.feeds:
                    self.sign()
        finally:
            if self._signer_ends is ends:
                self._signer_ends = None

    def _sign(self) -> None:
        self._is_signing = True
        try:
            if not self._ask("sign", "", _LIVING):
                self._was_buried = True
            run_id, now = self.server.run_id, time.monotonic()
            every = REPEAT_WHERE_EVICTED if self.server.evicts else REPEAT
            if self._was_buried or run_id != self._repeated[0] or now >= self._repeated[1] + every:
                self._repeat(run_id, now)
            while self._repeat_unsure():
                pass
        except GroupsError:
            pass  # it was logged, and is done again
        finally:
            self._is_signing = False

    def _repeat(self, run_id: str, now: float) -> None:
        """Put all records again."""
        for table in list(self._records):
            fields = list(self._records.get(table, ()))
            for number in range(0, len(fields), BATCH):
                self._put_again(table, fields[number : number + BATCH])
        self._repeat_unsure()
        if self._was_buried and self._repeated[0] == run_id:
            for feed in list(self.feeds):
                feed.report(Buried(f"this process gave no sign for {LIVING:g} s, or the server was emptied"))
        self._repeated, self._was_buried = (run_id, now), False

    def _repeat_unsure(self) -> bool:
        """Put those again that are not sure and of which nothing is under way. Whether there were any."""
        under_way = [*self._writes.values(), *self._repeats.values()]
        ready: dict[str, list[str]] = {}
        for table, field in list(self._unsure):
            if not any(of_table == table and field in values for of_table, values in under_way):
                ready.setdefault(table, []).append(field)
        for table, fields in ready.items():
            self._put_again(table, fields)
        return bool(ready)

    def _put_again(self, table: str, fields: Sequence[str]) -> None:
        """As they are now: set, or removed."""
        kept = self._records.get(table, {})
        values = {field: kept.get(field) for field in fields}
        self._unsure.difference_update((table, field) for field in fields)
        try:
            with self._under_way(self._repeats, self._writes, table, values):
                self._ask("put", table, *self._changes(values))
        except BaseException:
            self._unsure.update((table, field) for field in fields)
            raise

    def close(self) -> None:
        """See ``Backend``."""
        for feed in list(self.feeds):
            feed.close()
        had_records, self._records = bool(self._records), {}
        if had_records:
            try:  # another process buries them
                job = _Job(lambda link, again: [("ZADD", f"{self._prefix}:p", 0, self._process)])
                self._call(job, "close")
            except GroupsError:
                pass  # it counts as living a little longer
        if self._signer_ends is not None:
            self._signer_ends.set()
        pipe = getattr(self._pipes, "pipe", None)
        for each in (*self._idle, *([] if pipe is None else [pipe])):
            each.end()
        self._begin()

    # --- how ---------------------------------------------------------------------------------------------------------

    def key(self, kind: str, group: str) -> str:
        """A key, or a channel, of a group."""
        return f"{self._prefix}:{{{crc32(group.encode()) % 64}}}:{kind}:{group}"

    def group_of(self, channel: bytes) -> str:
        """The group of a channel."""
        return channel.decode()[len(self._prefix) + 2 :].partition(":c:")[2]

    def _new_name(self) -> str:
        """A name that no other process gives to anything."""
        return f"{self._token}{next(self._count):x}"

    def _call(self, job: _Job, what: str) -> list[Any]:
        """Have something done, and wait for it.

        Raises:
            GroupsUnavailable, UnknownOutcome: See ``Backend``.

        """
        for attempt in range(2):
            self._exchange(job)
            if job.error is not None:
                raise job.error
            refused = None
            for reply in job.replies:
                if type(reply) is RefusedError:
                    refused = reply
            if refused is None:
                return job.replies
            if job.is_repeated and job.repeatable is not None:
                raise UnknownOutcome(f"the message was published or not: {self.server}: {what}: {refused}")
            if attempt or not str(refused).startswith("NOSCRIPT "):
                raise GroupsUnavailable(f"{self.server}: {what}: {refused}")
            # The server's scripts were removed, so nothing was done.
            left = job.deadline - time.monotonic()
            load = _Job(lambda link, again: [("SCRIPT", "LOAD", script) for script in _SCRIPTS], timeout=left)
            self._exchange(load)
        raise AssertionError("the loop has returned or raised")

    def _exchange(self, job: _Job) -> None:
        if waiting.can_switch():
            self._pipe().call(job)
            return
        if waiting.in_hub():
            raise GroupsUnavailable("groups cannot wait for Redis in a callback of the event loop: use gevent.spawn()")
        # A thread of the operating system has a connection for the time of its call.
        try:
            pipe = self._idle.pop()
        except IndexError:
            pipe = _Pipe(self.server, self.outages)
        try:
            pipe.exchange([job], job.deadline)
        finally:
            if len(self._idle) < IDLE:
                self._idle.append(pipe)
            else:
                pipe.close()

    def _pipe(self) -> _Pipe:
        """That of this thread, whose greenlets share it."""
        pipe: _Pipe | None = getattr(self._pipes, "pipe", None)
        if pipe is None:
            pipe = self._pipes.pipe = _Pipe(self.server, self.outages)
        return pipe

    def forked(self) -> None:
        """This process has just been forked: connections and records are its parent's."""
        for feed in list(self.feeds):
            feed.abandon()
        self._begin()


def _page(want: Want, reply: Any) -> Page:
    epoch, top, flat = reply[0].decode(), int(reply[1]), reply[2]
    entries = [
        Entry(want.group, epoch, int(offset), payload) for offset, payload in zip(flat[::2], flat[1::2], strict=True)
    ]
    return Page(epoch, top, entries)


class RedisFeed:
    """The channels of the groups that are subscribed to; see ``base.Feed``."""

    def __init__(self, backend: RedisBackend, until: float) -> None:
        self._backend, self._until = backend, until
        self._groups: set[str] = set()
        self._names: dict[bytes, str] = {}
        """The same by their channels."""
        self._link: Link | None = None
        self._changes: deque[tuple[str, str]] = deque()
        """SUBSCRIBE or UNSUBSCRIBE, and the group, not sent yet."""
        self._unconfirmed: Counter[str] = Counter()
        """Groups, and how many confirmations of SUBSCRIBE are to come on this connection."""
        self._lost = ""
        """Why entries may be missing, until all groups are subscribed to again."""
        self._held: list[Event] = []
        """What has come meanwhile."""
        self._reported: deque[Event] = deque()
        """What has not come by the connection."""
        self._ping_at = self._pong_by = 0.0
        self._sign_at = time.monotonic() + PING * random.random()
        self._woken = self._waiting = self._closed = False
        self._bell = _socket.socketpair()
        for end in self._bell:
            end.setblocking(False)
        try:
            self._connect()
        except LinkError as error:
            backend.outages.report("subscribe", error)
            self._release()
            raise GroupsUnavailable(str(error)) from None
        backend.feeds.add(self)

    def subscribe(self, groups: Iterable[str]) -> bool:
        """See ``Feed``."""
        wanted = set(groups)
        for group in wanted - self._groups:
            self._groups.add(group)
            self._names[self._backend.key("c", group).encode()] = group
            self._changes.append(("SUBSCRIBE", group))
            self._unconfirmed[group] += 1
        self.ring()
        return not (wanted & self._unconfirmed.keys())

    def unsubscribe(self, groups: Iterable[str]) -> None:
        """See ``Feed``."""
        for group in groups:
            if group in self._groups:
                self._groups.remove(group)
                del self._names[self._backend.key("c", group).encode()]
                self._changes.append(("UNSUBSCRIBE", group))
        self.ring()

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """See ``Feed``."""
        deadline = time.monotonic() + (timeout if timeout is not None else 1e9)
        self._waiting = True
        try:
            while not self._closed:
                self._silence()
                events, again_at = self._step()
                while self._reported:
                    events.append(self._reported.popleft())
                woken, self._woken = self._woken, False
                if events or woken:
                    return events
                left = min(again_at, deadline) - time.monotonic()
                if left <= 0:
                    if time.monotonic() >= deadline:
                        return []
                    waiting.pause(0)
                    continue
                descriptors = [self._bell[0].fileno()]
                if self._link is not None:
                    descriptors.append(self._link.fileno())
                waiting.wait_readable(descriptors, left)
        finally:
            self._waiting = False
            if self._closed:
                self._release()
        return []

    def wake(self) -> None:
        """See ``Feed``."""
        self._woken = True
        self.ring()

    def close(self) -> None:
        """See ``Feed``."""
        if not self._closed:
            self._closed = True
            self._backend.feeds.discard(self)
            if self._waiting:  # wait() uses the sockets, and releases them when it returns
                self.ring()
            else:
                self._release()

    def abandon(self) -> None:
        """Close what a forked child has of its parent's feed."""
        self._closed = True
        self._release()

    def ring(self) -> None:
        """Let ``wait()`` look what there is to do. May be called in any thread."""
        try:
            self._bell[1].send(b"\0")
        except OSError:
            pass  # it has bytes to read, or was closed

    def report(self, event: Event) -> None:
        """Let ``wait()`` return this event. May be called in any thread."""
        self._reported.append(event)
        self.ring()

    # --- the connection ----------------------------------------------------------------------------------------------

    def _step(self) -> tuple[list[Event], float]:
        """Do what is to be done. Events, and when to do it again without any."""
        now = time.monotonic()
        if now >= self._sign_at:
            self._sign_at = now + PING
            self._backend.sign()
        try:
            if self._link is not None and self._link.run_id != self._backend.server.run_id:
                raise LinkError("the server is another process now")
            link = self._link or self._connect()
            self._send_changes(link)
            events = self._read(link)
            if now >= self._ping_at:
                if self._pong_by:
                    raise LinkError(f"no answer to PING within {PING:g} s")
                link.send([("PING",)])
                self._ping_at, self._pong_by = now + PING, now + PING
        except LinkError as error:
            self._disconnect(str(error))
            return [], time.monotonic() + max(self._backend.server.retry_after, 0.01)
        return events, min(self._ping_at, self._sign_at)

    def _connect(self) -> Link:
        link = self._link = self._backend.server.connect(min(TIMEOUT, self._until - time.monotonic()))
        self._ping_at, self._pong_by = time.monotonic() + PING, 0.0
        # All of them anew: what was to be changed on the last connection has been, by that.
        self._changes = deque(("SUBSCRIBE", group) for group in self._groups)
        self._unconfirmed = Counter(self._groups)
        self._backend.outages.report("subscribe", None)
        return link

    def _disconnect(self, reason: str) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
            self._lost = reason
            self._held.clear()
            self._unconfirmed = Counter(self._groups)
        self._backend.outages.report("subscribe", LinkError(reason))

    def _send_changes(self, link: Link) -> None:
        commands: list[Command] = []
        while self._changes and len(commands) < 20:
            verb = self._changes[0][0]
            channels: list[str] = []
            while self._changes and self._changes[0][0] == verb and len(channels) < BATCH:
                channels.append(self._backend.key("c", self._changes.popleft()[1]))
            commands.append((verb, *channels))
        if commands:
            link.send(commands)

    def _read(self, link: Link) -> list[Event]:
        """What has come."""
        events: list[Event] = []
        confirmed: list[str] = []
        replies = link.received(SLICE)
        if len(replies) >= SLICE:
            self._woken = True  # what is left need not make the socket readable
        for reply in replies:
            if isinstance(reply, RefusedError):
                raise LinkError(str(reply))
            kind = reply[0] if isinstance(reply, list) else reply
            if kind == b"message":
                entry = self._entry(reply[1], reply[2])
                if entry is not None:
                    if confirmed:
                        events.append(Confirmed(frozenset(confirmed)))
                        confirmed = []
                    events.append(entry)
            elif kind == b"subscribe":
                group = self._backend.group_of(reply[1])
                self._unconfirmed[group] -= 1
                if not self._unconfirmed[group]:
                    del self._unconfirmed[group]
                    if group in self._groups:
                        confirmed.append(group)
            elif kind in (b"pong", b"PONG"):
                self._pong_by = 0.0
        if confirmed:
            events.append(Confirmed(frozenset(confirmed)))
        if not self._lost:
            return events
        self._held += events
        if self._unconfirmed or self._changes:
            return []
        lost, self._lost = Lost(self._lost), ""
        held, self._held = self._held, []
        return [lost, *held]

    def _entry(self, channel: bytes, data: bytes) -> Entry | None:
        group = self._names.get(channel)
        if group is None:
            return None
        if data[:1] == b"h":
            epoch, offset, payload = data[1:].split(b".", 2)
            return Entry(group, epoch.decode(), int(offset), payload)
        return Entry(group, "", 0, data[1:])

    def _silence(self) -> None:
        """Take the bytes out of the bell."""
        try:
            while len(self._bell[0].recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _release(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        for end in self._bell:
            end.close()


_SCRIPTS = (_PUBLISH, _READ, _RECORDS)
_SHA = {script: sha1(script.encode()).hexdigest() for script in _SCRIPTS}

_backends: WeakSet[RedisBackend] = WeakSet()


def _forked() -> None:
    """In a process that has just been forked."""
    for backend in list(_backends):
        backend.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
