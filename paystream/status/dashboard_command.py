"""``paystream dashboard``."""

from typing import Annotated

import typer

from paystream.output import console, is_terminal, print_fields
from paystream.settings import load_settings
from paystream.status.dashboard import routes
from paystream.status.server import kept_status, serve

PORT = 9471


def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="The address to listen on; the default is this machine alone.")
    ] = "127.0.0.1",
) -> None:
    """Serve what `paystream status` says as a web page that updates itself, until Ctrl-C.

    Needs nothing from the internet. The same as JSON is at /status.json.

    Example: paystream dashboard --port 9471
    """

    def ready(address: str) -> None:
        if is_terminal():
            console.print(f"The page is at {address}/. Stop with Ctrl-C.", highlight=False)
        else:
            print_fields("dashboard", {"address": f"{address}/"})

    serve(host, port, routes(kept_status(load_settings())), ready)
