"""`captioner serve`: the page and the interface for programs, on this machine."""

import signal
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.runtime import DeviceOption, ModelOption, Runtime, RuntimeOption, load
from pipeline.commands.terminal import say
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    import uvicorn


def serve(
    model: ModelOption = None,
    runtime: RuntimeOption = Runtime.torch,
    device: DeviceOption = "auto",
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name by which the server may be called (behind a proxy).")
    ] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest picture file.")] = 20,
    max_requests: Annotated[int, typer.Option(min=1, help="Pictures in the house; more are asked to wait.")] = 64,
) -> None:
    """Caption pictures in the browser, and over HTTP for programs."""
    try:
        import uvicorn

        from pipeline.web.app import Limits, make_app
        from pipeline.web.security import LOOPBACK
    except ModuleNotFoundError as error:
        raise ParamsError(
            f"captioner serve needs {error.name}, which is in an extra: pip install 'captioner[serve]'"
        ) from error
    listening = _listen(host, port)
    everywhere = host in {"0.0.0.0", "::"}
    hosts = None if everywhere and not allow_host else {*LOOPBACK, host, *(allow_host or ())}
    limits = Limits(max_bytes=max_megabytes * 1_000_000, max_requests=max_requests)
    app = make_app(load(model, runtime, device), limits=limits, hosts=hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    shown = "127.0.0.1" if everywhere else host
    say(f"serve: http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
    if host not in LOOPBACK:
        say("warning: whoever can reach this address can use it; there is no password")
    _run(uvicorn.Server(config), listening)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ParamsError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror}; try --port 0"
        ) from error


def _run(server: "uvicorn.Server", listening: socket.socket) -> None:
    """Until it is asked to end, which is how a server ends well; uvicorn raises the signal again when it is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listening])
