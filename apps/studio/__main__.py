"""`python -m apps.studio`: serves the Studio over a folder of runs."""

from __future__ import annotations

import ipaddress
import sys
import threading
from typing import Any

import click

from apps.studio.parts import LABELS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default="runs", show_default=True, help="the folder that holds the runs")
@click.option("--labels", default=LABELS, show_default=True, help="the label store: a file, or the URL of a database")
@click.option("--host", default="", help="the address to listen on (127.0.0.1; with --expose 0.0.0.0)")
@click.option("--port", default=7860, show_default=True, help="the port to listen on")
@click.option("--expose", "exposed", is_flag=True, help="let other machines in; wants --code")
@click.option("--code", default="", help="what people type to come in, six characters or more")
@click.option("--host-code", default="", help="what hosts type instead (default: a new one, which is printed)")
@click.option("--engine/--no-engine", default=False, show_default=True, help="start an engine behind the page "
              "where none serves these runs; it outlives the page")  # fmt: skip
@click.option("--tls-cert", default="", help="a certificate's file, so that a network cannot read along")
@click.option("--tls-key", default="", help="and its key's")
def main(
    runs: str, host: str, port: int, exposed: bool, engine: bool, tls_cert: str, tls_key: str, **more: Any
) -> None:
    """Serves the Studio: sample from the models, judge, train, and watch runs; alone, or with --expose for a room."""
    from apps.studio.server import StudioError, serve

    if host and not exposed and not _loopback(host):
        raise click.UsageError(f"{host} is open to other machines; say so with --expose, which wants a --code.")
    if more["code"] and not exposed:
        raise click.UsageError("A workshop code is for a Studio that lets others in; add --expose.")
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("A certificate and its key belong together; give --tls-cert and --tls-key.")
    if engine:
        threading.Thread(target=_start_engine, args=(runs,), name="engine", daemon=True).start()
    tls = (tls_cert, tls_key) if tls_cert else None
    try:
        serve(runs, host or ("0.0.0.0" if exposed else "127.0.0.1"), port, exposed=exposed, tls=tls, **more)
    except StudioError as error:
        raise click.ClickException(str(error)) from error


def _start_engine(root: str) -> None:
    """An engine in a process of its own; the page is there before its model is."""
    from lab.client import EngineError, start_detached

    try:
        start_detached(root, [sys.executable, "-m", "lab", "engine", "--runs", root])
    except EngineError as error:
        click.echo(f"No engine: {error}", err=True)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    main()
