"""``config``: every knob with its default, and every sentence that refuses a value. Messages are interface."""

from __future__ import annotations

import dataclasses
import os.path
import re
from typing import Any

import pytest

from gws_middleware.config import SAME_ORIGIN, Config
from gws_middleware.exceptions import ConfigError

DEFAULTS = {
    "allowed_origins": ("same-origin",),
    "max_message_size": 1_048_576,
    "max_fragments": 131_072,
    "inbox_messages": 16,
    "send_high_water": 65_536,
    "send_limit": 1_048_576,
    "send_timeout": 30.0,
    "close_timeout": 10.0,
    "ping_interval": 20.0,
    "ping_timeout": 20.0,
    "message_timeout": 60.0,
    "message_rate": None,
    "byte_rate": None,
    "rate_burst": 10.0,
    "accept_timeout": None,
    "max_connections": None,
    "max_connections_per_address": None,
    "client_address": None,
    "max_connections_per_user": None,
    "user_key": None,
    "compression": "off",
}

HOLDS_USERS = {"user_key": len, "max_connections_per_user": 3}
"""A function beside the number that needs one."""

COUNT = "wanted a whole number from"
FUNCTION = 'wanted a function or its "package.module.name"'
SECONDS = "wanted a number of seconds above 0"
ORIGINS = (
    'wanted a list of origins: "https://example.com", "https://*.example.com", a program\'s own ("file://"), '
    '"same-origin", "null", "*" or compiled patterns'
)

REFUSED: list[tuple[str, Any, str]] = [
    *[
        (knob, value, f"{knob} is {value!r}: {COUNT} {low} to 1099511627776")
        for knob, low in (
            ("max_message_size", 1),
            ("max_fragments", 1),
            ("inbox_messages", 1),
            ("send_high_water", 0),
            ("send_limit", 1),
        )
        for value in (low - 1, 2**40 + 1, 1.0, "16", True, None)
    ],
    *[
        (knob, value, f"{knob} is {value!r}: {SECONDS}")
        for knob in ("send_timeout", "close_timeout")
        for value in (0, -0.1, float("inf"), float("nan"), "30", True, None)
    ],
    *[
        (knob, value, f"{knob} is {value!r}: {SECONDS}, or None")
        for knob in ("ping_interval", "ping_timeout", "message_timeout", "accept_timeout")
        for value in (0, -1, float("inf"), float("nan"), "20", True)
    ],
    *[
        ("rate_burst", value, f"rate_burst is {value!r}: {SECONDS}")
        for value in (0, -1, float("inf"), float("nan"), "10", True, None)
    ],
    *[
        (knob, value, f"{knob} is {value!r}: wanted a number above 0, or None")
        for knob in ("message_rate", "byte_rate")
        for value in (0, -1, float("inf"), float("nan"), "5", True)
    ],
    *[
        (knob, value, f"{knob} is {value!r}: {COUNT} 1 to 1099511627776, or None")
        for knob in ("max_connections", "max_connections_per_address", "max_connections_per_user")
        for value in (0, -1, 2**40 + 1, 1.5, "7", True)
    ],
    *[
        (knob, value, f"{knob} is {value!r}: {FUNCTION}, or None")
        for knob in ("client_address", "user_key")
        for value in (5, b"len", [len], "math.pi", "string.digits")
    ],
    *[
        (knob, value, f"{knob} is {value!r}: {FUNCTION}, or None; {error}")
        for knob in ("client_address", "user_key")
        for value, error in (
            ("nowhere.to_be.found", "No module named 'nowhere'"),
            ("math.nothing", "module 'math' has no attribute 'nothing'"),
            ("len", "Empty module name"),
            ("", "Empty module name"),
            (".relative", "Empty module name"),
            (
                "..relative",
                "the 'package' argument is required to perform a relative import for '.'",
            ),
        )
    ],
    (
        "max_connections_per_user",
        5,
        "max_connections_per_user is set, but no user_key that tells whose a WebSocket is",
    ),
    *[
        ("compression", value, f'compression is {value!r}: wanted "off", "shared" or "dedicated"')
        for value in ("on", "Shared", True, None, 0)
    ],
    *[
        ("allowed_origins", value, f"allowed_origins is {value!r}: {ORIGINS}")
        for value in ("https://example.com", "*", None, 5, {"*"})
    ],
    *[
        ("allowed_origins", [entry], f"allowed_origins is {[entry]!r}: {ORIGINS}; {entry!r} is none of these")
        for entry in (
            "https://",
            "https://*",
            "https://*.*.example.com",
            "https://a.example, https://b.example",
            "file:// ",
            "g\u20ac",
            "same_origin",
            "Same-Origin",
            "NULL",
            "",
            None,
            7,
        )
    ],
    *[
        ("allowed_origins", [entry], f"allowed_origins is {[entry]!r}: {ORIGINS}; {entry!r} {mistake}")
        for entry, mistake in (
            ("https://example.com/", "has a path, and an origin has none: did you mean 'https://example.com'?"),
            ("https://Example.com/", "has a path, and an origin has none: did you mean 'https://example.com'?"),
            ("wss://*.example.com?x", "has a path, and an origin has none: did you mean 'wss://*.example.com'?"),
            *[
                (word, 'is no origin: "*" admits the pages of every origin, an empty list those of none')
                for word in ("off", "OFF", "none", "any", "all")
            ],
        )
    ],
]

ACCEPTED: list[tuple[str, Any]] = [
    ("max_message_size", 1),
    ("max_message_size", 2**40),
    ("max_fragments", 1),
    ("inbox_messages", 1),
    ("send_high_water", 0),
    ("send_limit", 1),
    ("send_timeout", 1),
    ("close_timeout", 0.001),
    ("ping_interval", None),
    ("ping_interval", 0.5),
    ("ping_timeout", None),
    ("message_timeout", None),
    ("message_timeout", 5),
    ("message_rate", 0.5),
    ("byte_rate", 1e9),
    ("rate_burst", 0.5),
    ("accept_timeout", 5),
    ("max_connections", 1),
    ("max_connections", 2**40),
    ("max_connections_per_address", 1),
    ("client_address", dict.get),
    ("client_address", None),
    ("user_key", id),
    ("compression", "shared"),
    ("compression", "dedicated"),
    ("allowed_origins", ()),
    ("allowed_origins", ("null", "*", SAME_ORIGIN)),
    ("allowed_origins", ("https://example.com", "https://example.com:8443", "http://localhost:8000")),
    ("allowed_origins", ("https://*.example.com", "ws://example.com", "http://[::1]:8000")),
    (
        "allowed_origins",
        ("file://", "localhost:8025", "example.com", "https://example.com/project", "HTTPS://*.Example"),
    ),
    ("allowed_origins", ("chrome-extension://abcdef", re.compile(r"https://.*\.example\.com"))),
]


def test_config_has_these_knobs_with_these_defaults() -> None:
    """The table that documentation and settings derive from; a change here is one for users."""
    assert dataclasses.asdict(Config()) == DEFAULTS


@pytest.mark.parametrize("knob", dataclasses.fields(Config), ids=lambda knob: knob.name)
def test_knob_explains_itself(knob: dataclasses.Field[Any]) -> None:
    """In whole sentences without the line breaks of its source."""
    doc = knob.metadata["doc"]
    assert len(doc) > 40
    assert doc == " ".join(doc.split())
    assert doc.endswith(".")


@pytest.mark.parametrize(("knob", "value", "sentence"), REFUSED, ids=lambda value: repr(value)[:30])
def test_wrong_value_is_refused(knob: str, value: Any, sentence: str) -> None:
    """The sentence says which setting, what was found and what was wanted."""
    with pytest.raises(ConfigError) as caught:
        Config(**{knob: value})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("knob", "value"), ACCEPTED, ids=lambda value: repr(value)[:30])
def test_right_value_is_kept(knob: str, value: Any) -> None:
    """As it was given."""
    assert getattr(Config(**{knob: value}), knob) == value


@pytest.mark.parametrize("knob", ["client_address", "user_key"])
def test_function_may_be_named(knob: str) -> None:
    """A file of settings, or the environment, has only text; what is kept is the function."""
    assert getattr(Config(**{knob: "os.path.basename"}), knob) is os.path.basename


def test_limit_of_users_needs_a_key() -> None:
    """With one it is kept, and a key alone does no harm."""
    config = Config(**HOLDS_USERS)
    assert (config.max_connections_per_user, config.user_key) == (3, len)


def test_view_s_own_settings_are_checked_as_any() -> None:
    """``for_view`` gives a copy; the application's stays as it is."""
    config = Config(max_fragments=7, **HOLDS_USERS)
    other = config.for_view({"max_message_size": 5, "ping_interval": None})
    assert dataclasses.asdict(other) == {**dataclasses.asdict(config), "max_message_size": 5, "ping_interval": None}
    assert config == Config(max_fragments=7, **HOLDS_USERS)


def test_list_of_origins_cannot_be_changed_afterwards() -> None:
    """A list of the application's own is copied, and a Config is frozen."""
    origins = ["https://example.com"]
    config = Config(allowed_origins=origins)  # type: ignore[arg-type]
    origins.append("*")
    assert config.allowed_origins == ("https://example.com",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.send_limit = 5  # type: ignore[misc]


def test_knobs_are_named() -> None:
    """Positions would be a trap in a table that grows."""
    with pytest.raises(TypeError):
        Config(("*",))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("max_mesage_size", "'max_mesage_size' is not a setting: did you mean 'max_message_size'?"),
        ("allowed_origin", "'allowed_origin' is not a setting: did you mean 'allowed_origins'?"),
        ("send_timout", "'send_timout' is not a setting: did you mean 'send_timeout'?"),
        ("MAX_MESSAGE_SIZE", "'MAX_MESSAGE_SIZE' is not a setting: did you mean 'max_message_size'?"),
        ("GWS_MAX_MESSAGE_SIZE", "'GWS_MAX_MESSAGE_SIZE' is not a setting: did you mean 'max_message_size'?"),
        ("maxMessageSize", "'maxMessageSize' is not a setting: did you mean 'max_message_size'?"),
        ("max-message-size", "'max-message-size' is not a setting: did you mean 'max_message_size'?"),
        ("colour", "'colour' is not a setting"),
    ],
)
def test_misspelt_option_is_refused_with_the_nearest_name(name: str, sentence: str) -> None:
    """And without a suggestion where none is near."""
    with pytest.raises(ConfigError) as caught:
        Config.load({name: 1}, {})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("variable", "text", "knob", "value"),
    [
        ("GWS_MAX_MESSAGE_SIZE", "65536", "max_message_size", 65536),
        ("GWS_SEND_HIGH_WATER", "0", "send_high_water", 0),
        ("GWS_SEND_TIMEOUT", "2.5", "send_timeout", 2.5),
        ("GWS_CLOSE_TIMEOUT", "3", "close_timeout", 3.0),
        ("GWS_PING_INTERVAL", "none", "ping_interval", None),
        ("GWS_PING_INTERVAL", "None", "ping_interval", None),
        ("GWS_PING_TIMEOUT", "7.5", "ping_timeout", 7.5),
        ("GWS_MESSAGE_TIMEOUT", "NONE", "message_timeout", None),
        ("GWS_MESSAGE_RATE", "20", "message_rate", 20.0),
        ("GWS_BYTE_RATE", "1e6", "byte_rate", 1e6),
        ("GWS_RATE_BURST", "5", "rate_burst", 5.0),
        ("GWS_ACCEPT_TIMEOUT", "5", "accept_timeout", 5.0),
        ("GWS_MAX_CONNECTIONS", "500", "max_connections", 500),
        ("GWS_MAX_CONNECTIONS", "none", "max_connections", None),
        ("GWS_MAX_CONNECTIONS_PER_ADDRESS", "5", "max_connections_per_address", 5),
        ("GWS_CLIENT_ADDRESS", "os.path.basename", "client_address", os.path.basename),
        ("GWS_USER_KEY", "os.path.basename", "user_key", os.path.basename),
        ("GWS_USER_KEY", "none", "user_key", None),
        ("GWS_COMPRESSION", "shared", "compression", "shared"),
        ("GWS_ALLOWED_ORIGINS", "*", "allowed_origins", ("*",)),
        ("GWS_ALLOWED_ORIGINS", "", "allowed_origins", ()),
        (
            "GWS_ALLOWED_ORIGINS",
            " same-origin , https://*.example.com,",
            "allowed_origins",
            ("same-origin", "https://*.example.com"),
        ),
    ],
)
def test_environment_variable_sets_a_knob(variable: str, text: str, knob: str, value: Any) -> None:
    """GWS_ and the knob's name in capitals; the other knobs keep their defaults."""
    assert dataclasses.asdict(Config.load(None, {variable: text})) == {**DEFAULTS, knob: value}


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        *[
            (variable, text, f"the environment variable {variable} is {text!r}: {wanted}")
            for variable, text, wanted in (
                ("GWS_MAX_MESSAGE_SIZE", "1 MiB", f"{COUNT} 1 to 1099511627776"),
                ("GWS_SEND_TIMEOUT", "", SECONDS),
                ("GWS_SEND_TIMEOUT", "none", SECONDS),
                ("GWS_SEND_LIMIT", "2.5", f"{COUNT} 1 to 1099511627776"),
                ("GWS_MAX_FRAGMENTS", "none", f"{COUNT} 1 to 1099511627776"),
                ("GWS_PING_INTERVAL", "off", f'{SECONDS}, or "none"'),
                ("GWS_MESSAGE_RATE", "off", 'wanted a number above 0, or "none"'),
                ("GWS_MAX_CONNECTIONS", "5.5", f'{COUNT} 1 to 1099511627776, or "none"'),
            )
        ],
        *[
            (variable, "5", f"the environment variable {variable} is not a setting: did you mean 'GWS_PING_INTERVAL'?")
            for variable in ("GWS_PING_INTERVALL", "gws_ping_interval", "GWS_ping_interval")
        ],
        ("GWS_PING_INTERVAL", "0", f"ping_interval is 0.0: {SECONDS}, or None"),
        ("GWS_USER_KEY", "len", f"user_key is 'len': {FUNCTION}, or None; Empty module name"),
        (
            "GWS_MAX_CONNECTIONS_PER_USER",
            "5",
            "max_connections_per_user is set, but no user_key that tells whose a WebSocket is",
        ),
        ("GWS_SEND_TIMEOUT", "nan", f"send_timeout is nan: {SECONDS}"),
        ("GWS_SEND_LIMIT", "0", f"send_limit is 0: {COUNT} 1 to 1099511627776"),
        ("GWS_COMPRESSION", "on", 'compression is \'on\': wanted "off", "shared" or "dedicated"'),
        (
            "GWS_ALLOWED_ORIGINS",
            "same origin",
            f"allowed_origins is ('same origin',): {ORIGINS}; 'same origin' is none of these",
        ),
        (
            "GWS_MAX_MESAGE_SIZE",
            "1",
            "the environment variable GWS_MAX_MESAGE_SIZE is not a setting: did you mean 'GWS_MAX_MESSAGE_SIZE'?",
        ),
    ],
)
def test_wrong_environment_variable_is_refused(variable: str, text: str, sentence: str) -> None:
    """Misspelt names too: a setting that silently has no effect is worse than a server that does not start."""
    with pytest.raises(ConfigError) as caught:
        Config.load({}, {variable: text})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "variable", ["GWS_SPEEDUPS", "GWS_REGION", "gws_profile", "GWSMAX_FRAGMENTS", "MAX_FRAGMENTS", "PATH"]
)
def test_foreign_environment_variable_is_left_alone(variable: str) -> None:
    """Other software may use the prefix too; GWS_SPEEDUPS is ours and no knob."""
    assert Config.load({}, {variable: "x"}) == Config()


def test_options_come_before_the_environment() -> None:
    """What is written in code is meant; the environment is for what code leaves open."""
    config = Config.load({"max_fragments": 5}, {"GWS_MAX_FRAGMENTS": "6", "GWS_INBOX_MESSAGES": "7"})
    assert (config.max_fragments, config.inbox_messages, config.send_limit) == (5, 7, DEFAULTS["send_limit"])


def test_environment_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read when the configuration is loaded, not when the module is imported."""
    monkeypatch.setenv("GWS_INBOX_MESSAGES", "3")
    assert Config.load().inbox_messages == 3
