"""`captioner serve`: the web page and the HTTP interface."""

import errno
import signal
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.runtime import DeviceOption, ModelOption, RuntimeOption, load_captioner
from pipeline.commands.terminal import say
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI


def serve(
    model: ModelOption = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Additional host name to accept requests for, for example a proxy's.")
    ] = None,
    max_megabytes: Annotated[
        int, typer.Option(min=1, help="Largest image file, in MB; larger ones get HTTP 413.")
    ] = 20,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Maximum number of concurrent requests; more get HTTP 503.")
    ] = 64,
) -> None:
    """Serve a web page and an HTTP interface that caption images."""
    try:
        import uvicorn  # noqa: F401

        from pipeline.web.app import make_app
        from pipeline.web.security import LOOPBACK, without_port
        from pipeline.web.uploads import Limits
    except ModuleNotFoundError as error:
        raise ParamsError(
            f"captioner serve needs {error.name}; run `pip install -e '.[serve]'` in the checkout"
        ) from error
    listening = _listen(host, port)
    all_networks = host in {"0.0.0.0", "::"}
    hosts = None if all_networks and not allow_host else {*LOOPBACK, host, *map(without_port, allow_host or ())}
    limits = Limits(max_bytes=max_megabytes * 1_000_000, max_requests=max_requests)
    app = make_app(load_captioner(model, runtime, device), limits=limits, hosts=hosts)
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    say(f"serve: http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}/  (stop with Ctrl-C)")
    if host not in LOOPBACK:
        say("warning: anyone who can reach this address can use the server; it has no password")
    _run(make_server(app), listening)


def make_server(app: "FastAPI") -> "uvicorn.Server":
    """The HTTP server for `app`, the same whichever optional parts of uvicorn are installed."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    advice = "give an address of this computer, such as 127.0.0.1, or 0.0.0.0 for all networks"
    if not host:  # an unset variable of a shell, not all networks
        raise ParamsError(f"--host: empty; {advice}")
    try:
        host.encode("idna")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except UnicodeError as error:
        raise ParamsError(f"--host {host}: cannot listen: not a host name; {advice}") from error
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            raise ParamsError(f"--host {host} --port {port}: cannot listen: {error.strerror}; try --port 0") from error
        raise ParamsError(f"--host {host}: cannot listen: {error.strerror}; {advice}") from error


def _run(server: "uvicorn.Server", listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which is the normal end. uvicorn handles the signals and raises them again when
    it is done, where they must be ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listening])
