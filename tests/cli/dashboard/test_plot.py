from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.arms import ARMS
from ensemw2s.cli.dashboard.app.export import clean_svg, safe_folder, to_csv
from ensemw2s.cli.dashboard.drawing import plots
from ensemw2s.cli.dashboard.drawing.braille import Canvas, thin
from ensemw2s.cli.dashboard.drawing.draw_plot import draw
from ensemw2s.cli.dashboard.drawing.palette import look_of, style
from ensemw2s.cli.dashboard.drawing.plot import Curve, Look, Plot, Rule, value_at
from ensemw2s.cli.dashboard.drawing.text import bar, cut, fit, line_width, plain, sparkline, visible, width_of, wrap
from ensemw2s.cli.dashboard.drawing.ticks import linear_ticks, log_ticks, tick_labels
from ensemw2s.cli.dashboard.reading.follow import load_run
from ensemw2s.cli.dashboard.reading.source import Source

Simulate = Callable[..., Any]


def curve(y: list[float], **more: Any) -> Curve:
    return Curve("a", np.arange(len(y), dtype=np.float64), np.array(y, dtype=np.float64), **more)


def text_of(plot: Plot, width: int = 40, height: int = 12, look: Look | None = None) -> list[str]:
    return [plain(line) for line in draw(plot, look or Look(), width, height).lines]


def test_a_line_of_dots() -> None:
    canvas = Canvas(2, 1)
    canvas.line(np.array([0.0, 3.0]), np.array([3.0, 0.0]), 0)
    assert "".join(canvas.characters()[0]) == "⡠⠊"


def test_a_gap_interrupts_and_a_lone_point_shows() -> None:
    canvas = Canvas(4, 1)
    canvas.line(np.array([0.0, 1.0, 2.0, 7.0]), np.array([0.0, 0.0, np.nan, 0.0]), 0)
    assert "".join(canvas.characters()[0]) == "⠉  ⠈"


def test_a_lone_point_far_away_is_outside() -> None:
    canvas = Canvas(4, 1)
    canvas.line(np.array([2.0]), np.array([-5e18]), 0)
    assert (canvas.ink == -1).all()


def test_thinning_draws_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    x, y = np.linspace(0, 159.4, 5000), rng.normal(size=5000).cumsum()
    y = (y - y.min()) / (y.max() - y.min()) * 79
    whole, thinned = Canvas(80, 20), Canvas(80, 20)
    whole.line(x, y, 0)
    tx, ty = thin(x, y, np.rint(x).astype(np.int64), 160)
    thinned.line(tx, ty, 0)
    assert tx.size <= 640
    different = np.bitwise_count(whole.bits ^ thinned.bits).sum()
    assert different < 0.15 * np.bitwise_count(whole.bits).sum()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=30),
    st.integers(1, 90),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["line", "points", "bars"]),
    st.sampled_from([Look(), Look(log=True), Look(0.2, 0.3), Look(smoothing=0.9)]),
)
def test_drawing_never_raises_and_keeps_its_size(
    y: list[float], width: int, height: int, percent: bool, rule: bool, kind: Any, look: Look
) -> None:
    lines = draw(
        Plot("t", [curve(y, draw=kind)], [Rule("rule", 0.5)] if rule else [], percent=percent), look, width, height
    ).lines
    assert len(lines) <= max(height, 1)
    assert all(line_width(line) <= width for line in lines)


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e6), st.integers(1, 20))
def test_linear_ticks_are_inside_and_few(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = linear_ticks(low, high, most)
    assert len(ticks) <= most + 1
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)
    assert len(set(tick_labels(ticks))) == len(ticks)


@given(st.floats(-8, 8), st.floats(0.01, 8), st.integers(1, 10))
def test_log_ticks_are_inside(low: float, decades: float, most: int) -> None:
    ticks = log_ticks(10**low, 10 ** (low + decades), most)
    assert all(10**low * 0.999 <= tick <= 10 ** (low + decades) * 1.001 for tick in ticks)
    assert len(ticks) <= most + 2


def test_zoom_and_smoothing_do_not_change_each_other() -> None:
    rng = np.random.default_rng(1)
    noisy = Plot("t", [curve(rng.normal(size=300).tolist(), marker="")])
    look = Look(smoothing=0.95)
    near = draw(noisy, look.zoom(0.5), 60, 12).frame
    far = draw(noisy, look, 60, 12).frame
    assert near is not None
    assert far is not None
    assert (near.x_low, near.x_high) == pytest.approx((74.75, 224.25))
    assert look.zoom(0.5).smoothing == 0.95
    # smoothing sees all points, not only the visible ones: the visible values are those of the full range
    assert near.y_low >= far.y_low - 1e-9
    assert near.y_high <= far.y_high + 1e-9


def test_zoom_stays_inside() -> None:
    look = Look()
    for factor, centre in ((0.5, 0.0), (0.5, 1.0), (0.1, 0.3), (4.0, 0.9)):
        look = look.zoom(factor, centre)
        assert 0.0 <= look.start < look.end <= 1.0
    assert Look().zoom(0.5).pan(10).end == 1.0
    assert Look().zoom(0.25).zoom(10) == Look()


def test_log_axis_and_ticks() -> None:
    lines = text_of(Plot("t", [curve([1, 10, 100, 1000])]), look=Look(log=True))
    assert any(line.lstrip().startswith("100┤") for line in lines)


def test_series_differ_without_colour(simulate: Simulate) -> None:
    model = load_run(Source(simulate(rounds=4).whole().folder))
    lines = text_of(plots.accuracy_plot(model, "test"), 60, 16)
    drawn = "".join(lines)
    assert "✕" in drawn
    assert "●" in drawn
    shapes = [look_of(name)[1] for name in ("plain", "bagging", "ensemble", "seeds", "ceiling")]
    assert len(set(shapes)) == len(shapes)


def test_rules_are_named(simulate: Simulate) -> None:
    model = load_run(Source(simulate().whole().folder))
    lines = text_of(plots.student_accuracy_plot(model, "hard_test"), 70, 16)
    drawn = "\n".join(lines)
    assert "★ ceiling" in drawn
    assert "● ensemble" in drawn
    assert "+ weak" in drawn
    assert drawn.count("╌╌") > 20
    assert "← plain" in drawn


def test_values_are_read_back() -> None:
    plot = Plot("t", [curve([5, 6, 7, 8])])
    frame = draw(plot, Look(), 40, 10).frame
    assert frame is not None
    ((found, y),) = value_at(plot, frame, frame.width - 1)[1]
    assert (found.name, y) == ("a", 8.0)


def test_nothing_to_draw_says_so() -> None:
    assert "Nothing yet." in "".join(text_of(Plot("t", [curve([np.nan, np.nan])])))


def test_drawing_is_fast() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(8000.0)
    big = Plot("t", [Curve(str(i), x, rng.normal(size=8000), "blue", "●", smoothed=False) for i in range(3)])
    times = []
    for _ in range(7):
        start = time.thread_time()
        draw(big, Look(), 120, 40)
        times.append(time.thread_time() - start)
    assert min(times) < 0.05


def test_every_look_has_a_style_in_both_themes() -> None:
    for colour in {spec.screen[0] for spec in ARMS}:
        assert style(colour, True).color != style("ground", True).color
        assert style(colour, False).color is not None
    assert style("heat:0.0", True).bgcolor != style("heat:1.0", True).bgcolor
    assert style("heat:0.5 selected", True).bgcolor == style("heat:0.5", True).bgcolor


@given(st.text(max_size=40), st.integers(0, 30))
def test_text_keeps_to_its_width(text: str, width: int) -> None:
    assert width_of(cut(visible(text), width)) <= width
    assert width_of(fit(visible(text), width)) == width
    assert all(width_of(line) <= max(2, width) for line in wrap(visible(text), width))


def test_small_pictures_of_numbers() -> None:
    assert bar(0.5, 4) == "██  "
    assert bar(float("nan"), 3) == "   "
    assert bar(2.0, 2) == "██"
    assert sparkline([0.0, float("nan"), 1.0]) == "▁·█"
    assert visible(" a\n") == "␣a⏎"
    assert visible("\x1b[31m") == "␛[31m"


def test_csv_has_all_columns_and_empty_unknowns() -> None:
    text = to_csv({"a": [{"x": 1, "y": float("nan")}], "b": [{"x": 2, "z": "q,\n"}]})
    assert text == 'panel,x,y,z\na,1,,\nb,2,,"q,\n"\n'


def test_files_do_not_go_into_a_run_directory(simulate: Simulate, tmp_path: Path) -> None:
    folder = simulate().whole().folder
    (folder / "inner").mkdir()
    assert safe_folder(folder / "inner") == (tmp_path / "runs").resolve()
    assert safe_folder(tmp_path) == tmp_path.resolve()


def test_pictures_load_nothing_from_the_network() -> None:
    svg = '<style>@font-face { font-family: "Fira Code"; src: url("https://x/y.woff2"); } '
    svg += ".a { font-family: Fira Code, monospace; }</style>"
    assert "http" not in clean_svg(svg)
    assert "monospace" in clean_svg(svg)
