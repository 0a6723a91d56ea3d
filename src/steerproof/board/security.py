"""Who may talk to the board: exact hosts and origins, and headers on every response.

Loopback alone is no protection: a web page can point a name of its own at 127.0.0.1 (DNS
rebinding) or send forms across sites. So the Host must be one of ours, a browser must say that the
request comes from our own page, and no page may frame us, whatever the answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerproof.errors import SteerproofError

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: browsers then send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_METHODS = ("GET", "HEAD", "POST")
_WILDCARDS = ("", "0.0.0.0", "::", "*")
_LONGEST_TARGET = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The exact `Host` and `Origin` values that are answered."""

    hosts: frozenset[str]
    """`127.0.0.1:8765`."""
    origins: frozenset[str]
    """`http://127.0.0.1:8765`."""


def is_loopback(host: str) -> bool:
    """Whether a bind address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_for(host: str, port: int, names: Iterable[str] = ()) -> Allowed:
    """What is answered when listening on `host`.

    Args:
        host: Bind address.
        port: Bind port.
        names: Further `name` or `name:port` values of Host, for a bind beyond loopback.

    Raises:
        SteerproofError: A wildcard bind without names: any Host would have to be believed.
    """
    given = list(names)
    if host in _WILDCARDS and not given:
        raise SteerproofError(
            f"listening on {host or 'every address'} needs the names under which the board is "
            "reached, such as --name lab.example.org"
        )
    own = [] if host in _WILDCARDS else [host]
    if is_loopback(host):
        own = ["127.0.0.1", "localhost", "::1"]
    hosts = {_with_port(name, port) for name in [*own, *given]}
    hosts |= {name.rsplit(":", 1)[0] for name in hosts if name.endswith(":80")}
    return Allowed(
        hosts=frozenset(hosts),
        origins=frozenset(
            f"{scheme}://{name}" for name in hosts for scheme in _schemes(name, given)
        ),
    )


def guard(app: ASGIApp, allowed: Allowed) -> ASGIApp:
    """Wrap an application: refuse what is not ours, and put `HEADERS` on every response."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = refuse(scope, allowed)
        answer = app if refusal is None else refusal
        await answer(scope, receive, _with_headers(send))

    return guarded


def refuse(scope: Scope, allowed: Allowed) -> Response | None:
    """The refusal that a request deserves, or none.

    GET and HEAD never change anything; they are still refused across sites, so that no other page
    can use a lab's results. POST needs our own Origin.
    """
    hosts = _header(scope, b"host")
    if len(hosts) != 1 or hosts[0].lower() not in allowed.hosts:
        return _page(421, "This address is not served here.")
    method = scope["method"]
    if method not in _METHODS:
        return _page(405, f"Method {method} is not used here.", {"allow": ", ".join(_METHODS)})
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _LONGEST_TARGET:
        return _page(414, "The address is too long.")
    origins = _header(scope, b"origin")
    if len(origins) > 1 or any(origin not in allowed.origins for origin in origins):
        return _page(403, "The request comes from another page.")
    if method == "POST" and not origins:
        return _page(403, "A change needs to say where it comes from.")
    sites = _header(scope, b"sec-fetch-site")
    if len(sites) > 1 or any(site not in ("same-origin", "none") for site in sites):
        return _page(403, "The request comes from another site. Open the board by its own address.")
    if method == "POST" and "none" in sites:
        return _page(403, "A change must come from a page of the board.")
    return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(k, v) for k, v in message.get("headers", []) if k.lower() not in _OURS]
            headers += [(k.encode(), v.encode()) for k, v in HEADERS.items()]
            if not any(k == b"cache-control" for k, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await send(message)

    return sending


_OURS = {name.encode() for name in HEADERS}


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _page(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    # Fixed words only: nothing of the request comes back in a refusal.
    html = (
        '<!doctype html><html lang="en"><title>Refused</title>'
        f'<h1>Refused</h1><p>{text}</p><p><a href="/">Open the board</a></p>'
    )
    return HTMLResponse(html, status_code=status, headers=headers)


def _with_port(name: str, port: int) -> str:
    if ":" in name and not name.startswith("["):
        try:
            return f"[{ip_address(name)}]:{port}"
        except ValueError:
            return name.lower()  # already name:port
    return f"{name.lower()}:{port}"


def _schemes(name: str, given: list[str]) -> tuple[str, ...]:
    """A name that was given may be behind a proxy that speaks https."""
    bare = name.rsplit(":", 1)[0]
    return ("http", "https") if name in given or bare in given else ("http",)
