"""``config``: every setting with its default and its type, and every sentence that refuses a value."""

from __future__ import annotations

import dataclasses
import os.path
import re
import typing
from typing import Any

import pytest

from gws_middleware.config import SAME_ORIGIN, ClientOptions, Config, Options, Origins, SharedNumbers, ViewOptions
from gws_middleware.exceptions import ConfigError
from gws_middleware.groups import Groups

DEFAULTS = {
    "allowed_origins": ("same-origin",),
    "max_message_size": 1_048_576,
    "max_fragments": 131_072,
    "inbox_messages": 16,
    "send_high_water": 65_536,
    "send_limit": 1_048_576,
    "send_timeout": 30.0,
    "close_timeout": 10.0,
    "shutdown_close_code": 1012,
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
    "site_limits": None,
    "compression": "off",
}

SITE = Groups("memory://")
HOLDS_USERS: dict[str, Any] = {"user_key": len, "max_connections_per_user": 3}
"""A limit, and the function that it needs."""

CLOSE_CODE = "wanted a close code that may be sent: 1012, 1001, 1013, or one from 3000 to 4999"
COUNT = "wanted a whole number from"
FUNCTION = 'wanted a function or its "package.module.name"'
SECONDS = "wanted a number of seconds above 0"
ORIGINS = (
    'wanted a list of origins: "https://example.com", "https://*.example.com", a program\'s own ("file://"), '
    '"same-origin", "null", "*" or compiled patterns'
)

REFUSED: list[tuple[str, Any, str]] = [
    *[
        (name, value, f"{name} is {value!r}: {COUNT} {low} to 1099511627776")
        for name, low in (
            ("max_message_size", 1),
            ("max_fragments", 1),
            ("inbox_messages", 1),
            ("send_high_water", 0),
            ("send_limit", 1),
        )
        for value in (low - 1, 2**40 + 1, 1.0, "16", True, None)
    ],
    *[
        (name, value, f"{name} is {value!r}: {SECONDS}")
        for name in ("send_timeout", "close_timeout")
        for value in (0, -0.1, float("inf"), float("nan"), "30", True, None)
    ],
    *[
        (name, value, f"{name} is {value!r}: {SECONDS}, or None")
        for name in ("ping_interval", "ping_timeout", "message_timeout", "accept_timeout")
        for value in (0, -1, float("inf"), float("nan"), "20", True)
    ],
    *[
        ("shutdown_close_code", value, f"shutdown_close_code is {value!r}: {CLOSE_CODE}")
        for value in (999, 1005, 1006, 1015, 1016, 2999, 5000, 1012.0, "1012", True, None)
    ],
    *[
        ("rate_burst", value, f"rate_burst is {value!r}: {SECONDS}")
        for value in (0, -1, float("inf"), float("nan"), "10", True, None)
    ],
    *[
        (name, value, f"{name} is {value!r}: wanted a number above 0, or None")
        for name in ("message_rate", "byte_rate")
        for value in (0, -1, float("inf"), float("nan"), "5", True)
    ],
    *[
        (name, value, f"{name} is {value!r}: {COUNT} 1 to 1099511627776, or None")
        for name in ("max_connections", "max_connections_per_address", "max_connections_per_user")
        for value in (0, -1, 2**40 + 1, 1.5, "7", True)
    ],
    *[
        (name, value, f"{name} is {value!r}: {FUNCTION}, or None")
        for name in ("client_address", "user_key")
        for value in (5, b"len", [len], "math.pi", "string.digits")
    ],
    *[
        (name, value, f"{name} is {value!r}: {FUNCTION}, or None; {error}")
        for name in ("client_address", "user_key")
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
        "max_connections_per_user is set, but user_key is not: it returns the user of a WebSocket",
    ),
    *[
        ("site_limits", value, f'site_limits is {value!r}: wanted a Groups or its "package.module.name", or None')
        for value in (True, 5, {}, Groups, "gws_middleware.groups.Groups", "os.path.basename")
    ],
    (
        "site_limits",
        "nowhere.to_be.found",
        "site_limits is 'nowhere.to_be.found': wanted a Groups or its \"package.module.name\", or None; "
        "No module named 'nowhere'",
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
    ("shutdown_close_code", 1001),
    ("shutdown_close_code", 4999),
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
    ("site_limits", Groups("memory://")),
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


def test_config_has_these_settings_with_these_defaults() -> None:
    """The table that documentation and settings derive from; a change here is one for users."""
    assert dataclasses.asdict(Config()) == DEFAULTS


WIDER = {
    "allowed_origins": Origins,
    **dict.fromkeys(["client_address", "user_key"], typing.get_type_hints(Config)["user_key"] | str),
    "site_limits": SharedNumbers | None | str,
}
"""The types of what is converted: a list to a tuple, the name of a function to the function."""


def test_options_are_the_fields() -> None:
    """A type checker knows each setting under its name and its type."""
    types = typing.get_type_hints(Config)
    assert typing.get_type_hints(Options) == {**types, **WIDER}
    assert Options.__required_keys__ == frozenset()


def test_options_of_a_client_are_all_but_one() -> None:
    """``testing.connect`` has an argument with the name of the other one."""
    assert set(Options.__annotations__) - set(ClientOptions.__annotations__) == {"compression"}


def test_options_of_a_view_are_those_that_it_may_set() -> None:
    """As docs/settings.md marks them."""
    assert set(ViewOptions.__annotations__) == {
        each.name for each in dataclasses.fields(Config) if each.metadata["per_view"]
    }


@pytest.mark.parametrize("setting", dataclasses.fields(Config), ids=lambda setting: setting.name)
def test_setting_has_a_text(setting: dataclasses.Field[Any]) -> None:
    """Whole sentences, without the line breaks of the source."""
    doc = setting.metadata["doc"]
    assert len(doc) > 40
    assert doc == " ".join(doc.split())
    assert doc.endswith(".")


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED, ids=lambda value: repr(value)[:30])
def test_wrong_value_is_refused(name: str, value: Any, sentence: str) -> None:
    """The sentence says which setting, what was found and what was wanted."""
    with pytest.raises(ConfigError) as caught:
        Config(**{name: value})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("name", "value"), ACCEPTED, ids=lambda value: repr(value)[:30])
def test_right_value_is_kept(name: str, value: Any) -> None:
    """Unchanged."""
    assert getattr(Config(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["client_address", "user_key"])
def test_function_may_be_named(name: str) -> None:
    """A file of settings, or the environment, has only text; what is kept is the function."""
    assert getattr(Config(**{name: "os.path.basename"}), name) is os.path.basename


def test_groups_of_a_site_may_be_named() -> None:
    """As functions may."""
    assert Config(site_limits=f"{__name__}.SITE").site_limits is SITE  # type: ignore[arg-type]


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


def test_list_of_origins_is_copied() -> None:
    """A list of the application's own is copied, and a Config is frozen."""
    origins = ["https://example.com"]
    config = Config(allowed_origins=origins)  # type: ignore[arg-type]
    origins.append("*")
    assert config.allowed_origins == ("https://example.com",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.send_limit = 5  # type: ignore[misc]


def test_settings_are_keyword_arguments() -> None:
    """The position of a field changes when the table grows."""
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
    ("variable", "text", "name", "value"),
    [
        ("GWS_MAX_MESSAGE_SIZE", "65536", "max_message_size", 65536),
        ("GWS_SEND_HIGH_WATER", "0", "send_high_water", 0),
        ("GWS_SEND_TIMEOUT", "2.5", "send_timeout", 2.5),
        ("GWS_CLOSE_TIMEOUT", "3", "close_timeout", 3.0),
        ("GWS_SHUTDOWN_CLOSE_CODE", "1001", "shutdown_close_code", 1001),
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
def test_environment_variable_is_a_setting(variable: str, text: str, name: str, value: Any) -> None:
    """GWS_ and the name in capitals; the other settings keep their defaults."""
    assert dataclasses.asdict(Config.load(None, {variable: text})) == {**DEFAULTS, name: value}


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
            "max_connections_per_user is set, but user_key is not: it returns the user of a WebSocket",
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
    """Misspelt names too: a server that does not start is better than a setting without an effect."""
    with pytest.raises(ConfigError) as caught:
        Config.load({}, {variable: text})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "variable", ["GWS_SPEEDUPS", "GWS_REGION", "gws_profile", "GWSMAX_FRAGMENTS", "MAX_FRAGMENTS", "PATH"]
)
def test_foreign_environment_variable_is_left_alone(variable: str) -> None:
    """Other software may use the prefix too; GWS_SPEEDUPS is ours and not a setting."""
    assert Config.load({}, {variable: "x"}) == Config()


def test_options_come_before_the_environment() -> None:
    """A keyword argument wins over a variable, and a variable over the default."""
    config = Config.load({"max_fragments": 5}, {"GWS_MAX_FRAGMENTS": "6", "GWS_INBOX_MESSAGES": "7"})
    assert (config.max_fragments, config.inbox_messages, config.send_limit) == (5, 7, DEFAULTS["send_limit"])


def test_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read when the configuration is loaded, not when the module is imported."""
    monkeypatch.setenv("GWS_INBOX_MESSAGES", "3")
    assert Config.load().inbox_messages == 3
