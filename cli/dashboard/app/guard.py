"""Access control of the web dashboard: token, cookie, Host and Origin checks.

Any page that is open in a browser can send requests to this machine, and with a name that it makes resolve to this
machine (DNS rebinding) read the answers. So a request has to name this server as its host, must not come from a page of
another one, and needs the secret that the printed address holds.
"""

from __future__ import annotations

import ipaddress
import platform
import secrets
from collections.abc import Mapping

from ensemw2s.files import parse_json

#: Dashboards at once: each is a process.
MOST_SESSIONS = 8
#: Columns and lines that a browser may ask for.
MOST_CELLS = 1000

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})

#: Nothing is loaded from elsewhere, shown in another page, or told to one.
HEADERS = {
    "Content-Security-Policy": "style-src 'self' 'unsafe-inline'; font-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Decides about requests to the address that is served, and counts dashboards.

    Attributes:
        token: of the printed address; good once.
        session: value of the cookie that it is exchanged for.
        open: dashboards that are shown.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host.lower(), port
        self.token: str | None = secrets.token_urlsafe(32)
        self.session = secrets.token_urlsafe(32)
        self.open = 0

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers keep cookies of all ports of a host together."""
        return f"ew2s-{self.port}"

    @property
    def address(self) -> str:
        """Address for a browser; valid once."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"

    @property
    def only_here(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in _LOOPBACK

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused whoever sends it; None where it names this server and comes from its own page.

        Args:
            headers: of the request, with names of any case.
        """
        host = headers.get("Host", "")
        if not self._is_here(host):
            return "This server does not serve that host."
        origin = headers.get("Origin")
        if origin is None:  # browsers leave it out where nothing is sent, and may say this instead
            elsewhere = headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
            foreign = elsewhere and headers.get("Sec-Fetch-Mode") != "navigate"
        else:
            foreign = origin.lower() != f"http://{host.lower()}"
        return "Requests from pages of other servers are refused." if foreign else None

    def _is_here(self, host: str) -> bool:
        """Whether the header ``Host`` names this server."""
        name, colon, port = host.lower().rpartition(":")
        if host.endswith("]") or not colon:
            name, port = host.lower(), "80"
        if port != str(self.port):
            return False
        name = name.removeprefix("[").removesuffix("]")
        if self.host in _EVERYWHERE:  # a name that another page made resolve to here is no address
            return name in ("localhost", platform.node().lower()) or _is_address(name)
        return name == self.host or (self.host in _LOOPBACK and name in _LOOPBACK)

    def knows(self, cookies: Mapping[str, str]) -> bool:
        """Whether a request has the session's cookie."""
        return _same(cookies.get(self.cookie), self.session)

    def redeem(self, token: str | None) -> bool:
        """Whether ``token`` is the printed address's; it is used up then."""
        if self.token is None or not _same(token, self.token):
            return False
        self.token = None
        return True

    def enter(self) -> bool:
        """Count one more dashboard; False where there are enough."""
        if self.open >= MOST_SESSIONS:
            return False
        self.open += 1
        return True

    def leave(self) -> None:
        """One dashboard is gone."""
        self.open -= 1


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str | None, secret: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def cells(text: str | None) -> bool:
    """Whether a width or height that a browser asks for is one."""
    return text is None or (text.isascii() and text.isdecimal() and len(text) < 5 and 0 < int(text) <= MOST_CELLS)


def is_message(text: str) -> bool:
    """Whether a browser's message is one that a screen understands: keys, a size, a ping, or the focus."""
    try:
        found = parse_json(text)
        what, value = found if len(found) == 2 else (*found, None)
        if what == "resize":
            return all(type(value[name]) is int and cells(str(value[name])) for name in ("width", "height"))
        return what in ("blur", "focus") or (what in ("stdin", "ping") and bool(value.encode()))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
