"""The opening handshake: RFC 6455 4 on both sides, RFC 6454 for origins, RFC 9110 7.8 for Upgrade."""

# ruff: noqa: N801 - the classes carry the numbers of the sections

from __future__ import annotations

import base64
import os
import re

import pytest

from gws_middleware.protocol.deflate import Parameters
from gws_middleware.protocol.handshake import (
    MAX_FIELD,
    Handshake,
    Refusal,
    Request,
    accept_headers,
    accept_key,
    check_response,
    judge,
    origin_allowed,
    upgrade_dropped,
    wants_websocket,
)
from gws_middleware.protocol.headers import MAX_ITEMS, check_field

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455 1.3."""
SAME_ORIGIN = ("same-origin",)
VERSION = ("Sec-WebSocket-Version", "13")

GOOD = Request(
    method="GET",
    protocol="HTTP/1.1",
    host="server.example.com",
    upgrade="websocket",
    connection="Upgrade",
    key=KEY,
    version="13",
    subprotocols=None,
    extensions=None,
    origin=None,
    content_length=None,
    transfer_encoding=None,
)

ANSWER = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": ACCEPT}

NO_BODY = "A WebSocket request has no body."
NO_CONNECTION = (
    "The Connection header does not contain 'Upgrade'. A proxy in front of this server has to pass "
    "the Connection and Upgrade headers on."
)
NO_HOST = "A WebSocket request has exactly one Host header."
NO_KEY = "Sec-WebSocket-Key is not 16 bytes in base64."
NO_TOKENS = "Sec-WebSocket-Protocol is not a list of tokens."
NO_HTTP_1_1 = (
    "A WebSocket is opened over HTTP/1.1, not {}. A proxy in front of this server has to speak HTTP/1.1 to it."
)
DROPPED = (
    "The request has a Sec-WebSocket-Key, but no Upgrade header. A proxy in front of this server has to speak HTTP/1.1 "
    "to it, and to pass the Upgrade and Connection headers on."
)
NOT_LISTED = "Pages of Origin {!r} may not open a WebSocket at Host {!r}: allowed_origins does not list that origin."
TWO_NAMES = " localhost, 127.0.0.1 and [::1] are different origins: use one name for the page and for the WebSocket."
NO_UPGRADE = "The Upgrade header of a WebSocket request is 'websocket' alone."
NOT_A_NUMBER = "Sec-WebSocket-Version is not a number."


def judged(**changes: str | None) -> Handshake | Refusal:
    """What becomes of the good request with some values changed."""
    return judge(GOOD._replace(**changes), SAME_ORIGIN)


class TestSection4_2_1:
    """What a server asks of a request, rule by rule."""

    def test_good_request(self) -> None:
        """A request that breaks no rule may be accepted."""
        assert judged() == Handshake(KEY)

    def test_example_of_1_2(self) -> None:
        """The RFC's own example passes."""
        answer = judge(
            GOOD._replace(origin="http://example.com", subprotocols="chat, superchat"), ["http://example.com"]
        )
        assert answer == Handshake(KEY, ("chat", "superchat"))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("upgrade", "WebSocket"),
            ("upgrade", " WEBSOCKET "),
            ("upgrade", "websocket,"),
            ("connection", "keep-alive, Upgrade"),
            ("connection", "upgrade"),
            ("connection", "UPGRADE , close"),
            ("content_length", ""),
            ("content_length", "0"),
            ("key", "AQIDBAUGBwgJCgsMDQ4PEC=="),
            ("key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("key", "//////////////////////=="),
            ("host", "[::1]:8000"),
            ("subprotocols", ""),
            ("subprotocols", ", ,"),
            ("extensions", ""),
            ("extensions", " ,"),
            ("key", f"\t {KEY} \t"),
            ("version", " 13 "),
            ("origin", "https://server.example.com "),
            ("content_length", "0 "),
        ],
    )
    def test_value_accepted(self, field: str, value: str) -> None:
        """Names compare without case, lists by their items (Firefox sends "keep-alive, Upgrade")."""
        assert isinstance(judged(**{field: value}), Handshake)

    @pytest.mark.parametrize(
        ("field", "value", "sentence"),
        [
            ("protocol", "HTTP/1.0", NO_HTTP_1_1.format("HTTP/1.0")),
            ("protocol", "HTTP/2", NO_HTTP_1_1.format("HTTP/2")),
            ("protocol", "HTTP/2.0", NO_HTTP_1_1.format("HTTP/2.0")),
            ("protocol", "", NO_HTTP_1_1.format("")),
            ("host", None, NO_HOST),
            ("host", "", NO_HOST),
            ("host", "a.example,b.example", NO_HOST),
            ("upgrade", None, DROPPED),
            ("upgrade", "", DROPPED),
            ("upgrade", " ,", DROPPED),
            ("upgrade", "websocket, h2c", NO_UPGRADE),
            ("upgrade", "websocket, websocket", NO_UPGRADE),
            ("upgrade", "websocket/13", NO_UPGRADE),
            ("upgrade", "websockets", NO_UPGRADE),
            ("upgrade", "websocket\xa0", NO_UPGRADE),
            ("connection", None, NO_CONNECTION),
            ("connection", "", NO_CONNECTION),
            ("connection", "keep-alive", NO_CONNECTION),
            ("connection", "upgrades", NO_CONNECTION),
            ("connection", "keep-alive Upgrade", NO_CONNECTION),
            ("content_length", "1", NO_BODY),
            ("content_length", "-1", NO_BODY),
            ("content_length", "0, 0", NO_BODY),
            ("transfer_encoding", "chunked", NO_BODY),
            ("transfer_encoding", "", NO_BODY),
            ("version", "", NOT_A_NUMBER),
            ("version", "13, 13", NOT_A_NUMBER),
            ("version", "13,8", NOT_A_NUMBER),
            ("version", "-13", NOT_A_NUMBER),
            ("version", "1\xb3", NOT_A_NUMBER),
            ("version", "thirteen", NOT_A_NUMBER),
            ("key", None, NO_KEY),
            ("key", "", NO_KEY),
            ("key", base64.b64encode(bytes(15)).decode(), NO_KEY),
            ("key", base64.b64encode(bytes(17)).decode(), NO_KEY),
            ("key", KEY[:-1], NO_KEY),
            ("key", KEY[:-2], NO_KEY),
            ("key", KEY + "=", NO_KEY),
            ("key", KEY + "\n", NO_KEY),
            ("key", f"{KEY}, {KEY}", NO_KEY),
            ("key", f"{KEY},{KEY}", NO_KEY),
            ("key", KEY[:5] + "-" + KEY[6:], NO_KEY),
            ("key", KEY[:5] + "é" + KEY[6:], NO_KEY),
            ("key", "A" * 1000, NO_KEY),
            ("subprotocols", "a b", NO_TOKENS),
            ("subprotocols", "grün", NO_TOKENS),
            ("subprotocols", "chat, chat", "Sec-WebSocket-Protocol offers a subprotocol twice."),
            ("subprotocols", "a," * 2000, f"Sec-WebSocket-Protocol offers more than {MAX_ITEMS} subprotocols."),
            ("extensions", "a\xff", "Sec-WebSocket-Extensions is malformed at character 1."),
            (
                "extensions",
                "a; b=" + '"' * 2000,
                "Sec-WebSocket-Extensions has a quoted parameter that is not a token.",
            ),
            ("extensions", "a, " * 2000, f"Sec-WebSocket-Extensions offers more than {MAX_ITEMS} extensions."),
            (
                "extensions",
                "a" + "; b" * 2000,
                f"Sec-WebSocket-Extensions has an offer with more than {MAX_ITEMS} parameters.",
            ),
        ],
    )
    def test_value_refused(self, field: str, value: str | None, sentence: str) -> None:
        """Each broken rule is answered with 400, the version that is spoken here and a sentence (4.2.1, 4.4)."""
        answer = judged(**{field: value})
        assert answer[:3] == ("400 Bad Request", (VERSION,), sentence)

    @pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1", "HTTP/2"])
    @pytest.mark.parametrize("upgrade", [None, ""])
    def test_upgrade_that_a_proxy_dropped(self, protocol: str, upgrade: str | None) -> None:
        """The key is there and the upgrade is not: the sentence says so, whatever HTTP version the proxy speaks."""
        answer = judged(protocol=protocol, upgrade=upgrade, connection="close")
        assert answer == Refusal("400 Bad Request", (VERSION,), DROPPED, about_setup=True)

    @pytest.mark.parametrize(
        ("changes", "about_setup"),
        [
            ({"upgrade": None}, True),
            ({"connection": None}, True),
            ({"protocol": "HTTP/1.0"}, True),
            ({"origin": "null"}, True),
            ({"host": None}, False),
            ({"method": "POST"}, False),
            ({"upgrade": "h2c"}, False),
            ({"version": "8"}, False),
            ({"key": "x"}, False),
            ({"extensions": ";"}, False),
        ],
    )
    def test_refusal_that_a_setting_can_cure(self, changes: dict[str, str | None], about_setup: bool) -> None:
        """A refusal that a wrong setting, of ours or of a proxy, may have caused is marked as such."""
        answer = judged(**changes)
        assert isinstance(answer, Refusal) and answer.about_setup is about_setup

    @pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "get", "CONNECT", ""])
    def test_method_refused(self, method: str) -> None:
        """Any method but GET is answered with 405 and the one that is allowed (RFC 9110 15.5.6)."""
        assert judged(method=method) == Refusal(
            "405 Method Not Allowed", (("Allow", "GET"), VERSION), "A WebSocket is opened with GET."
        )

    @pytest.mark.parametrize("version", [None, "0", "7", "8", "12", "14", "013", "130", "9" * 1000])
    def test_version_refused(self, version: str | None) -> None:
        """Another version is answered with 426 and the version that is spoken here (4.2.2, item 4)."""
        assert judged(version=version) == Refusal(
            "426 Upgrade Required",
            (("Upgrade", "websocket"), VERSION),
            "This server speaks WebSocket version 13.",
        )

    @pytest.mark.parametrize("field", Request._fields)
    def test_long_field_is_not_looked_into(self, field: str) -> None:
        """One character more than gunicorn's own limit of a line has room for: several lines of one name (attack 4)."""
        sentence = "A header of the handshake is longer than 8192 characters."
        assert judged(**{field: "a" * MAX_FIELD + "a"}) == Refusal("400 Bad Request", (VERSION,), sentence)

    @pytest.mark.parametrize("field", ["origin", "host"])
    def test_long_value_is_shortened_in_the_sentence(self, field: str) -> None:
        """What a peer chooses is escaped and cut, so that a line of the log stays a line."""
        answer = judged(**{"origin": "https://evil.example", field: "\n\xff" + "a" * 8000})
        assert isinstance(answer, Refusal)
        assert "'\\n\\xff" + "a" * 98 + "...'" in answer.sentence
        assert answer.sentence.isascii() and answer.sentence.isprintable()

    @pytest.mark.parametrize("value", ["a" * MAX_FIELD, "a" * (MAX_FIELD - 2) + " ,"])
    def test_field_of_the_greatest_length_is(self, value: str) -> None:
        """What fits into a line is judged by what it says."""
        answer = judged(subprotocols=value)
        assert isinstance(answer, Handshake)
        assert answer.subprotocols == (value.rstrip(" ,"),)

    def test_foreign_origin_refused(self) -> None:
        """A page of another origin is answered with 403 before anything is opened (10.2; attack 1)."""
        sentence = NOT_LISTED.format("https://evil.example", "server.example.com")
        assert judged(origin="https://evil.example") == Refusal("403 Forbidden", (), sentence, about_setup=True)

    @pytest.mark.parametrize(
        ("origin", "host", "confused"),
        [
            ("http://localhost:8000", "127.0.0.1:8000", True),
            ("http://127.0.0.1:8000", "localhost:8000", True),
            ("http://[::1]:8000", "LOCALHOST", True),
            ("http://localhost:3000", "localhost:8000", False),
            ("http://127.0.0.1:3000", "127.0.0.1:8000", False),
            ("http://localhost:8000", "server.example.com", False),
            ("http://server.example.com", "localhost:8000", False),
            ("null", "localhost:8000", False),
            ("http://localhost:8000", "@", False),
        ],
    )
    def test_two_names_of_this_machine(self, origin: str, host: str, confused: bool) -> None:
        """A page of localhost that connects to 127.0.0.1, or the reverse: the sentence says that they differ."""
        answer = judged(origin=origin, host=host)
        assert isinstance(answer, Refusal)
        assert answer.sentence == NOT_LISTED.format(origin, host) + (TWO_NAMES if confused else "")

    def test_absent_origin_passes(self) -> None:
        """What sends no Origin is no browser: it passes (10.2), whatever the list."""
        assert judge(GOOD, []) == Handshake(KEY)

    def test_first_broken_rule_makes_the_answer(self) -> None:
        """A request that breaks every rule is refused for the first; mending one after the other leads to the 101."""
        bad = GOOD._replace(
            protocol="HTTP/1.0",
            method="POST",
            host=None,
            upgrade="h2c",
            connection="close",
            transfer_encoding="chunked",
            version="8",
            key="x",
            origin="null",
            subprotocols="a,a",
            extensions=";",
        )
        statuses = []
        fields = ["protocol", "method", "host", "upgrade", "connection", "transfer_encoding", "version", "key"]
        for field in [*fields, "origin", "subprotocols", "extensions"]:
            answer = judge(bad, SAME_ORIGIN)
            assert isinstance(answer, Refusal)
            statuses.append(answer.status[:3])
            bad = bad._replace(**{field: getattr(GOOD, field)})
        assert statuses == ["400", "405", "400", "400", "400", "400", "426", "400", "403", "400", "400"]
        assert judge(bad, SAME_ORIGIN) == Handshake(KEY)

    @pytest.mark.parametrize("field", ["host", "upgrade", "connection", "key", "version", "subprotocols", "extensions"])
    def test_no_value_raises(self, field: str) -> None:
        """Every character of latin-1, alone, doubled and inside a good value, ends in an answer (attack 16)."""
        good = getattr(GOOD, field) or "a"
        values = [v for c in map(chr, range(256)) for v in (c, c + c, good + c, c + good, f"{good}, {c}")]
        answers = [judge(GOOD._replace(**{field: value}), SAME_ORIGIN) for value in values]
        assert {answer.status[:3] for answer in answers if isinstance(answer, Refusal)} <= {"400", "426"}

    def test_origin_never_raises(self) -> None:
        """Of all characters of latin-1 only the right one makes an Origin that passes."""
        values = [f"http{a}//server{b}example.com" for a in map(chr, range(256)) for b in (".", a)]
        passed = [value for value in values if isinstance(judged(origin=value), Handshake)]
        assert passed == ["http://server.example.com"]


class TestCompression:
    """The extension is negotiated with the handshake (RFC 7692 5)."""

    OFFER = "permessage-deflate; client_max_window_bits"

    @pytest.mark.parametrize(
        ("compression", "agreed"),
        [
            ("off", None),
            ("shared", Parameters(True, True)),
            ("dedicated", Parameters(False, False, 12, 12)),
        ],
    )
    def test_offer_is_judged(self, compression: str, agreed: Parameters | None) -> None:
        """The mode decides what a handshake agrees on."""
        answer = judge(GOOD._replace(extensions=self.OFFER), SAME_ORIGIN, compression)
        assert answer == Handshake(KEY, (), agreed)

    @pytest.mark.parametrize("extensions", [None, "foo", "permessage-deflate; foo", "x-webkit-deflate-frame"])
    def test_other_offers_leave_it_off(self, extensions: str | None) -> None:
        """An offer that cannot be served is no reason to refuse (RFC 6455 9.1)."""
        assert judge(GOOD._replace(extensions=extensions), SAME_ORIGIN, "shared") == Handshake(KEY)

    def test_broken_offer_is_refused_though_it_is_off(self) -> None:
        """A malformed header is refused whatever the mode (RFC 6455 9.1 MUST)."""
        assert isinstance(judge(GOOD._replace(extensions="a;;b"), SAME_ORIGIN, "off"), Refusal)


class TestSection10_2:
    """Origins."""

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://example.com", "example.com"),
            ("https://example.com", "example.com"),  # a proxy ended TLS
            ("http://example.com:80", "example.com"),
            ("http://example.com", "example.com:80"),
            ("https://example.com:443", "example.com"),
            ("https://example.com", "example.com:443"),
            ("http://example.com:8000", "example.com:8000"),
            ("HTTP://EXAMPLE.com", "example.COM"),
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://[::1]", "[::1]"),
            ("http://[::1]:80", "[::1]"),
            ("http://[2001:DB8::1]:8000", "[2001:db8::1]:8000"),
            ("http://[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"),
            ("http://localhost", "localhost"),
            ("http://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ],
    )
    def test_same_origin(self, origin: str, host: str) -> None:
        """A page of the request's own host and port passes; default ports may be named or not (RFC 6454 4)."""
        assert origin_allowed(origin, host, SAME_ORIGIN)

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://evil.example", "example.com"),
            ("http://example.com.evil.example", "example.com"),
            ("http://evilexample.com", "example.com"),
            ("http://sub.example.com", "example.com"),
            ("http://example.com", "sub.example.com"),
            ("http://example.com:8000", "example.com"),
            ("http://example.com", "example.com:8000"),
            ("http://example.com:443", "example.com"),
            ("https://example.com:80", "example.com"),
            ("http://[::1]", "[::2]"),
            ("http://[::1]:81", "[::1]"),
            ("http://[::1", "[::1"),
            ("null", "example.com"),
            ("null", "null"),
            ("", "example.com"),
            ("", ""),
            ("example.com", "example.com"),
            ("//example.com", "example.com"),
            ("http:example.com", "example.com"),
            ("http://", ""),
            ("http://example.com/", "example.com"),
            ("http://example.com/path", "example.com/path"),
            ("http://example.com?", "example.com?"),
            ("http://example.com#", "example.com#"),
            ("http://user@example.com", "example.com"),
            ("http://user@example.com", "user@example.com"),
            ("http://user:password@example.com", "example.com"),
            ("http://example.com@evil.example", "example.com"),
            ("http://example.com:", "example.com"),
            ("http://example.com:", "example.com:"),
            ("http://example.com:port", "example.com:port"),
            ("http://example.com:8000:8000", "example.com:8000"),
            ("http://example.com:123456", "example.com:123456"),
            ("http://example.com http://evil.example", "example.com"),
            ("http://example.com, http://evil.example", "example.com"),
            ("http://example.com\n", "example.com"),
            (" http://example.com", "example.com"),
            ("http://example.com\\", "example.com"),
            ("http://exam\x00ple.com", "exam\x00ple.com"),
            ("http://*", "*"),
            ("http://*.example.com", "*.example.com"),
            ("1http://example.com", "example.com"),
            ("http://example.com", ""),
            ("http://example.com", "example.com@evil.example"),
            ("http://evil.example", "example.com@evil.example"),
        ],
    )
    def test_not_same_origin(self, origin: str, host: str) -> None:
        """Other hosts, other ports, "null", userinfo and whatever is no serialized origin (RFC 6454 6.2) do not."""
        assert not origin_allowed(origin, host, SAME_ORIGIN)

    @pytest.mark.parametrize(
        ("origin", "entry"),
        [
            ("https://example.com", "https://example.com"),
            ("https://EXAMPLE.com", "https://example.com"),
            ("https://example.com", "https://EXAMPLE.com"),
            ("https://example.com:443", "https://example.com"),
            ("https://example.com", "https://example.com:443"),
            ("https://example.com:8443", "https://example.com:8443"),
            ("https://a.example.com", "https://*.example.com"),
            ("https://a.b.example.com", "https://*.example.com"),
            ("https://a.example.com:8443", "https://*.example.com:8443"),
            ("https://[2001:db8::1]", "https://[2001:DB8::1]"),
            ("app://localhost", "app://localhost"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("null", "null"),
            ("null", "*"),
            ("file://", "file://"),
            ("localhost:8025", "localhost:8025"),
            ("example.com", "example.com"),
            ("https://example.com/project", "https://example.com/project"),
            ("anything at all", "*"),
            ("", "*"),
        ],
    )
    def test_entry_allows(self, origin: str, entry: str) -> None:
        """An entry allows its own origin, its subdomains where it says so, null where it says so, "*" everything."""
        assert origin_allowed(origin, "server.example", [entry])

    @pytest.mark.parametrize(
        ("origin", "entry"),
        [
            ("http://example.com", "https://example.com"),
            ("https://example.com:8443", "https://example.com"),
            ("https://example.com", "https://example.com:8443"),
            ("https://a.example.com", "https://example.com"),
            ("https://example.com", "https://*.example.com"),
            ("https://aexample.com", "https://*.example.com"),
            ("http://example.com:8443", "https://example.com:8443"),
            ("http://example.com:443", "https://example.com"),
            ("http://a.example.com:443", "https://*.example.com"),
            ("http://a.example.com", "https://*.example.com"),
            ("https://a.example.com:8443", "https://*.example.com"),
            ("https://a.example.com.evil.example", "https://*.example.com"),
            ("https://evil.example/.example.com", "https://*.example.com"),
            ("https://evil.example#.example.com", "https://*.example.com"),
            ("https://a.example.com@evil.example", "https://*.example.com"),
            ("https://evil.example:1.example.com", "https://*.example.com"),
            ("https://*.example.com", "https://*.example.com"),
            ("null", "https://example.com"),
            ("https://null", "null"),
            ("https://example.com", "example.com"),
            ("https://example.com", "https://example.com/"),
            ("https://example.com", "https://example.com/project"),
            ("https://example.com/project/", "https://example.com/project"),
            ("file://", "file:///"),
            ("LOCALHOST:8025", "localhost:8025"),
            ("localhost:8025", "localhost"),
            ("same-origin", "same-origin"),
            ("*", "https://*.example.com"),
            ("https://example.com", "https://*"),
            ("https://server.example", "https://example.com"),
        ],
    )
    def test_entry_does_not_allow(self, origin: str, entry: str) -> None:
        """Nothing else: no other scheme, port or depth, no suffix without a dot, not the request's own host."""
        assert not origin_allowed(origin, "server.example", [entry])

    @pytest.mark.parametrize(
        ("origin", "allowed"),
        [
            ("https://pr-17.preview.example.com", True),
            ("https://pr-17.preview.example.com.evil.example", False),
            ("x https://pr-17.preview.example.com", False),
            ("https://pr-x.preview.example.com", False),
            ("https://pr-17.preview.example.com\n", False),
        ],
    )
    def test_compiled_pattern(self, origin: str, allowed: bool) -> None:
        """A pattern must match the whole Origin as it came."""
        pattern = re.compile(r"https://pr-\d+\.preview\.example\.com")
        assert origin_allowed(origin, "server.example", [pattern]) is allowed

    @pytest.mark.parametrize(
        ("origin", "allowed"),
        [
            ("https://server.example", True),
            ("https://a.example", True),
            ("https://x.b.example", True),
            ("https://c.example", True),
            ("null", False),
            ("https://d.example", False),
        ],
    )
    def test_any_entry_of_the_list(self, origin: str, allowed: bool) -> None:
        """One entry of the list is enough."""
        entries = ["https://a.example", re.compile("https://c.example"), "same-origin", "https://*.b.example"]
        assert origin_allowed(origin, "server.example", entries) is allowed

    def test_empty_list_allows_nothing(self) -> None:
        """An empty list refuses every page, the request's own host too."""
        assert not origin_allowed("https://server.example", "server.example", [])


class TestSection4_2_2:
    """The server's answer."""

    def test_accept_key_of_the_example(self) -> None:
        """The key of 1.3 gives the answer of 1.3."""
        assert accept_key(KEY) == ACCEPT

    def test_plain_answer(self) -> None:
        """The 101 has the headers of 4.2.2, item 5, and no subprotocol or extension that was not agreed on."""
        assert accept_headers(Handshake(KEY, ("chat",)), None) == [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", ACCEPT),
        ]

    def test_full_answer(self) -> None:
        """The subprotocol and the compression that were agreed on stand in the 101."""
        headers = accept_headers(Handshake(KEY, ("chat",), Parameters(True, False, 10, 15)), "chat")
        assert headers[3:] == [
            ("Sec-WebSocket-Protocol", "chat"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover; server_max_window_bits=10"),
        ]

    def test_answer_names_the_server_window(self) -> None:
        """It does so even where that is the default, because the offer may have named it (RFC 7692 7.1.2.1)."""
        answer = judge(GOOD._replace(extensions="permessage-deflate; server_max_window_bits=15"), SAME_ORIGIN, "shared")
        assert isinstance(answer, Handshake)
        assert accept_headers(answer, None)[3][1].endswith("; server_max_window_bits=15")

    def test_every_header_may_be_sent(self) -> None:
        """Each header of an answer or a refusal is one that may stand in a response."""
        sent = accept_headers(Handshake(KEY, (), Parameters(True, True, 9, 9)), "chat")
        for changes in ({"method": "POST"}, {"version": "8"}, {"key": None}, {"origin": "null"}):
            refusal = judged(**changes)
            assert isinstance(refusal, Refusal)
            sent += refusal.headers
        assert [check_field(name, value) for name, value in sent] == sent

    @pytest.mark.parametrize(
        ("upgrade", "wants"),
        [
            ("websocket", True),
            ("WebSocket", True),
            ("h2c, websocket", True),
            ("websocket/13", True),
            ("h2c", False),
            ("", False),
            ("web socket", False),
        ],
    )
    def test_wants_websocket(self, upgrade: str, wants: bool) -> None:
        """An Upgrade that names WebSocket in any way is for the rules; any other request is none of ours."""
        assert wants_websocket(upgrade) is wants

    @pytest.mark.parametrize(
        ("upgrade", "key", "dropped"),
        [
            (None, KEY, True),
            ("", KEY, True),
            (", ", "", True),
            ("websocket", KEY, False),
            ("h2c", KEY, False),
            (None, None, False),
            ("", None, False),
        ],
    )
    def test_upgrade_dropped(self, upgrade: str | None, key: str | None, dropped: bool) -> None:
        """A key without any Upgrade is half of a handshake."""
        assert upgrade_dropped(upgrade, key) is dropped


class TestSection4_1:
    """The client's check of the answer."""

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"upgrade": "WebSocket"},
            {"connection": "upgrade"},
            {"connection": "keep-alive, Upgrade"},
        ],
    )
    def test_good_answer(self, changes: dict[str, str]) -> None:
        """An answer that breaks no rule opens the connection, without subprotocol and compression."""
        assert check_response(101, {**ANSWER, **changes}, KEY) == (None, None)

    @pytest.mark.parametrize("status", [100, 200, 301, 400, 401, 426, 500])
    def test_other_status(self, status: int) -> None:
        """Any status but 101 fails (item 1)."""
        with pytest.raises(ValueError, match=f"^the server answered with status {status}, not 101$"):
            check_response(status, ANSWER, KEY)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"upgrade": ""}, "the 101 does not say 'Upgrade: websocket'"),
            ({"upgrade": "h2c"}, "the 101 does not say 'Upgrade: websocket'"),
            ({"upgrade": "websocket, h2c"}, "the 101 does not say 'Upgrade: websocket'"),
            ({"connection": ""}, "the 101 does not say 'Connection: Upgrade'"),
            ({"connection": "close"}, "the 101 does not say 'Connection: Upgrade'"),
            ({"sec-websocket-accept": ""}, "the 101 answers another key"),
            ({"sec-websocket-accept": KEY}, "the 101 answers another key"),
            ({"sec-websocket-accept": ACCEPT.lower()}, "the 101 answers another key"),
            (
                {"sec-websocket-protocol": "other"},
                "the server chose the subprotocol 'other', which was not offered",
            ),
            ({"sec-websocket-protocol": ""}, "the server chose the subprotocol '', which was not offered"),
            (
                {"sec-websocket-protocol": "chat, superchat"},
                "the server chose the subprotocol 'chat, superchat', which was not offered",
            ),
            (
                {"sec-websocket-extensions": "permessage-deflate"},
                "the server answered with an extension that was not offered",
            ),
        ],
    )
    def test_answer_refused(self, changes: dict[str, str], sentence: str) -> None:
        """Each broken rule fails the connection with a sentence (items 2 to 6)."""
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            check_response(101, {**ANSWER, **changes}, KEY, ("chat", "superchat"))

    @pytest.mark.parametrize("name", ["upgrade", "connection", "sec-websocket-accept"])
    def test_header_missing(self, name: str) -> None:
        """A header of the answer that is missing fails the connection."""
        answer = {key: value for key, value in ANSWER.items() if key != name}
        with pytest.raises(ValueError, match=r"^the 101 "):
            check_response(101, answer, KEY)

    def test_subprotocol_and_compression(self) -> None:
        """What was offered and chosen is what the client uses."""
        answer = {
            **ANSWER,
            "sec-websocket-protocol": "superchat",
            "sec-websocket-extensions": "permessage-deflate; client_max_window_bits=10",
        }
        assert check_response(101, answer, KEY, ("chat", "superchat"), Parameters()) == (
            "superchat",
            Parameters(client_max_window_bits=10),
        )

    @pytest.mark.parametrize("header", ["", ","])
    @pytest.mark.parametrize("offered", [None, Parameters()])
    def test_empty_extensions_are_absent(self, header: str, offered: Parameters | None) -> None:
        """An empty list in the answer names no extension, whatever was offered (RFC 9110 5.6.1)."""
        assert check_response(101, {**ANSWER, "sec-websocket-extensions": header}, KEY, (), offered) == (None, None)

    @pytest.mark.parametrize("header", ["permessage-deflate;", "foo", "permessage-deflate; foo"])
    def test_wrong_extension(self, header: str) -> None:
        """A malformed answer, and one that was not offered, fails the connection (item 5)."""
        with pytest.raises(ValueError, match=r"Extensions|extension"):
            check_response(101, {**ANSWER, "sec-websocket-extensions": header}, KEY, (), Parameters())

    def test_both_sides(self) -> None:
        """Our client takes our server's answer to any key."""
        for _ in range(50):
            key = base64.b64encode(os.urandom(16)).decode()
            answer = judge(GOOD._replace(key=key, subprotocols="a, b"), SAME_ORIGIN)
            assert isinstance(answer, Handshake)
            headers = {name.lower(): value for name, value in accept_headers(answer, "b")}
            assert check_response(101, headers, key, ("a", "b")) == ("b", None)
