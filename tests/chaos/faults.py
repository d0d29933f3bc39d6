"""The faults: what goes wrong, and what must be true afterwards."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from worker import Ended, Order, Worker, World, leftovers, numbers, snapshot


@dataclass(frozen=True)
class Target:
    """A command that writes, and what it writes."""

    name: str
    command: tuple[str, ...]
    output: str
    kills: int
    """Kills in a full run, and of the other actions in proportion; one of each at least."""


TARGETS = (
    Target("run", ("run", "--config", "choice.yaml", "--out", "run"), "run", 40),
    Target("written", ("run", "--config", "written.yaml", "--out", "written"), "written", 10),
    Target("seeds", ("run", "--config", "choice.yaml", "--seeds", "0,1", "--out", "seeds"), "seeds", 10),
    Target("label", ("label", "-e", "run", "-i", "questions.jsonl", "--output", "labels.jsonl"), "labels.jsonl", 20),
    Target("combine", ("combine", "run", "--out", "combined"), "combined", 5),
    Target("export", ("export", "labels", "run", "exported"), "exported", 5),
    Target(
        "sweep", ("sweep", "--config", "choice.yaml", "--over", "boosting.rounds=1,2", "--out", "sweep"), "sweep", 3
    ),
)
#: What only reads: with damage it must say the same as without, or refuse.
READERS = (
    ("report", "run", "--json"),
    ("evaluate", "run", "--split", "test", "--json"),
    ("score", "run", "few.jsonl"),
)


class LossError(Exception):
    """A loss, a different result without a word, a traceback, a hang, or a write outside."""


@dataclass
class Calm:
    """What a target gives when nothing goes wrong."""

    found: dict[str, object]
    heard: int


class Bench:
    """Worlds in which nothing went wrong, to compare with and to start from.

    Args:
        worker: runs commands.
        folder: scratch space.
        random: decides where faults happen.
    """

    def __init__(self, worker: Worker, folder: Path, dice: random.Random) -> None:
        self.worker, self.folder, self.dice = worker, folder, dice
        self.empty = World(folder / "empty")
        self.finished = World(folder / "finished", self.empty)
        self.calm: dict[str, Calm] = {}
        self.said: dict[tuple[str, ...], str] = {}

    def prepare(self, targets: tuple[Target, ...]) -> None:
        """Run every target without a fault; the first one's world is the finished one."""
        for target in targets:
            world = self.finished if target.name == "run" else World(self.folder / "calm", self.finished)
            ended = self.worker.run(world, Order([target.command]))
            if ended.code != 0:
                raise SystemExit(f"{target.name} fails without a fault: {ended.err[0][-2000:]}")
            self.calm[target.name] = Calm(numbers(world.folder / target.output), ended.heard)
        for command in READERS:
            ended = self.worker.run(self.finished, Order([command]))
            if ended.code != 0 or not ended.out[0]:
                raise SystemExit(f"{command} fails without a fault: {ended.err[0][-2000:]}")
            self.said[command] = ended.out[0]

    def world(self, target: Target) -> World:
        """A copy of the world that a target starts from."""
        return World(self.folder / "world", self.empty if target.output == "run" else self.finished)

    def again(self, world: World, target: Target) -> None:
        """Repeat the command without a fault: it must finish with the numbers of a calm run, and nothing left over."""
        ended = self.worker.run(world, Order([target.command]))
        sane(ended)
        if ended.code != 0:
            raise LossError(f"the same command ends with {ended.code}: {ended.err[0][-800:]}")
        same(numbers(world.folder / target.output), self.calm[target.name].found)
        clean(world)

    def points(self, target: Target, count: int) -> list[int]:
        """Places in a command's writes, spread over all of them, at random between their neighbours."""
        heard = self.calm[target.name].heard
        edges = [round(i * heard / count) for i in range(count + 1)]
        return [self.dice.randint(low + 1, max(low + 1, high)) for low, high in pairwise(edges)]


def sane(ended: Ended) -> None:
    """No hang, and no traceback."""
    for code, err in zip(ended.codes, ended.err, strict=True):
        if code is None:
            raise LossError("hung")
        if "Traceback (most recent call last)" in err:
            raise LossError(f"traceback: {err[-1500:]}")


def same(found: dict[str, object], calm: dict[str, object]) -> None:
    """The numbers of a calm run."""
    if found != calm:
        names = sorted(name for name in found.keys() | calm.keys() if found.get(name) != calm.get(name))
        raise LossError(f"different: {', '.join(names[:5])}")


def clean(world: World) -> None:
    """Nothing outside changed, and nothing unfinished lies about."""
    if touched := world.touched():
        raise LossError(f"changed outside: {touched}")
    if left := leftovers(world.folder):
        raise LossError(f"left over: {left}")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: for the counts.
        name: what and where.
        happen: lets it happen and says how it ended (``continued``, ``refused``, ``made again`` …); raises LossError.
    """

    kind: str
    name: str
    happen: Callable[[Bench], str]


#: What happens to a write, and how often beside a kill.
ACTIONS = {"SIGKILL": 1.0, "SIGTERM": 0.2, "SIGINT": 0.2, "full": 0.5, "read-only": 0.2, "broken": 0.2}
_EXPECTED = {"SIGKILL": {-9}, "SIGTERM": {130, -15}, "SIGINT": {130}}


def interrupted(target: Target, action: str, at: int, clock: float = 0.0) -> Callable[[Bench], str]:
    """A command meets a signal or an error in its ``at``-th write; later the same command is run again."""

    def happen(bench: Bench) -> str:
        world = bench.world(target)
        ended = bench.worker.run(world, Order([target.command], action, at))
        sane(ended)
        allowed = _EXPECTED.get(action, {0, 1, 2}) | {0}  # 0: the work was done, or the write did not matter
        if ended.code not in allowed:
            raise LossError(f"ended with {ended.code}: {ended.err[0][-800:]}")
        if ended.code in (1, 2) and not ended.err[0].strip():
            raise LossError("failed without a word")
        if world.touched():
            raise LossError(f"changed outside: {world.touched()}")
        if clock:
            late = bench.worker.run(world, Order([target.command], clock=clock))
            sane(late)
            if late.code != 0:
                raise LossError(f"with another clock: {late.err[0][-800:]}")
        bench.again(world, target)
        return "finished anyway" if ended.code == 0 else "continued"

    return happen


def interruptions(bench: Bench, targets: tuple[Target, ...], share: float) -> Iterator[Fault]:
    """Signals, errors of the disk, and a clock that jumps, all through the writes of every target."""
    for target in targets:
        count = max(1, round(target.kills * share))
        for action, part in (
            ("SIGKILL", 1.0),
            ("SIGTERM", 0.2),
            ("SIGINT", 0.2),
            ("full", 0.5),
            ("read-only", 0.2),
            ("broken", 0.2),
        ):
            if target.name == "sweep" and action != "SIGKILL":
                continue
            for at in bench.points(target, max(1, round(count * part))):
                yield Fault(action, f"{target.name}, write {at}", interrupted(target, action, at))
    run = targets[0]
    for clock in (-86_400.0, -3e8, 86_400.0, 4e8):
        (at,) = bench.points(run, 1)
        yield Fault("clock", f"{clock:+.0f} s after write {at}", interrupted(run, "SIGKILL", at, clock))


def flip(path: Path, dice: random.Random) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path, random.Random], object]] = {
    "bit": flip,
    "half": lambda path, dice: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, dice: os.truncate(path, 0),
    "gone": lambda path, dice: path.unlink(),
    "noise": lambda path, dice: path.write_bytes(dice.randbytes(max(1, path.stat().st_size))),
    "longer": lambda path, dice: path.write_bytes(path.read_bytes() + b"\0" * 64),
    "pipe": lambda path, dice: (path.unlink(), os.mkfifo(path)),
    "folder": lambda path, dice: (path.unlink(), path.mkdir()),
}


def damaged(name: str, how: str) -> Callable[[Bench], str]:
    """A file of a finished run is damaged; readers must refuse or not mind, and the run makes it again."""

    def happen(bench: Bench) -> str:
        world = World(bench.folder / "world", bench.finished)
        DAMAGE[how](world.folder / "run" / name, bench.dice)
        said = []
        for command in READERS:
            ended = bench.worker.run(world, Order([command], seconds=60))
            sane(ended)
            if ended.code == 0:
                if ended.out[0] != bench.said[command]:
                    raise LossError(f"{' '.join(command[:2])} says something else without a word")
            elif not ended.err[0].strip():
                raise LossError(f"{' '.join(command[:2])} failed without a word")
            said.append(ended.code)
        if how in ("pipe", "folder"):  # such a thing may be refused by name instead; it is then taken away
            place = world.folder / "run" / name
            ended = bench.worker.run(world, Order([TARGETS[0].command]))
            sane(ended)
            if ended.code != 0 and not (ended.code == 2 and place.name in ended.err[0]):
                raise LossError(f"ended with {ended.code}: {ended.err[0][-400:]}")
            if ended.code == 2:
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        bench.again(world, TARGETS[0])
        return "made again, readers refused" if any(said) else "made again"

    return happen


def one_of_each(names: list[str]) -> list[str]:
    """The first file of every form: folders of the same depth and kind, same file name."""
    forms: dict[tuple[str, str], str] = {}
    for name in names:
        forms.setdefault((name.split("/")[0], Path(name).name), name)
    return list(forms.values())


def damages(bench: Bench, share: float) -> Iterator[Fault]:
    """Every file of a finished run with one kind of damage; one of each form with all kinds."""
    root = bench.finished.folder / "run"
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    forms = one_of_each(names)
    pairs = [(name, how) for name in forms for how in DAMAGE]
    pairs += [(name, bench.dice.choice(list(DAMAGE)[:6])) for name in names if name not in forms]
    if share < 1.0:
        pairs = bench.dice.sample(pairs, round(len(pairs) * share))
    for name, how in pairs:
        yield Fault("damage", f"{how}: {name}", damaged(name, how))


def linked(name: str, hard: bool = False) -> Callable[[Bench], str]:
    """Where a run writes lies a link to something outside."""

    def happen(bench: Bench) -> str:
        world = World(bench.folder / "world", bench.finished)
        place = world.folder / name
        aim = world.outside / ("kept" if place.is_dir() else "authorized_keys")
        if place.is_dir():
            shutil.copytree(place, aim / place.name)
            shutil.rmtree(place)
            aim = aim / place.name
        else:
            place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if hard:
            place.hardlink_to(aim)
        else:
            place.symlink_to(aim)
        world.before = snapshot(world.outside)
        codes = []
        for command in (
            ("run", "--config", "choice.yaml", "--out", "run", "--set", "student.keep_fraction=0.9"),
            ("report", "run"),
        ):
            ended = bench.worker.run(world, Order([command], report=True))
            sane(ended)
            if ended.code not in (0, 1, 2):
                raise LossError(f"ended with {ended.code}")
            if touched := world.touched():
                raise LossError(f"changed outside: {touched}")
            if ended.code and place.name not in ended.err[0]:
                raise LossError(f"does not name {place.name}: {ended.err[0][-400:]}")
            codes.append(ended.code)
        return "refused" if any(codes) else "not followed"

    return happen


LINKS = (
    "run/run.lock", "run/heartbeat", "run/events.jsonl", "run/metrics.jsonl", "run/config.yaml", "run/results.json",
    "run/correct.parquet", "run/ensemble.json", "run/report", "run/report/report.html", "run/student",
    "run/student/ensemble", "run/experts", "run/experts/round-02", "run/labels", "run/labels/ensemble",
    "run/token_weights", "run/token_weights/round-02.npy", "run/data", "run/baselines", "run/ceiling", "run/joint",
    "run/student/ensemble.partial", "run/labels/ensemble.stale",
)  # fmt: skip


def links(bench: Bench, share: float) -> Iterator[Fault]:
    """Links at every place that a run writes."""
    for name in LINKS[:: max(1, round(1 / share))]:
        yield Fault("link", name, linked(name))
    for name in ("run/events.jsonl", "run/metrics.jsonl", "run/run.lock", "run/heartbeat"):
        yield Fault("hard link", name, linked(name, hard=True))


def together(target: Target, stagger: float) -> Callable[[Bench], str]:
    """Two starts of the same command: one works, the other is turned away; the result is that of one."""

    def happen(bench: Bench) -> str:
        world = bench.world(target)
        ended = bench.worker.run(world, Order([target.command, target.command], stagger=stagger))
        sane(ended)
        if 0 not in ended.codes or not set(ended.codes) <= {0, 1, 2}:
            raise LossError(f"ended with {ended.codes}: {ended.err}")
        bench.again(world, target)
        return "one turned away" if ended.codes != [0, 0] else "one after the other"

    return happen


def unread(closed: str) -> Callable[[Bench], str]:
    """Nobody reads what a run says: it goes on."""

    def happen(bench: Bench) -> str:
        world = bench.world(TARGETS[0])
        ended = bench.worker.run(world, Order([TARGETS[0].command], closed=closed, report=True))
        sane(ended)
        if closed == "stderr" and ended.code != 0:
            raise LossError(f"ended with {ended.code}")
        bench.again(world, TARGETS[0])
        return "went on"

    return happen


def others(bench: Bench, targets: tuple[Target, ...], share: float) -> Iterator[Fault]:
    """Two starts at once, and closed streams."""
    for target in targets[:4]:
        for stagger in (0.0, 0.05, 0.3)[: max(1, round(3 * share))]:
            yield Fault("two starts", f"{target.name}, {stagger} s apart", together(target, stagger))
    for closed in ("stderr", "stdout"):
        yield Fault("closed stream", closed, unread(closed))
