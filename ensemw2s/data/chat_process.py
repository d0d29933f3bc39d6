"""Chat templates rendered in a subprocess with limits of time and memory: a model's template is untrusted code.

``python -m ensemw2s.data.chat_process`` reads JSON objects with :class:`Order`'s fields from standard input, one a
line, and answers each with ``texts`` or ``error``. ``transformers`` renders, with the clock standing still.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ensemw2s.errors import ModelError

#: Limits: seconds for a process to start and for every prompt; bytes of memory above its size after the start.
_START, _EACH, _MEMORY = 20.0, 0.01, 2**30
#: Limits: characters of one process's prompts; of a rendered prompt, beside so many times its own length.
_AT_ONCE, _LONGEST, _TIMES = 16 * 2**20, 2**20, 100


@dataclass(frozen=True)
class Order:
    """A request for rendering.

    Attributes:
        template: the Jinja text of the chat template.
        variables: what it may use besides the turns: the tokenizer's special tokens.
        chats: the turns of each chat, as ``role`` and ``content``.
        date: what its clock says, in ISO form.
    """

    template: str
    variables: dict[str, Any]
    chats: list[list[dict[str, str]]]
    date: str


class _UnfitError(Exception):
    """A template does what none may."""


def render_chats(
    template: str, variables: dict[str, Any], chats: Sequence[list[dict[str, str]]], date: str
) -> list[str]:
    """The text of every chat (see :class:`Order`), up to where the assistant's answer begins.

    Raises:
        ModelError: the template is wrong, or takes more time or memory than a template needs.
    """
    texts: list[str] = []
    for part in _parts(chats):
        texts += _render(Order(template, variables, part, date))
    return texts


def _parts(chats: Sequence[list[dict[str, str]]]) -> Iterator[list[list[dict[str, str]]]]:
    """Chats for one process each."""
    part: list[list[dict[str, str]]] = []
    size = 0
    for chat in chats:
        part.append(chat)
        size += sum(len(turn["content"]) for turn in chat)
        if size >= _AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


class _Process:
    """A process that renders, one order after the other."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ensemw2s.data.chat_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.end)

    @property
    def alive(self) -> bool:
        """Whether it takes orders; a fork of the process that began it has no part in it."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, order: Order) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            ModelError: nothing, within its time.
        """
        seconds = _START + _EACH * len(order.chats)
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        line = b""
        try:
            if self.process.stdin is not None and self.process.stdout is not None:
                self.process.stdin.write(json.dumps({**asdict(order), "seconds": int(seconds) + 1}).encode() + b"\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
        except OSError:  # it has ended
            pass
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line)
            return found
        self.end()
        how = f"after {seconds:.0f} seconds" if late.is_set() else f"with exit code {self.process.returncode}"
        raise ModelError(
            f"The chat template was stopped {how}: it does not end, or takes far more than a template needs.",
            hint="Set data.template.chat: false, or use a model whose template you trust.",
        )

    def end(self) -> None:
        """Stop it."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()


_kept: list[_Process] = []
_turn = threading.Lock()


def _render(order: Order) -> list[str]:
    with _turn:
        if not _kept or not _kept[0].alive:
            _kept[:] = [_Process()]
        answer = _kept[0].ask(order)
        if "texts" in answer:
            return [str(text) for text in answer["texts"]]
        if answer.get("full"):
            _kept.pop().end()
    raise ModelError(f"The chat template cannot be applied: {answer.get('error')}")


def _limit_time(seconds: int) -> None:
    """Bound the time that this process takes from now, should whoever began it be gone."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds, most))


def _limit_memory() -> None:
    """Bound this process's memory, where the system has such a limit."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - no import more than needed
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))


def _stop_the_clock(template: str, date: str) -> None:
    """Let transformers' ``strftime_now`` say the date that was given.

    Raises:
        RuntimeError: this version of transformers has another clock.
    """
    from transformers.utils import chat_template_utils

    now = datetime.fromisoformat(date)

    class Standing(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return now

    chat_template_utils.datetime = Standing
    form = "%Y-%m-%dT%H:%M:%S"
    probe = _text("{{ strftime_now('" + form + "') }}", {}, [{"role": "user", "content": ""}])
    if "strftime" in template and probe != now.strftime(form):
        raise RuntimeError("this version of transformers has a clock that cannot be fixed")


def _text(template: str, variables: dict[str, Any], chat: list[dict[str, str]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    random.seed(0)  # templates have access to random choices
    rendered, _ = render_jinja_template([chat], chat_template=template, add_generation_prompt=True, **variables)
    text: str = rendered[0]
    text.encode()  # a lone surrogate raises
    most = _LONGEST + _TIMES * sum(len(turn["content"]) for turn in chat)
    if len(text) > most:
        raise _UnfitError(f"it writes {len(text)} characters for one prompt")
    return text


def _says_everything(order: Order) -> None:
    """Find out that no turn is left out, as templates for pictures do with plain text, and some with system messages.

    Raises:
        _UnfitError: one is.
    """
    chat = [{**turn, "content": f"Said{turn['role']}7"} for turn in order.chats[0]]
    text = _text(order.template, order.variables, chat)
    for turn in chat:
        if turn["content"] not in text:
            raise _UnfitError(f"it leaves out what the {turn['role']} says")


def _answer(line: bytes) -> str:
    try:
        fields = json.loads(line)
        _limit_time(fields.pop("seconds"))
        order = Order(**fields)
        _stop_the_clock(order.template, order.date)
        _says_everything(order)
        return json.dumps({"texts": [_text(order.template, order.variables, chat) for chat in order.chats]})
    except Exception as error:
        full = isinstance(error, MemoryError)
        why = str(error) if isinstance(error, _UnfitError) else f"{type(error).__name__}: {error}"
        why = "it needs too much memory" if full else why
        return json.dumps({"error": why[:500], "full": full})


def main() -> None:
    """Answer the orders on standard input until it ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout is for answers alone
    with contextlib.suppress(ImportError):  # the first order reports it
        from transformers.utils import chat_template_utils  # noqa: F401 - before memory is limited
    _limit_memory()
    for line in sys.stdin.buffer:
        out.write(_answer(line) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
