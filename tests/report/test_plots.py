from __future__ import annotations

import dataclasses
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ensemw2s.evaluation.over_seeds import aggregate
from ensemw2s.report.plots import DPI, run_plots, seed_plots
from ensemw2s.report.round_plots import draw_error_and_weight
from ensemw2s.report.theme import NARROW, THEMES, WIDE, drawing, series_style

RUN_PLOTS = ["accuracy-by-round", "error-and-weight", "students", "reliability", "accuracy-against-cost"]


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def rgb(colour):
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])


def has_colour(image, colour):
    return int((np.abs(image - rgb(colour)).max(axis=2) <= 3).sum())


@pytest.fixture(scope="module")
def plots(drawn, seeds):
    return drawn["light"] | seed_plots(seeds)


def test_every_plot_is_there(plots):
    assert list(plots) == [*RUN_PLOTS, "seeds", "paired-differences"]


def test_plots_have_their_size_and_are_not_blank(plots):
    ground = rgb(THEMES["light"].background)
    for name, png in plots.items():
        image = pixels(png)
        height, width, _ = image.shape
        assert width == round(9.8 * DPI)
        assert 2.5 * DPI < height < 7 * DPI
        drawn = (np.abs(image - ground).max(axis=2) > 60).mean()
        assert 0.01 < drawn < 0.5, name
        # nothing is cut off: the outermost pixels are background
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert (np.abs(edge - ground).max(axis=1) < 10).mean() > 0.99, name


def test_series_have_their_colours(plots):
    theme = THEMES["light"]
    for stem, arms in {
        "accuracy-by-round": ("ensemble", "bagging", "expert"),
        "students": ("plain", "student_ensemble", "bagging", "ceiling"),
        "seeds": ("student_bagging", "ceiling"),
    }.items():
        image = pixels(plots[stem])
        for arm in arms:
            assert has_colour(image, series_style(arm, theme).colour) > 150, (stem, arm)


def test_series_differ_by_shape_as_well_as_colour():
    theme = THEMES["light"]
    lines = [series_style(name, theme) for name in ("expert", "ensemble", "bagging", "seeds")]
    assert len({s.marker for s in lines}) == len({s.line for s in lines}) == len({s.colour for s in lines}) == 4
    dots = [
        series_style(name, theme).marker
        for name in ("plain", "bagging", "seeds", "ensemble", "student_plain", "ceiling")
    ]
    assert len(set(dots)) == len(dots)


def test_same_bytes_whatever_the_users_matplotlib_settings(results, drawn):
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        inside = run_plots(results)
        assert dict(matplotlib.rcParams) == before
    assert inside == drawn["light"]


def test_intervals_are_drawn_where_the_numbers_are(run_factory):
    """The ensemble's dot moves right when its accuracy rises."""

    def centre(accuracy):
        results = run_factory(accuracy={"plain": (0.5, 0.5), "ensemble": (accuracy, accuracy), "ceiling": (0.9, 0.9)})
        image = pixels(run_plots(results)["students"])
        hit = np.abs(image - rgb(series_style("ensemble", THEMES["light"]).colour)).max(axis=2) <= 3
        left = hit[:, : hit.shape[1] // 2 + 60]
        return np.nonzero(left)[1].mean()

    assert centre(0.55) + 50 < centre(0.8)


def test_runs_with_little_in_them(run_factory):
    only = run_factory(accuracy={"plain": (0.7, 0.4)}, rounds={})
    assert list(run_plots(only)) == ["students", "reliability", "accuracy-against-cost"]
    bare = run_factory(accuracy={"plain": (0.7, 0.4)}, rounds={}, reliability=[], arm_costs={})
    assert list(run_plots(bare)) == ["students"]
    one = run_factory()
    one.rounds["boosting"][:] = one.rounds["boosting"][:1]
    one.rounds["bagging"][:] = []
    assert set(run_plots(one)) == set(RUN_PLOTS)
    uniform = run_factory()
    for entry in uniform.rounds["boosting"]:
        object.__setattr__(entry, "epsilon", None)
    assert "error-and-weight" not in run_plots(uniform)


def test_dropped_rounds_and_extreme_weights(run_factory):
    results = run_factory(task="generate")
    last = results.rounds["boosting"][-1]
    for name, value in (("kept", False), ("splits", {}), ("alpha", -0.3), ("epsilon_prior", None)):
        object.__setattr__(last, name, value)
    object.__setattr__(results.rounds["boosting"][0], "alpha", 37.5)
    assert len(run_plots(results)) == len(RUN_PLOTS)


def test_accuracies_at_the_ends(run_factory):
    results = run_factory(accuracy={"plain": (0.0, 0.0), "ensemble": (1.0, 0.0), "ceiling": (1.0, 1.0)})
    assert "students" in run_plots(results)


def test_seed_plots_without_claims(run_factory):
    runs = [run_factory(seed, accuracy={"plain": (0.7, 0.4), "plain_long": (0.7, 0.5)}) for seed in range(2)]
    assert list(seed_plots(aggregate(runs))) == ["seeds"]


@pytest.mark.parametrize("layout", ["page", "phone"])
def test_svg_follows_the_page(drawn, seeds, layout):
    """Colours are variables, fonts the page's, ids of one plot alone, and nothing points elsewhere."""
    plots = drawn[layout] | seed_plots(seeds, layout)
    assert list(plots) == [*RUN_PLOTS, "seeds", "paired-differences"]
    seen = set()
    for name, data in plots.items():
        root = ElementTree.fromstring(data.replace(b"xlink:href", b"href"))
        text = data.decode()
        assert root.tag == "svg"
        assert "#fe000" not in text
        assert "var(--text)" in text
        assert not re.search(r"<style|<script|https?:|DejaVu|<image", text), name
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        assert ids
        assert not ids & seen, name
        seen |= ids
        used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text))
        assert used <= ids, name
        width = float(root.get("viewBox").split()[2]) / 72
        assert width == pytest.approx(NARROW if layout == "phone" else WIDE, abs=0.01) or name == "paired-differences"


@pytest.mark.parametrize("priors", [(0.9, 0.9), (0.9, 0.4)])
def test_the_reference_of_alpha_is_not_called_the_bases(run_factory, priors):
    """In a chain it is the error of the first expert from the second round on."""
    run = run_factory(0)
    rounds = [dataclasses.replace(r, epsilon_prior=p) for r, p in zip(run.rounds["boosting"], priors, strict=False)]
    with drawing(THEMES["light"]):
        figure = draw_error_and_weight(dataclasses.replace(run, rounds={"boosting": rounds}), THEMES["light"])
    _, reference = figure.axes[0].get_lines()
    assert (list(reference.get_ydata()), reference.get_label()) == (list(priors), "ε₀, the reference of α")


def test_phone_plots_stack_their_panels(drawn):
    def size(data):
        return [float(x) for x in re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', data).groups()]

    for name in RUN_PLOTS:
        (wide, low), (narrow, high) = size(drawn["page"][name]), size(drawn["phone"][name])
        assert narrow < 0.5 * wide, name
        assert high > 1.5 * low, name
