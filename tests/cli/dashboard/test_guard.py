"""The dashboard in a browser: who may see it, how many at once, what they may do. A real server and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from ensemw2s.cli.dashboard.app import guard as guards
from ensemw2s.cli.dashboard.app.app import Dashboard
from ensemw2s.cli.dashboard.app.guard import MOST_SESSIONS, Guard, cells, is_message

pytest.importorskip("textual_serve")
aiohttp = pytest.importorskip("aiohttp")
web: Any = pytest.importorskip("aiohttp.web")

Simulate = Callable[..., Any]
Desk = Any


@pytest.mark.parametrize(
    ("served", "host", "good"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True), ("127.0.0.1", "localhost:8000", True),
        ("localhost", "127.0.0.1:8000", True),
        ("127.0.0.1", "LocalHost:8000", True), ("::1", "[::1]:8000", True), ("127.0.0.1", "[::1]:8000", True),
        ("mybox", "mybox:8000", True), ("mybox", "MyBox:8000", True), ("192.168.1.5", "192.168.1.5:8000", True),
        ("0.0.0.0", "192.168.1.5:8000", True), ("0.0.0.0", "localhost:8000", True), ("::", "[fe80::1]:8000", True),
        ("127.0.0.1", "evil.com:8000", False), ("127.0.0.1", "evil.com", False), ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1:8001", False), ("127.0.0.1", "127.0.0.1:80000", False), ("127.0.0.1", "", False),
        ("127.0.0.1", "127.0.0.1.evil.com:8000", False), ("127.0.0.1", "evil.com:8000:8000", False),
        ("127.0.0.1", "127.0.0.1:8000@evil.com", False), ("127.0.0.1", "evil.com@127.0.0.1:8000", False),
        ("0.0.0.0", "evil.com:8000", False), ("0.0.0.0", "1.2.3.4.evil.com:8000", False), ("::", "[evil]:8000", False),
        ("127.0.0.1", "0.0.0.0:8000", False), ("127.0.0.1", "2130706433:8000", False),
        ("127.0.0.1", "127.1:8000", False),
        ("mybox", "localhost:8000", False), ("192.168.1.5", "127.0.0.1:8000", False),
    ],
)  # fmt: skip
def test_hosts(served: str, host: str, good: bool) -> None:
    assert (Guard(served, 8000).refusal({"Host": host}) is None) is good


def test_the_port_of_the_web_may_be_left_out() -> None:
    for host in ("127.0.0.1", "127.0.0.1:80", "[::1]"):
        assert Guard("127.0.0.1", 80).refusal({"Host": host}) is None


@given(st.text(max_size=30))
def test_no_other_name_is_this_server(host: str) -> None:
    if host.lower() not in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "::1:8000"):
        assert Guard("127.0.0.1", 8000).refusal({"Host": host}) is not None


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"Origin": "http://127.0.0.1:8000"}, True), ({}, True), ({"Origin": "http://localhost:8000"}, False),
        ({"Origin": "null"}, False), ({"Origin": ""}, False), ({"Origin": "https://127.0.0.1:8000"}, False),
        ({"Origin": "http://127.0.0.1"}, False), ({"Origin": "http://127.0.0.1:8001"}, False),
        ({"Origin": "http://127.0.0.1:8000.evil.com"}, False), ({"Origin": "http://evil.com"}, False),
        ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "websocket"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),  # a click on the printed address
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
    ],
)  # fmt: skip
def test_origins(headers: dict[str, str], good: bool) -> None:
    assert (Guard("127.0.0.1", 8000).refusal({"Host": "127.0.0.1:8000", **headers}) is None) is good


def test_the_token_is_good_once_and_the_cookie_stays() -> None:
    guard = Guard("127.0.0.1", 8000)
    token = guard.token
    assert token is not None
    assert guard.address == f"http://127.0.0.1:8000/?token={token}"
    assert Guard("0.0.0.0", 1).address.startswith("http://127.0.0.1:1/")
    assert Guard("::1", 1).address.startswith("http://[::1]:1/")
    for wrong in (None, "", token[:-1], token + "x", "é", "\ud800", guard.session):
        assert not guard.redeem(wrong)
    assert guard.redeem(token)
    assert not guard.redeem(token)
    assert not guard.redeem(None)
    for cookies in ({}, {guard.cookie: token}, {guard.cookie: ""}, {"ew2s": guard.session}):
        assert not guard.knows(cookies)
    assert guard.knows({guard.cookie: guard.session})
    assert Guard("127.0.0.1", 8000).session != guard.session


def test_sizes() -> None:
    assert all(map(cells, (None, "80", "1000", "1")))
    assert not any(map(cells, ("0", "1001", "99999999999", "-1", "", "1e3", "²", "８０")))


@pytest.mark.parametrize(
    "text",
    ['["stdin", "q"]', '["resize", {"width": 80, "height": 24}]', '["ping", "17"]', '["focus"]', '["blur"]'],
)
def test_messages_of_a_browser(text: str) -> None:
    assert is_message(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "1", '"resize"', "[" * 5000, '["stdin"]', '["stdin", 1]', '["stdin", "\\ud800"]', '["quit"]',
        '["resize"]', '["resize", {}]', '["resize", {"width": 99999999, "height": 24}]', '["ping", "1", "2"]',
        '["resize", {"width": 80, "height": -1}]', '["resize", {"width": 80, "height": 1e9}]',
        '["resize", {"width": true, "height": 24}]', '["resize", {"width": 80, "width": 80, "height": 24}]',
        '["resize", "8024"]', '[["stdin"], "q"]', '[null, null]', '["resize", {"width": ' + "9" * 5000 + "}]",
    ],
)  # fmt: skip
def test_what_is_no_message_of_a_browser(text: str) -> None:
    assert not is_message(text)


class Served:
    """A server in a process of its own, with clients."""

    def __init__(self, process: subprocess.Popen[str], port: int, address: str) -> None:
        self.process, self.port, self.address = process, port, address
        self.base = f"http://127.0.0.1:{port}"

    def children(self) -> int:
        """Processes that draw."""
        import psutil

        found = psutil.Process(self.process.pid).children(recursive=True)
        return sum("ensemw2s" in " ".join(_command(child)) and "sh" not in child.name() for child in found)

    def play(self, script: Callable[[Any], Awaitable[None]]) -> None:
        """With a browser's session that has opened the address."""

        async def main() -> None:
            jar = aiohttp.CookieJar(unsafe=True)  # cookies of an IP address
            async with aiohttp.ClientSession(cookie_jar=jar) as session:
                async with session.get(self.address) as answer:
                    assert answer.status == 200
                    assert str(answer.url) == f"{self.base}/"
                await script(session)

        asyncio.run(main())


def _command(process: Any) -> list[str]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


@pytest.fixture
def serve(recorded: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers of a recorded run."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Served:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "ensemw2s", "dashboard", str(recorded), "--web", "--port", str(port), *options]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        return Served(process, port, found[0])

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


async def drawn(socket: Any, what: bytes) -> None:
    """Wait until a screen shows something."""
    seen = b""
    while what not in seen:
        message = await asyncio.wait_for(socket.receive(), 60.0)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        seen += message.data if isinstance(message.data, bytes) else b""


async def refused_to_strangers(served: Served, paths: Sequence[str]) -> None:
    """Without a cookie, from other hosts and from other pages."""
    async with aiohttp.ClientSession() as session:
        for path in paths:
            async with session.get(served.base + path) as answer:
                assert answer.status == 403, path
                assert "Set-Cookie" not in answer.headers
        for header in ({"Host": "evil.com"}, {"Host": f"evil.com:{served.port}"}, {"Origin": "http://evil.com"}):
            for path in (*paths, served.address.removeprefix(served.base)):  # it does not use the token up
                async with session.get(served.base + path, headers=header) as answer:
                    assert answer.status == 403, path


async def refused_with_the_cookie(served: Served, session: Any) -> None:
    """From other hosts and pages, and with sizes that no screen has."""
    for headers in ({"Host": f"evil.com:{served.port}"}, {"Origin": "http://evil.com"}, {"Origin": "null"}):
        for path in ("/", "/static/js/textual.js"):
            async with session.get(served.base + path, headers=headers) as answer:
                assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(served.base + "/ws", headers=headers)
        assert refused.value.status == 403
    for size in ("width=99999999&height=24", "width=80&height=-1"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{served.base}/ws?{size}")
        assert refused.value.status == 400


def test_only_the_browser_that_was_told(serve: Callable[..., Served]) -> None:
    served = serve()
    assert served.address.startswith(served.base + "/?token=")
    paths = ("/", "/ws", "/static/js/textual.js", "/static/", "/download/x", "/nothing", "/?token=wrong", "/ws?token=")
    asyncio.run(refused_to_strangers(served, paths))

    async def browser(session: Any) -> None:
        async with session.get(served.base + "/") as answer:
            text = await answer.text()
            assert answer.status == 200
            assert f"ws://127.0.0.1:{served.port}/ws" in text
            assert "token" not in text
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Referrer-Policy"] == "no-referrer"
        async with session.get(served.base + "/static/js/textual.js") as answer:
            assert answer.status == 200
        await refused_with_the_cookie(served, session)
        assert served.children() == 0
        cookie = next(iter(session.cookie_jar))
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"

    served.play(browser)

    async def late() -> None:
        async with aiohttp.ClientSession() as session, session.get(served.address) as answer:
            assert answer.status == 403  # the token is used up

    asyncio.run(late())


def test_a_screen_without_saving(serve: Callable[..., Served]) -> None:
    served = serve()

    async def browser(session: Any) -> None:
        async with session.ws_connect(served.base + "/ws?width=120&height=40", origin=served.base) as socket:
            await drawn(socket, b"Overview")
            assert served.children() == 1
            for key in ("s", "e", "2"):
                await socket.send_json(["stdin", key])
            await drawn(socket, b"Concentration of D")
        end = time.monotonic() + 20.0
        while served.children():
            assert time.monotonic() < end, "the dashboard stays when its tab is closed"
            await asyncio.sleep(0.05)

    served.play(browser)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_a_screen_with_saving(serve: Callable[..., Served]) -> None:
    served = serve("--allow-save")

    async def browser(session: Any) -> None:
        async with session.ws_connect(served.base + "/ws?width=120&height=40", origin=served.base) as socket:
            await drawn(socket, b"Overview")
            await socket.send_json(["stdin", "s"])
            await drawn(socket, b"Saved")

    served.play(browser)
    assert [path.suffix for path in Path.cwd().iterdir()] == [".svg"]


class LastingSockets:
    """A server whose sockets last until they are closed."""

    async def _make_app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get("/ws", self.handle_websocket)])
        return app

    async def on_shutdown(self, app: web.Application) -> None:
        raise NotImplementedError

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        found = web.WebSocketResponse()
        await found.prepare(request)
        try:
            await self._process_messages(found, None)
        except asyncio.CancelledError:
            await found.close()
        return found

    async def _process_messages(self, websocket: Any, app_service: Any) -> None:
        async for message in websocket:
            await websocket.send_json(["heard", message.data])


def test_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a base whose sockets last until they are closed: real dashboards would take the machine."""
    from aiohttp.test_utils import TestClient, TestServer

    from ensemw2s.cli.dashboard.app.web import guarded

    monkeypatch.setattr(guards, "MOST_SESSIONS", 3)
    assert MOST_SESSIONS == 8

    async def main() -> None:
        guard = Guard("127.0.0.1", 0)
        server = guarded(LastingSockets, guard)()
        made = await server._make_app()
        running = TestServer(made)
        await running.start_server()
        guard.port = running.port or 0
        cookies = {guard.cookie: guard.session}
        async with TestClient(running, cookies=cookies) as client:
            sockets = [await client.ws_connect("/ws") for _ in range(3)]
            for _ in range(20):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.ws_connect("/ws")
                assert refused.value.status == 503
            assert guard.open == 3
            await sockets.pop().close()
            while guard.open == 3:
                await asyncio.sleep(0.001)
            sockets.append(await client.ws_connect("/ws"))
            for text in ('["resize", {"width": 99999999, "height": 9}]', "[", '["stdin", "q"]'):
                await sockets[0].send_str(text)
            assert await sockets[0].receive_json() == ["heard", '["stdin", "q"]']
            await server.on_shutdown(made)  # browsers that are connected do not hold it up
            for socket in sockets:
                message = await asyncio.wait_for(socket.receive(), 10.0)
                assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

    asyncio.run(main())


def test_keys_that_write_are_off(simulate: Simulate, desk: Desk) -> None:
    folder = simulate(rounds=2).whole().folder

    async def script(app: Dashboard, pilot: Pilot[str]) -> None:
        await pilot.press("s", "e", "2", "s", "e")
        app.action_picture()
        app.action_csv()
        await pilot.press("question_mark")
        shown = desk.lines(app, "help")
        assert "CSV" not in shown
        assert "log axis" in shown
        assert not {"picture", "csv"} & {action for _, _, action in app._keys()}
        assert not {"Save picture", "Export CSV"} & {command.title for command in app.get_system_commands(app.screen)}

    app = desk.play(folder, script, saves=False)
    assert app.saved == []
    assert list(Path.cwd().iterdir()) == []
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
