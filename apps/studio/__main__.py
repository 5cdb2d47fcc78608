"""`python -m apps.studio`: serves the Studio over a folder of runs."""

from __future__ import annotations

import click


@click.command()
@click.option("--runs", default="runs", show_default=True, help="the folder that holds the runs")
@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on")
@click.option("--port", default=7860, show_default=True, help="the port to listen on")
def main(runs: str, host: str, port: int) -> None:
    """Serves the Studio: sample from the models, watch runs and steer them."""
    from apps.studio.app import StudioError, serve

    try:
        serve(runs, host, port)
    except StudioError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
