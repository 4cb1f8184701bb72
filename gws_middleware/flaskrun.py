"""``flask gws-run``: runs the application of ``--app`` on gunicorn with the worker of this package. ``flask run`` uses
Werkzeug's server, which cannot open WebSockets.

Rule: the command replaces its process by gunicorn (``exec``), whose worker patches the standard library before it loads
the application.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click
from flask import Flask
from flask.cli import ScriptInfo, pass_script_info
from flask.helpers import get_debug_flag

__all__ = ["application", "command"]

WORKER = "gws_middleware.worker.GeventWebSocketWorker"


@click.command(
    "gws-run",
    short_help="Run a development server with WebSockets.",
    context_settings={"ignore_unknown_options": True},
)
@click.option("--host", "-h", default="127.0.0.1", help="The interface to bind to.")
@click.option("--port", "-p", default=5000, help="The port to bind to.")
@click.option(
    "--reload/--no-reload", default=None, help="Load the code again when it changes; the default in debug mode."
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@pass_script_info
def command(info: ScriptInfo, host: str, port: int, reload: bool | None, options: tuple[str, ...]) -> None:
    """Run the application on gunicorn, with WebSockets.

    OPTIONS are those of gunicorn, e.g. --workers 2 or --config gunicorn_conf.py.
    """
    if find_spec("gunicorn") is None:
        raise click.ClickException("gunicorn is not installed: pip install 'gws-middleware[flask]'")
    if info.create_app is not None:
        raise click.UsageError("gunicorn cannot load the application of this command: name it with flask --app")
    if info.app_import_path is not None:
        os.environ["FLASK_APP"] = info.app_import_path
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    arguments = ["--worker-class", WORKER, "--bind", address, "--access-logfile", "-", *_no_control_socket()]
    if get_debug_flag() if reload is None else reload:
        arguments.append("--reload")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *arguments, *options, f"{__name__}:application()"])


def _no_control_socket() -> list[str]:
    """The option without which gunicorn 25.1 and later open a control socket at one path for all servers of a user."""
    from gunicorn.config import Config

    return ["--no-control-socket"] if "control_socket_disable" in Config().settings else []


def application() -> Flask:
    """Load the application; gunicorn calls this in the worker.

    Returns:
        The application that ``FLASK_APP`` names, or else that of ``wsgi.py`` or ``app.py``.

    """
    return ScriptInfo(os.environ.get("FLASK_APP")).load_app()
