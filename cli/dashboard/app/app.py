"""The dashboard's application: one screen with seven views over one model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import ContentSwitcher, Static

from ensemw2s.cli.dashboard.app.background_run import BackgroundRun
from ensemw2s.cli.dashboard.app.export import clean_svg, safe_folder, save, to_csv
from ensemw2s.cli.dashboard.app.refresh import SETTLED, Garbage, Refresher
from ensemw2s.cli.dashboard.app.screen import SMALLEST, Changed, Main
from ensemw2s.cli.dashboard.drawing.css import CSS, DARK, LIGHT
from ensemw2s.cli.dashboard.model.names import clean
from ensemw2s.cli.dashboard.model.status_text import headline
from ensemw2s.cli.dashboard.panels import keys
from ensemw2s.cli.dashboard.panels.bars import ClickLine, Head, KeyBar, NavBar
from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.cli.dashboard.panels.dialogs import Help, Leaving
from ensemw2s.cli.dashboard.panels.panel import BoxPanel
from ensemw2s.cli.dashboard.reading.replay import ReplayFollower
from ensemw2s.cli.dashboard.reading.watch import Watcher
from ensemw2s.cli.dashboard.views import VIEWS, View

#: Seconds without a key after which Textual's own theme follows another choice.
THEME_AFTER = 1.0


class Dashboard(App[str]):
    """Shows what a watcher reads.

    Args:
        watcher: reads the run; started and stopped by the application.
        folder: where pictures and CSV files go.
        background_run: the run that was started together with the dashboard.
        dark: the theme at first.
        saves: whether pictures and CSV files may be written.

    Attributes:
        refresher: redraws what is seen.
    """

    TITLE = "EnsemW2S"
    CSS = CSS
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings([view.name_ for view in VIEWS])

    def __init__(
        self,
        watcher: Watcher,
        *,
        folder: Path | None = None,
        background_run: BackgroundRun | None = None,
        dark: bool = True,
        saves: bool = True,
    ) -> None:
        super().__init__()
        self.watcher = watcher
        self.context = PanelContext(watcher, dark=dark, plain=self.no_color)
        self.folder = folder or Path.cwd()
        self.background_run = background_run
        self.saves = saves
        self.views = [view(self.context) for view in VIEWS]
        self.main = Main(id="_default")
        self.head = Head()
        self.nav = NavBar([view.name_ for view in self.views])
        self.switcher = ContentSwitcher(id="views", initial=self.views[0].id)
        self.key_bar = KeyBar()
        self.help_box = Help()
        self.leaving = Leaving()
        self.small_text = Static("", id="small-text")
        self.saved: list[Path] = []
        self.refresher = Refresher(self._show_edges, self._seen, self.context)
        self._garbage = Garbage()
        self._theming: Timer | None = None

    @property
    def view(self) -> View:
        """The view that is shown."""
        return next((view for view in self.views if view.id == self.switcher.current), self.views[0])

    @property
    def replay(self) -> ReplayFollower | None:
        """The replay that is playing."""
        follower = self.watcher.follower
        return follower if isinstance(follower, ReplayFollower) else None

    def compose(self) -> ComposeResult:
        """Two lines at the top, the view, the keys."""
        yield self.head
        yield self.nav
        with self.switcher:
            yield from self.views
        with Container(id="small"):
            yield self.small_text
        yield self.key_bar
        yield self.help_box
        yield self.leaving

    def get_default_screen(self) -> Screen[None]:
        """The screen with the views."""
        return self.main

    def on_mount(self) -> None:
        """Begin to read."""
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self._apply_theme()
        self._colour()
        self._fit(self.size.width, self.size.height)
        self.watcher.on_change = self._notice
        self.watcher.start()
        self.run_worker(self.refresher.run())
        self.set_interval(1.0, self._tick)
        self.set_timer(SETTLED, self._garbage.collect)
        self.view.focus_first()

    def on_unmount(self) -> None:
        """Stop reading."""
        self.watcher.on_change = lambda: None
        self.watcher.stop()

    async def on_event(self, event: events.Event) -> None:
        """A key has priority over reading."""
        if isinstance(event, events.Key):
            self.watcher.give_way()
            self.refresher.key_at = time.monotonic()
        await super().on_event(event)

    def notify(self, message: str, **settings: Any) -> None:
        """A notice; text from files is neither markup nor escape codes."""
        super().notify(clean(message), **{**settings, "markup": False})

    def _notice(self) -> None:
        """Called by the reading thread: only leaves a message."""
        self.post_message(Changed())

    @on(Changed)
    def _changed(self) -> None:
        self.refresher.want()

    def _tick(self) -> None:
        model = self.watcher.model
        if model.life == "running" and self.replay is None:
            with model.lock:
                model.now = max(model.now, time.time()) if model.now == model.now else time.time()
        if self.background_run is not None:
            self.background_run.poll()
        self._garbage.tidy(self.refresher.key_at)
        self.refresher.want(tick=model.life == "running")

    def refresh_all(self, tick: bool = False) -> None:
        """Redraw all that is seen and whose part of the model changed, at once."""
        self._show_edges()
        for panel in self._seen():
            panel.show(self.context, tick)

    def _show_edges(self) -> None:
        """The first and the last lines; the few words of a small terminal."""
        self.watcher.want_runs = self.view.name_ == "Runs"
        self.head.show(self.context, tick=True)
        self.key_bar.show_keys(self._keys(), self.context.dark)
        if self.main.small:
            need = (
                f"The views need {SMALLEST[0]}×{SMALLEST[1]}; this terminal has {self.size.width}×{self.size.height}."
            )
            text = headline(self.watcher.model).replace(" · ", "\n")
            self.small_text.update(Text(f"{text}\n\n{need}\nq leaves."))

    def _seen(self) -> list[BoxPanel]:
        """The panels that are seen."""
        return [] if self.main.small else self.view.seen()

    def _keys(self) -> list[tuple[str, str, str]]:
        """The keys of the last line: those shown that count in this view."""
        first = self.view.key_hints if self.view.solo is None else (("Esc", "Back", "back"),)
        line = [(key.shown, key.label, key.action) for key in keys.KEYS if key.label and self._counts(key.action)]
        return [*first, *line]

    @on(ClickLine.Pressed)
    async def _pressed(self, event: ClickLine.Pressed) -> None:
        name = event.action.removeprefix("panel.")
        if name == event.action:
            await self.run_action(name)
        elif self.focused is not None:
            await self.run_action(name, self.focused)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the layout for the size."""
        self._fit(event.size.width, event.size.height)

    def _fit(self, width: int, height: int) -> None:
        self.context.boxed = self.main.fit(width, height)
        for dialog in (self.help_box, self.leaving):
            dialog.fit_in()
        self.call_after_refresh(self.refresh_all)

    def _apply_theme(self) -> None:
        self.theme = (DARK if self.context.dark else LIGHT).name

    def _colour(self) -> None:
        """Tell those that are no panels which theme it is."""
        self.main.dark = self.nav.dark = self.context.dark
        self.nav.refresh()

    def _counts(self, action: str) -> bool:
        view = self.view
        replay = self.replay is not None
        return keys.counts(action, view.name_, charts=view.shows_charts, replay=replay, saves=self.saves)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key is enabled at present."""
        return self._counts(action)

    def action_view(self, place: int) -> None:
        """Show a view."""
        if place < len(self.views) and self.views[place].id != self.switcher.current:
            self.switcher.current = self.views[place].id
            self.nav.select(self.views[place].name_)
            self.help_box.close()
            self.watcher.want_runs = self.view.name_ == "Runs"
            if self.watcher.want_runs:
                self.watcher.poke()
            self.view.focus_first()
            self._show_edges()
            for panel in self._seen():  # what was painted before is seen at once, the news right after it
                if not panel.shows(self.context):
                    panel.show(self.context)
            self.call_after_refresh(self.refresher.want, tick=True, soon=True)

    def action_help(self) -> None:
        """All keys."""
        view, box = self.view, self.help_box
        box.view, box.of_view, box.replay = view.name_, view.help_lines, self.replay is not None
        box.saves = self.saves
        box.open(self.context)

    def action_full(self) -> None:
        """The panel with the focus over the whole view, and back."""
        view = self.view
        if view.solo is not None:
            view.set_solo(None)
        else:
            view.set_solo(view.focused_panel() or view.first_panel())
        self.call_after_refresh(self.refresh_all)

    async def action_back(self) -> None:
        """All panels again."""
        self.view.set_solo(None)

    def action_chart(self, method: str, *arguments: float) -> None:
        """Smooth, zoom …: call a method of the chart that has the focus, else of all that are seen."""
        for chart in self.view.chosen_charts():
            getattr(chart, method)(*arguments)

    def action_step(self, by: int) -> None:
        """The round or teacher before or after."""
        self.view.step(by)

    def action_search(self) -> None:
        """Open the search line."""
        self.view.search()

    def action_sort(self) -> None:
        """Another order."""
        self.view.sort()

    def action_pause(self) -> None:
        """Pause the replay, or go on."""
        if self.replay is not None:
            self.replay.paused = not self.replay.paused
            self.watcher.poke()

    def action_speed(self, factor: float) -> None:
        """Faster or slower replay."""
        if self.replay is not None:
            self.replay.speed = min(10_000.0, max(0.1, self.replay.speed * factor))
            self.watcher.poke()

    def action_dark(self) -> None:
        """The other theme."""
        self.context.dark = not self.context.dark
        self._colour()
        self.refresh_all()
        self._theme_later()

    def _theme_later(self) -> None:
        """Set Textual's own theme later: its widgets (search line, notices, palette) are slower and rarely seen."""
        if self._theming is not None:
            self._theming.stop()
        left = self.refresher.key_at + THEME_AFTER - time.monotonic()
        if left <= 0.0:
            self._apply_theme()
        else:
            self._theming = self.set_timer(left, self._theme_later)

    def action_latest(self) -> None:
        """Show the latest run, and newer ones as they begin."""
        if self.watcher.target is None:
            self.notify("There is only this run here.")
            return
        self.watcher.open(None)
        self.notify("Showing the latest run.")

    def action_picture(self) -> None:
        """Save the screen as SVG."""
        svg = clean_svg(self.export_screenshot(title=f"EnsemW2S · {clean(self.watcher.model.name) or 'dashboard'}"))
        self._save(svg, self.view.name_.lower(), "svg")

    def action_csv(self) -> None:
        """Save the data shown as CSV."""
        for panel in self.view.panels:  # those that have no place on the screen, too
            panel.show(self.context)
        tables = self.view.export_rows()
        if not tables:
            self.notify("There is no data here yet.", severity="warning")
            return
        what = next(iter(tables)) if len(tables) == 1 else self.view.name_.lower()
        self._save(to_csv(tables), what, "csv")

    def _save(self, text: str, what: str, suffix: str) -> None:
        if not self.saves:
            return
        try:
            path = save(text, safe_folder(self.folder), self.watcher.model.name, what, suffix)
        except OSError as error:
            self.notify(f"It cannot be saved: {error.strerror or error}", severity="error")
            return
        self.saved.append(path)
        self.notify(f"Saved {path}")

    def action_leave(self) -> None:
        """Leave; a run that was started here may be stopped or go on."""
        if self.background_run is None or not self.background_run.running:
            self.exit("leave")
            return
        self.leaving.open(self.context)

    @on(Leaving.Answered)
    def _answered(self, event: Leaving.Answered) -> None:
        if event.answer in ("stop", "leave"):
            self.exit(event.answer)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Entries of the command palette."""
        for place, view in enumerate(self.views):
            yield SystemCommand(view.name_, view.__doc__ or "", partial(self.action_view, place))
        for key in keys.KEYS:
            if key.command is not None and keys.available(key.action, replay=False, saves=self.saves):
                yield SystemCommand(*key.command, partial(self.run_action, key.action))
