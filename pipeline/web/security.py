"""Protection of browsers and local servers: response headers, and checks of the host and the origin of requests."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.web.uploads import discard

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Middleware: adds security headers to each response, and refuses requests for other hosts or from other sites.

    Otherwise a page of another site could make a visitor's browser send images to a server on the visitor's own
    machine, or read its responses through a host name that resolves to it.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        app = self._app
        if "content-length" in headers and "transfer-encoding" in headers:
            app = _refusal(400, "a request with both Content-Length and Transfer-Encoding is refused")
        elif reason := self._reason(scope["method"], headers):
            await discard(Request(scope, receive), 2 * self._max_bytes)
            app = _refusal(403, reason)
        await app(scope, receive, send_with_headers)

    def _reason(self, method: str, headers: Headers) -> str | None:
        """Why the request is not from this server's page, a program or a link; None if it is."""
        if self._hosts is not None and without_port(headers.get("host", "")) not in self._hosts:
            return "requests for this host are refused; see --allow-host"
        link = headers.get("sec-fetch-mode") == "navigate" and method in {"GET", "HEAD"}
        if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not link:
            return "requests from pages of other sites are refused"
        if "sec-fetch-site" not in headers and "origin" in headers:  # an older browser, or a server without TLS
            origin = headers["origin"].partition("://")[2].lower()  # empty for `null`
            if origin != headers.get("host", "").strip().lower():
                return "requests from pages of other sites are refused"
        return None


def _refusal(status: int, reason: str) -> ASGIApp:
    """A response that ends the connection: the rest of its body could be read as another request."""
    return JSONResponse({"error": reason}, status, {"Connection": "close"})


def without_port(value: str) -> str:
    """The name in a Host header, without port and brackets; an IPv6 address may lack the brackets."""
    value = value.strip().lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value if value.count(":") > 1 else value.partition(":")[0]
