"""The dashboard in a browser, through ``textual-serve``."""

from __future__ import annotations

import asyncio
import importlib
import os
import select
import shlex
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from ensemw2s.cli.dashboard.app.guard import HEADERS, MOST_SESSIONS, Guard, cells, is_message
from ensemw2s.cli.terminal import terminal
from ensemw2s.errors import InputError

#: Seconds between two looks whether the server's process is still there.
_LOOK_EVERY = 1.0
_ASK = "Open the address that ew2s dashboard --web printed. It is good once; start it again for another browser."


def serve_command(run: str | None, *, replay: bool, speed: float, light: bool, allow_save: bool) -> str:
    """The command line that is run for every browser."""
    words = [sys.executable, "-m", "ensemw2s", "dashboard"]
    words += ["--replay", "--speed", f"{speed:g}"] if replay else []
    words += ["--light"] if light else []
    words += ["--allow-save"] if allow_save else []
    words += ["--", run] if run is not None else []
    return shlex.join(words)


def serve(
    run: str | None, *, host: str, port: int, replay: bool, speed: float, light: bool, allow_save: bool = False
) -> None:
    """Serve until interrupted.

    Raises:
        InputError: ``textual-serve`` is not installed, or the address cannot be used.
    """
    try:
        module: Any = importlib.import_module("textual_serve.server")
    except ImportError as error:
        raise InputError(
            "The dashboard in a browser needs the package textual-serve.",
            hint="Install it with: pip install textual-serve",
        ) from error
    guard = Guard(host, port)
    if not guard.only_here:
        terminal.warn(f"{host}:{port} is not encrypted: who listens on the network sees the run and the address.")
    command = serve_command(run, replay=replay, speed=speed, light=light, allow_save=allow_save)
    try:
        guarded(module.Server, guard)(command, host=host, port=port, title="EnsemW2S").serve()
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be used: {error.strerror or error}.", hint="Choose another --port."
        ) from error


class _Guarded:
    """Mixed into ``textual-serve``'s server: lets a guard decide about requests.

    It ends when it is told to (the base would wait a minute for browsers that are connected), logs no request, and
    answers under the name by which a browser knows it.
    """

    guard: Guard

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._web: Any = importlib.import_module("aiohttp.web")
        self._shown: set[asyncio.Task[Any]] = set()

    def serve(self, debug: bool = False) -> None:
        """Serve until interrupted; requests are not logged, their addresses hold the token."""
        base: Any = self
        self._web.run_app(self._make_app(), host=base.host, port=base.port, access_log=None, print=self._tell)

    def _tell(self, *_: object) -> None:
        """Say where it is, once that can be opened."""
        terminal.out(f"Open in a browser (good once): {self.guard.address}")
        terminal.say("Ctrl-C ends it.")

    async def _make_app(self) -> Any:
        base: Any = super()
        app = await base._make_app()

        async def check(request: Any, handler: Any) -> Any:
            return await self._check(request, handler)

        app.middlewares.append(self._web.middleware(check))
        app.on_response_prepare.append(self._add_headers)
        return app

    async def _check(self, request: Any, handler: Any) -> Any:
        guard, response = self.guard, self._web.Response
        reason = guard.refusal(request.headers)
        if reason is not None:
            return response(status=403, text=reason, headers=HEADERS)
        if guard.redeem(request.query.get("token")):
            found = response(status=303, headers={**HEADERS, "Location": "/"})
            found.set_cookie(guard.cookie, guard.session, httponly=True, samesite="Lax", path="/")
            return found
        if not guard.knows(request.cookies):
            return response(status=403, text=_ASK, headers=HEADERS)
        if not all(cells(request.query.get(name)) for name in ("width", "height")):
            return response(status=400, text="The size is none of a terminal.", headers=HEADERS)
        return await handler(request)

    async def _add_headers(self, request: Any, response: Any) -> None:
        response.headers.update(HEADERS)

    async def on_startup(self, app: Any) -> None:
        """Nothing to say yet."""

    async def on_shutdown(self, app: Any) -> None:
        """End what is shown."""
        for task in self._shown:
            task.cancel()

    async def handle_index(self, request: Any) -> Any:
        """The page, with addresses under the name that the browser used."""
        self.public_url = f"http://{request.host}"
        base: Any = super()
        return await base.handle_index(request)

    async def handle_websocket(self, request: Any) -> Any:
        """Show the dashboard to a browser."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is handled outside of a task")
        if not self.guard.enter():
            return self._web.Response(status=503, text=f"There are {MOST_SESSIONS} dashboards already.")
        self._shown.add(task)
        base: Any = super()
        try:
            return await base.handle_websocket(request)
        finally:
            self._shown.discard(task)
            self.guard.leave()

    async def _process_messages(self, websocket: Any, app_service: Any) -> None:
        base: Any = super()
        await base._process_messages(_Messages(websocket), app_service)


class _Messages:
    """The messages of a browser that are some; others are passed over."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self.send_json = websocket.send_json

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for message in self._websocket:
            if isinstance(message.data, str) and is_message(message.data):
                yield message


def guarded(base: Any, guard: Guard) -> Any:
    """``textual-serve``'s server class behind a guard."""
    return type("Server", (_Guarded, base), {"guard": guard})


def in_browser() -> bool:
    """Whether this process draws for a browser: ``textual-serve`` names the driver for it."""
    return "web_driver" in os.environ.get("TEXTUAL_DRIVER", "")


def end_with_server(stop: Callable[[], None], end: Callable[[int], object] = os._exit) -> threading.Thread:
    """End this process when the server that shows it is gone, however that ended.

    Textual's driver for browsers stops reading then, but goes on drawing for nobody.

    Args:
        stop: called first; gives back what is open.
        end: ends the process; nothing of Textual's own shutdown can be shown any more.
    """

    def watch(parent: int) -> None:
        _wait_for_end(parent)
        try:
            stop()
        finally:
            end(0)

    thread = threading.Thread(target=watch, args=(os.getppid(),), name="dashboard-server-watch", daemon=True)
    thread.start()
    return thread


def _wait_for_end(parent: int) -> None:
    """Return when the other end of stdin or stdout is closed, or the process that started this one is gone."""
    if not hasattr(select, "poll"):
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        return
    pipes = select.poll()
    for descriptor in (0, 1):
        pipes.register(descriptor, 0)  # closed ends are told without being asked for
    while not pipes.poll(1000.0 * _LOOK_EVERY) and os.getppid() == parent:
        pass
