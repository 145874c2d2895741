"""``paystream metrics``."""

from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest

from paystream.output import console, is_terminal, print_fields
from paystream.settings import load_settings
from paystream.status.metrics import StatusCollector
from paystream.status.server import Answer, kept_status, serve

PORT = 9470


def metrics(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="The address to listen on; the default is this machine alone.")
    ] = "127.0.0.1",
) -> None:
    """Serve what `paystream status` says to Prometheus, under /metrics, until Ctrl-C.

    Asks at each scrape, at most every two seconds. What cannot be measured is left out; paystream_up and
    paystream_problem say so. Dashboard and alert rules: monitoring/.

    Example: paystream metrics --port 9470
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(kept_status(load_settings())))

    def ready(address: str) -> None:
        if is_terminal():
            console.print(f"Metrics at {address}/metrics. Stop with Ctrl-C.", highlight=False)
        else:
            print_fields("metrics", {"address": f"{address}/metrics"})

    routes = {"/metrics": lambda: Answer("text/plain; version=0.0.4", generate_latest(registry))}
    serve(host, port, routes, ready)
