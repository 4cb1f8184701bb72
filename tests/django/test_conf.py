"""``settings.GWS``, and the origins that Django trusts."""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from gws_middleware import Config, ConfigError, WebSocketMiddleware
from gws_middleware.django import conf
from gws_middleware.django.instance import get_groups
from gws_middleware.django.test import WebSocketClient, WebSocketRefused
from gws_middleware.django.users import user_key
from gws_middleware.groups import History, Presence
from gws_middleware.protocol.handshake import origin_allowed
from tests.support.servers import ROOT

from .support import answer


def wrapped(**options: Any) -> Config:
    """The configuration of a new wrapper."""
    return WebSocketMiddleware(lambda environ, start_response: [], **options).config


class TestSettings:
    @override_settings(GWS={"max_message_size": 5})
    def test_argument_wins_over_the_project_and_the_project_over_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment is used for settings that the project does not set."""
        monkeypatch.setenv("GWS_MAX_MESSAGE_SIZE", "7")
        monkeypatch.setenv("GWS_INBOX_MESSAGES", "3")
        config = wrapped()
        assert (config.max_message_size, config.inbox_messages) == (5, 3)
        assert wrapped(max_message_size=6).max_message_size == 6

    @override_settings(GWS={"database_grace": 3, "close_on_logout": False})
    def test_django_settings_are_not_passed_to_the_wrapper(self) -> None:
        """They are read with ``conf.load()``."""
        with override_settings(GWS={}):
            without = wrapped()
        assert wrapped() == without
        assert (conf.load().database_grace, conf.load().close_on_logout) == (3, False)

    @override_settings(GWS={"max_connections_per_user": 3})
    def test_user_key_has_a_default(self) -> None:
        """The primary key of Django's user."""
        assert wrapped().user_key is user_key
        assert (conf.load().user_key, conf.load().max_connections_per_user) == (user_key, 3)

    @override_settings(GWS={"user_key": "os.path.basename"})
    def test_user_key_may_be_a_function_of_the_project(self) -> None:
        """By its dotted name, which needs no import in the settings."""
        assert (wrapped().user_key, conf.load().user_key) == (os.path.basename, os.path.basename)

    @override_settings(GWS={"site_limits": True, "max_connections": 3, "groups": {"history": {"a": {}}}})
    def test_limits_of_the_site_are_counted_by_the_groups_of_the_project(self) -> None:
        """Those of the settings at the time."""
        numbers = wrapped().site_limits
        assert numbers is not None and conf.load().site_limits is numbers
        groups = get_groups()
        assert (numbers.exchange_number("a", 3), groups.exchange_number("a", 4)) == (3, 4)
        numbers.put_numbers({"a": 0})
        with override_settings(GWS={}):
            assert get_groups() is not groups
            assert numbers.exchange_number("a", 1) == 1

    @pytest.mark.parametrize("given", [{}, {"site_limits": False}])
    def test_limits_are_of_a_worker_unless_set(self, given: dict[str, Any]) -> None:
        """As without Django."""
        with override_settings(GWS=given):
            assert wrapped().site_limits is conf.load().site_limits is None

    def test_user_key_of_the_environment_replaces_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment wins over a default."""
        monkeypatch.setenv("GWS_USER_KEY", "os.path.basename")
        assert wrapped().user_key is os.path.basename

    @override_settings(GWS={"user_key": None, "max_connections_per_user": 3})
    def test_limit_of_users_without_a_key_stops_the_server(self) -> None:
        """``user_key`` is None."""
        with pytest.raises(ConfigError, match=r"^max_connections_per_user is set, but user_key is not"):
            wrapped()

    def test_defaults_need_no_setting(self) -> None:
        """A project without ``GWS``."""
        assert (conf.load().database_grace, conf.load().close_on_logout) == (1.0, True)

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"max_mesage_size": 5}, "'max_mesage_size' is not a setting: did you mean 'max_message_size'?"),
            ({"database_grase": 5}, "'database_grase' is not a setting: did you mean 'database_grace'?"),
            ({7: 5}, "7 is not a setting"),
            ({"max_message_size": -1}, "max_message_size is -1: wanted a whole number from 1 to"),
            ({"database_grace": 0}, "database_grace is 0: wanted a number of seconds above 0, or None"),
            ({"close_on_logout": "no"}, "close_on_logout is 'no': wanted True or False"),
            ({"site_limits": "auto"}, "site_limits is 'auto': wanted True or False"),
            ({"site_limits": None}, "site_limits is None: wanted True or False"),
            ({"groups": 5}, 'groups is 5: wanted "auto", "sqlite:///directory", "memory://", a URL of Redis'),
            ({"groups": "mysql://x"}, "groups is 'mysql://x': wanted .*; 'mysql://x' is no backend of groups"),
            ({"groups": {"histroy": {}}}, "groups is .*; 'histroy' is not a key of groups: did you mean 'history'[?]"),
            ({"groups": {"url": 5}}, "groups is .*; url is 5: wanted a str"),
            ({"groups": {"history": ["room"]}}, r"groups is .*; history is \['room'\]: wanted a dict"),
            ({"groups": {"presence": "room"}}, "groups is .*; presence is 'room': wanted a dict"),
            (
                {"groups": {"presence": {"room": True}}},
                "groups is .*; presence has 'room': True; wanted is a dict with",
            ),
            (
                {"groups": {"presence": {"room": {"event": True}}}},
                "groups is .*; 'event' is not a key of the presence of 'room': did you mean 'events'[?]",
            ),
            (
                {"groups": {"presence": {"room": {"events": 1}}}},
                "groups is .*; the events of presence are True or False",
            ),
            ({"groups": {"presence": {"a.b": {}}}}, "groups is .*; presence has 'a.b'.*what precedes the first dot"),
            ({"groups": {"history": {"room": 5}}}, "groups is .*; history has 'room': 5; wanted is a dict with size"),
            (
                {"groups": {"history": {"room": {"syze": 5}}}},
                "groups is .*; 'syze' is not a key of the history of 'room': did you mean 'size'[?]",
            ),
            ({"groups": {"history": {"room": {"size": 0}}}}, "groups is .*; a history has a size of 1 to 100,000"),
            (
                {"groups": {"history": {"room": {"age": "x"}}}},
                "groups is .*; the age of a history is a number of seconds above 0, not 'x'",
            ),
            ({"groups": {"history": {"a.b": {}}}}, "groups is .*; history has 'a.b'.*what precedes the first dot"),
            ({"groups": {"history": {5: {}}}}, "groups is .*; the name of a group is a str, not int"),
            ({"grups": "auto"}, "'grups' is not a setting: did you mean 'groups'[?]"),
            ([("max_message_size", 5)], "settings.GWS is .*: wanted a dict"),
        ],
    )
    def test_wrong_setting_stops_the_server(self, given: Any, sentence: str) -> None:
        """ConfigError when the application is wrapped."""
        with override_settings(GWS=given), pytest.raises(ConfigError, match=f"^{sentence}"):
            wrapped()


class TestGroups:
    """The setting ``groups``, as ``get_groups()`` reads it."""

    @pytest.mark.parametrize(
        ("given", "url", "history"),
        [
            ({}, "auto", ()),
            ({"groups": "memory://"}, "memory://", ()),
            ({"groups": {}}, "auto", ()),
            ({"groups": {"url": "sqlite:///run/x"}}, "sqlite:///run/x", ()),
            (
                {"groups": {"history": {"room": {"size": 5, "age": 60}, "user": {}}}},
                "auto",
                (("room", History(5, 60)), ("user", History())),
            ),
        ],
    )
    def test_value_is_a_url_or_a_dict(self, given: Any, url: str, history: Any) -> None:
        """Each key may be missing."""
        with override_settings(GWS=given):
            assert conf.load_groups()[:2] == (url, history)

    def test_presence_is_by_prefix(self) -> None:
        """As the history; the groups of the project have it."""
        with override_settings(GWS={"groups": {"presence": {"room": {"events": True}, "user": {}}}}):
            assert conf.load_groups().presence == (("room", Presence(events=True)), ("user", Presence()))
            assert get_groups().presence_of("room.7") == Presence(events=True)
            assert get_groups().presence_of("other.7") is None

    def test_environment_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As for the other settings that only Django has."""
        monkeypatch.setenv("GWS_GROUPS", "memory://")
        with pytest.raises(ConfigError, match="GWS_GROUPS is not read: set 'groups'"):
            wrapped()

    @pytest.mark.parametrize("base", ["/srv/site", Path("/srv/site")])
    def test_project_is_base_dir(self, base: Any) -> None:
        """For which "auto" has a file. It may be text or a path."""
        with override_settings(BASE_DIR=base, GWS={}):
            assert conf.load_groups().project == Path("/srv/site")

    @pytest.mark.parametrize(
        ("module", "project"), [("tests.django.project.settings", ROOT / "tests"), ("site_settings", None)]
    )
    def test_project_without_base_dir_is_that_of_the_settings_module(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, project: Path | None
    ) -> None:
        """The directory of its top package, or the one that it is in."""
        (tmp_path / "site_settings.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        with override_settings(BASE_DIR=None, SETTINGS_MODULE=module, GWS={}):
            assert conf.load_groups().project == (project or tmp_path)

    def test_settings_without_a_module_have_the_working_directory(self) -> None:
        """Those of ``settings.configure()``."""
        with override_settings(BASE_DIR=None, SETTINGS_MODULE=None, GWS={}):
            assert conf.load_groups().project is None


class TestUnreadSettings:
    """A setting in a place that is not read is an error."""

    @pytest.mark.parametrize(
        ("variable", "name"),
        [
            ("GWS_CLOSE_ON_LOGOUT", "close_on_logout"),
            ("GWS_DATABASE_GRACE", "database_grace"),
            ("gws_close_on_logout", "close_on_logout"),
            ("GWS_CLOSE_ON_LOGUOT", "close_on_logout"),
        ],
    )
    def test_django_s_own_setting_in_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, name: str
    ) -> None:
        """It would have no effect."""
        monkeypatch.setenv(variable, "0")
        sentence = f"the environment variable {variable} is not read: set '{name}' in settings.GWS"
        with pytest.raises(ConfigError, match=f"^{sentence}$"):
            wrapped()

    @pytest.mark.parametrize(
        ("attribute", "name"),
        [
            ("GWS_CLOSE_ON_LOGOUT", "close_on_logout"),
            ("GWS_MAX_MESSAGE_SIZE", "max_message_size"),
            ("GWS_MAX_MESAGE_SIZE", "max_message_size"),
        ],
    )
    def test_setting_outside_of_the_dict(self, attribute: str, name: str) -> None:
        """An attribute of ``settings``, as in other packages."""
        sentence = f"settings.{attribute} is not read: set '{name}' in the dict settings.GWS"
        with override_settings(**{attribute: 1}), pytest.raises(ConfigError, match=f"^{sentence}$"):
            wrapped()

    def test_other_names_with_the_prefix_are_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other software may use the prefix."""
        monkeypatch.setenv("GWS_REGION", "x")
        with override_settings(GWS_ACCOUNT="x"):
            assert wrapped() == Config(user_key=user_key, allowed_origins=wrapped().allowed_origins)


HOSTS = ["example.com"]
SUBDOMAINS = [".example.com"]
TRUSTED = {"CSRF_TRUSTED_ORIGINS": ["https://*.trusted.org", "https://shop.net"]}
DEBUGGING = {"ALLOWED_HOSTS": [], "DEBUG": True}


class TestOrigins:
    """Which page may connect to another host than its own."""

    @pytest.mark.parametrize(
        ("given", "origin"),
        [
            ({"ALLOWED_HOSTS": HOSTS}, "https://example.com"),
            ({"ALLOWED_HOSTS": HOSTS}, "http://EXAMPLE.com:8080"),
            ({"ALLOWED_HOSTS": SUBDOMAINS}, "https://example.com"),
            ({"ALLOWED_HOSTS": SUBDOMAINS}, "https://a.b.example.com"),
            ({"ALLOWED_HOSTS": ["[::1]"]}, "http://[::1]:8000"),
            (TRUSTED, "https://a.trusted.org"),  # as it may send forms
            (TRUSTED, "https://shop.net"),
            (DEBUGGING, "http://localhost:3000"),  # as for Django's check of the host
            (DEBUGGING, "http://app.localhost"),
            (DEBUGGING, "http://127.0.0.1:5173"),
        ],
    )
    def test_page_may_connect(self, given: dict[str, Any], origin: str) -> None:
        """One of an allowed host or of a trusted origin, and a local one while debugging."""
        with override_settings(**given):
            assert allowed(origin)

    @pytest.mark.parametrize(
        ("hosts", "origin"),
        [
            (HOSTS, "https://evil.com"),
            (HOSTS, "https://evil-example.com"),
            (HOSTS, "https://a.example.com"),
            (HOSTS, "https://example.com.evil.com"),
            (HOSTS, "https://exampleXcom"),
            (SUBDOMAINS, "https://evilexample.com"),
            *[
                (SUBDOMAINS, f"https://evil.com{mark}.example.com")
                for mark in ("/", "\\", "?", "#", "%", " ", "*", "[", "\t", "\x00", "\x7f", "\xe4", ",", "'", '"')
            ],
            (SUBDOMAINS, "https://..example.com"),
            (HOSTS, "https://example.com:123456"),
            (["*"], "https://evil.com"),
            (HOSTS, "null"),
            ([], "http://localhost:3000"),  # without DEBUG
        ],
    )
    def test_other_page_may_not(self, hosts: list[str], origin: str) -> None:
        """``*`` is no origin. It means that the Host header is checked elsewhere."""
        with override_settings(ALLOWED_HOSTS=hosts, DEBUG=False):
            assert not allowed(origin)

    @pytest.mark.parametrize(
        ("hosts", "origin", "status"),
        [
            (["*"], "http://testserver", 101),
            (["testserver", *HOSTS], "https://example.com", 101),
            (["testserver", *HOSTS], "https://evil.com", 403),
        ],
    )
    def test_handshake_is_checked(self, client: WebSocketClient, hosts: list[str], origin: str, status: int) -> None:
        """The same origin is allowed with any ALLOWED_HOSTS."""
        found = 101
        with override_settings(ALLOWED_HOSTS=hosts):
            try:
                with client.websocket("/both/", origin=origin) as ws:
                    assert answer(ws, "x") == "0: x"
            except WebSocketRefused as refused:
                found = refused.status_code
        assert found == status

    @override_settings(CSRF_TRUSTED_ORIGINS=["https://shop.net/"])
    def test_wrong_trusted_origin_is_named(self) -> None:
        """By Django's own setting."""
        sentence = r"^settings.CSRF_TRUSTED_ORIGINS: .*did you mean 'https://shop.net'\?"
        with pytest.raises(ConfigError, match=sentence):
            wrapped()

    @override_settings(GWS={"allowed_origins": ["https://only.org"]})
    def test_setting_replaces_all_of_them(self, client: WebSocketClient) -> None:
        """Same origin, ALLOWED_HOSTS and CSRF_TRUSTED_ORIGINS."""
        assert wrapped().allowed_origins == ("https://only.org",)

    def test_environment_replaces_what_is_derived(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The derived origins are a default."""
        monkeypatch.setenv("GWS_ALLOWED_ORIGINS", "https://env.org")
        assert wrapped().allowed_origins == ("https://env.org",)


class TestHost:
    """The same origin counts only for allowed hosts. CommonMiddleware, which also checks it, is not installed."""

    @pytest.fixture(autouse=True)
    def settings(self) -> Iterator[None]:
        with override_settings(MIDDLEWARE=[], ALLOWED_HOSTS=["example.com"]):
            yield

    @pytest.mark.parametrize("path", ["/both/", "/undecorated/", "/meta/"])
    @pytest.mark.parametrize("given", [{}, {"allowed_origins": ["same-origin", "https://partner.org"]}])
    def test_page_of_another_host_is_refused(self, client: WebSocketClient, path: str, given: Any) -> None:
        """Its name resolves to this server (DNS rebinding). The view is not called."""
        with (
            override_settings(GWS=given),
            pytest.raises(WebSocketRefused) as refused,
            client.websocket(path, origin="http://evil.test", headers={"Host": "evil.test"}),
        ):
            pass
        assert refused.value.status_code == 403
        assert b"is not in ALLOWED_HOSTS" in refused.value.body

    @pytest.mark.parametrize(
        ("host", "origin"),
        [("example.com", "http://example.com"), ("evil.test", None), ("internal:8000", "https://partner.org")],
    )
    def test_others_may_connect(self, client: WebSocketClient, host: str, origin: str | None) -> None:
        """The same origin of an allowed host, a program without Origin, and a listed origin with any Host."""
        with (
            override_settings(GWS={"allowed_origins": ["same-origin", "https://partner.org"]}),
            client.websocket("/both/", origin=origin, headers={"Host": host}) as ws,
        ):
            assert answer(ws, "x") == "0: x"


def allowed(origin: str) -> bool:
    """Whether a page of this origin may connect to another host."""
    return origin_allowed(origin, "elsewhere.org", wrapped().allowed_origins)
