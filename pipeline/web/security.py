"""What every answer and every request has to do with browsers: headers, and pages of others that must stay outside."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """Middleware: security headers on each answer; requests for other hosts, and from other sites, are refused.

    A page of another site could otherwise make a visitor's browser send pictures to a server on the visitor's own
    machine, or read its answers through a name that resolves to it.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        answer = JSONResponse({"error": refusal}, 403, {"Connection": "close"}) if refusal else self._app
        await answer(scope, receive, guarded)

    def _refusal(self, headers: Headers) -> str | None:
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            return "this server does not answer for that host; see --allow-host"
        if headers.get("sec-fetch-site", "none") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "requests from pages of other sites are refused"
        origin = headers.get("origin", "").partition("://")[2].lower()  # for browsers that do not say which site asks
        if "sec-fetch-site" not in headers and origin and origin != headers.get("host", "").strip().lower():
            return "requests from pages of other sites are refused"
        return None


def _host(value: str) -> str:
    """The name in a Host header, without port and brackets."""
    value = value.strip().lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0]
