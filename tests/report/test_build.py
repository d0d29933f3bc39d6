from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from ensemw2s.errors import DataError
from ensemw2s.report import build_report

VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Collects tags, attributes and text, and insists that every tag is closed in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.attributes, self.text, self.seen = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker, " ".join(" ".join(checker.text).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory, fill_run_dir):
    """A built report for the tests that only read it."""
    folder = fill_run_dir(tmp_path_factory.mktemp("run"))
    path = build_report(folder)
    assert path == folder / "report" / "report.html"
    return path


def test_report_of_a_run(report, results):
    path = report
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "accuracy-by-round.png",
        "error-and-weight.png",
        "report.html",
        "report.md",
        "students.png",
    ]
    checker, text = parsed(path)
    assert checker.seen[0] == "html"
    ensemble = results.arms["ensemble"]["hard_test"]
    assert f"{100 * ensemble.accuracy:.1f} [{100 * ensemble.low:.1f}, {100 * ensemble.high:.1f}]" in text
    assert "This is one seed (0)" in text
    for title in (
        "Accuracy in %",
        "Students: performance gap recovered",
        "Boosting by round",
        "Pseudo-labels, a sample",
    ):
        assert title in text
    assert "embedded:weak (62\u2009144 parameters)".replace("\u2009", " ") in text.replace("\u2009", " ")
    assert "torch 2.13.0" in text


def test_report_is_self_contained(report):
    checker, _ = parsed(report)
    assert "script" not in checker.seen
    assert "link" not in checker.seen
    for tag, name, value in checker.attributes:
        assert not re.search(r"https?:|^//|file:", value or ""), (tag, name)
        assert not name.startswith("on")
        if name in ("src", "srcset"):
            assert value.startswith("data:image/png;base64,")
    style = re.search(r"<style>(.*?)</style>", report.read_text(encoding="utf-8"), re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


@pytest.fixture
def same_plots(monkeypatch, drawn):
    """Spares tests that look at something else the drawing."""
    monkeypatch.setattr("ensemw2s.report.build.run_plots", lambda results, mode="light": drawn[mode])


def test_plots_are_inlined_in_both_colour_schemes(report, drawn):
    checker, _ = parsed(report)
    light, dark = drawn["light"], drawn["dark"]
    images = [base64.b64decode(v.split(",")[1]) for t, n, v in checker.attributes if (t, n) == ("img", "src")]
    sources = [base64.b64decode(v.split(",")[1]) for t, n, v in checker.attributes if (t, n) == ("source", "srcset")]
    assert sorted(images) == sorted(light.values())
    assert sorted(sources) == sorted(dark.values())
    for stem, png in light.items():
        assert report.with_name(f"{stem}.png").read_bytes() == png
    assert all(value for t, n, value in checker.attributes if (t, n) == ("img", "alt"))


def test_user_text_is_escaped(report):
    source = report.read_text(encoding="utf-8")
    assert "<script" not in source
    assert "sort &lt;3 1 2&gt;" in source
    _, text = parsed(report)
    assert "<script>alert('{prompt}')</script> & more" in text
    assert "3 near-duplicates <dropped>" in text


def test_heaviest_tokens_and_label_samples(report):
    checker, text = parsed(report)
    assert "Heaviest tokens of round 3" in text
    shades = [v for t, n, v in checker.attributes if n == "style" and t == "span"]
    # 0.85 for the heaviest, the others in proportion
    assert shades == [f"background: rgba(var(--warm), {x})" for x in ("0.02", "0.85", "0.04")]
    assert [v for t, n, v in checker.attributes if n == "class" and (v or "").startswith("token")] == [
        "token",
        "token wrong",
        "token",
    ]
    assert "✓ right confidence 0.91, agreement 1.00" in text
    assert "✗ wrong confidence 0.41, agreement 0.55" in text


@pytest.mark.usefixtures("same_plots")
def test_report_needs_results_only(run_dir):
    (run_dir / "events.jsonl").unlink()
    (run_dir / "config.yaml").unlink()
    _, text = parsed(build_report(run_dir))
    assert "Accuracy in %" in text
    assert "Configuration" not in text
    assert "Pseudo-labels, a sample" not in text


@pytest.mark.usefixtures("same_plots")
def test_report_goes_where_it_is_told_and_repeats(run_dir, tmp_path):
    out = tmp_path / "elsewhere" / "deep"
    first = build_report(run_dir, out)
    assert first == out / "report.html"
    assert not (run_dir / "report").exists()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    build_report(run_dir, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_markdown_report(report):
    text = report.with_name("report.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny: weak-to-strong run\n")
    links = re.findall(r"\]\((.+?)\)", text)
    assert sorted(links) == ["accuracy-by-round.png", "error-and-weight.png", "students.png"]
    assert "| **boosted ensemble** |" in text


def test_report_over_seeds(tmp_path, seeds):
    seeds.write(tmp_path / "aggregate.json")
    checker, text = parsed(build_report(tmp_path))
    assert "over 3 seeds" in text
    assert "Three seeds prove little" in text
    assert "Differences seed by seed" in text
    assert checker.seen.count("img") == 2
    assert (tmp_path / "report" / "paired-differences.png").exists()


def test_no_results(tmp_path):
    with pytest.raises(DataError, match=r"no results\.json and no aggregate\.json") as caught:
        build_report(tmp_path)
    assert "repeat its command" in caught.value.hint
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json cannot be read"):
        build_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_importing_the_report_loads_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "matplotlib", "jinja2", "textual", "typer")
    code = f"import sys, ensemw2s.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
