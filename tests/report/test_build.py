from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser

import pytest

from ensemw2s.errors import DataError
from ensemw2s.report.build import build_report
from ensemw2s.report.html import brief

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
def report(tmp_path_factory, fill_run_dir, drawn):
    """A built report for the tests that only read it."""
    folder = fill_run_dir(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensemw2s.report.build.run_plots", lambda results, mode="light": drawn[mode])
        path = build_report(folder)
    assert path == folder / "report" / "report.html"
    return path


def test_report_of_a_run(report, results):
    path = report
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "accuracy-against-cost.png",
        "accuracy-by-round.png",
        "error-and-weight.png",
        "files.json",
        "reliability.png",
        "report.html",
        "report.md",
        "students.png",
        "tables.md",
        "tables.tex",
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
        "Corrected and copied errors",
        "Errors that members share",
        "Calibration in %",
        "Cost and accuracy of the arms",
        "points below the ceiling",
        "The run took",
    ):
        assert title in text, title
    assert "embedded:weak (62\u2009144 parameters)".replace("\u2009", " ") in text.replace("\u2009", " ")
    assert "torch 2.13.0" in text


def test_report_is_self_contained(report):
    checker, _ = parsed(report)
    assert "script" not in checker.seen
    assert "link" not in checker.seen
    for tag, name, value in checker.attributes:
        assert not re.search(r"https?:|^//|file:", value or ""), (tag, name)
        assert not name.startswith("on")
        if name in ("src", "srcset", "href", "xlink:href"):
            assert value.startswith("#"), (tag, name)
    style = re.search(r"<style>(.*?)</style>", report.read_text(encoding="utf-8"), re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


@pytest.fixture
def same_plots(monkeypatch, drawn):
    """Spares tests that look at something else the drawing."""
    monkeypatch.setattr("ensemw2s.report.build.run_plots", lambda results, mode="light": drawn[mode])


def test_plots_are_inlined_for_pages_and_phones(report, drawn):
    checker, _ = parsed(report)
    source = report.read_text(encoding="utf-8")
    assert checker.seen.count("svg") == 2 * len(drawn["page"]) == 10
    for layout in ("page", "phone"):
        for stem, svg in drawn[layout].items():
            assert svg.decode().removeprefix("<svg ") in source, (layout, stem)
    for stem, png in drawn["light"].items():
        assert report.with_name(f"{stem}.png").read_bytes() == png
    labels = [v for t, n, v in checker.attributes if (t, n) == ("svg", "aria-label")]
    assert len(labels) == 10
    assert all(labels)
    ids = [v for t, n, v in checker.attributes if n == "id"]
    assert len(ids) == len(set(ids))


def test_colours_can_be_chosen_without_any_script(report):
    """Three radio buttons, and rules that follow them; every colour is set in both schemes."""
    checker, _ = parsed(report)
    choices = [v for t, n, v in checker.attributes if (t, n) == ("input", "id")]
    assert choices == ["theme-auto", "theme-light", "theme-dark"]
    style = re.search(r"<style>(.*?)</style>", report.read_text(encoding="utf-8"), re.S).group(1)
    blocks = dict(re.findall(r"(:root[^{]*)\{([^}]*)\}", style))
    light, dark = blocks[":root:has(#theme-light:checked) "], blocks[":root:has(#theme-dark:checked) "]
    names = [re.findall(r"(--[a-z-]+):", block) for block in (light, dark)]
    assert names[0] == names[1]
    assert {"--ground", "--text", "--plot-grid", "--blue"} <= set(names[0])
    body = report.read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z-]+)\)", body))
    assert used <= set(names[0]) | {"--font"}


def test_contents_lead_to_every_table(report):
    checker, _ = parsed(report)
    targets = {v for t, n, v in checker.attributes if n == "id"}
    links = [v for t, n, v in checker.attributes if (t, n) == ("a", "href")]
    assert len(links) == len(set(links)) > 10
    assert {link.removeprefix("#") for link in links} <= targets


def test_titles_in_the_contents_are_brief():
    assert brief("Accuracy in %, mean ± standard deviation over 3 seeds") == "Accuracy"
    assert brief("Students: performance gap recovered") == "Students"
    assert brief("Boosting by round (accuracy in %)") == "Boosting by round"
    assert brief("Paired differences in points") == "Paired differences"


def test_tables_alone_in_markdown(report):
    text = report.with_name("tables.md").read_text(encoding="utf-8")
    whole = report.with_name("report.md").read_text(encoding="utf-8")
    tables = text.rstrip().split("\n\n**")
    assert len(tables) == 11
    for table in tables:
        assert table.removeprefix("**").strip() in whole


def test_user_text_is_escaped(report):
    source = report.read_text(encoding="utf-8")
    assert "<script" not in source
    assert "sort &lt;3 1 2&gt;" in source
    _, text = parsed(report)
    assert "<script>alert('{prompt}')</script> & more" in text
    assert "3 near-duplicates <dropped>" in text


@pytest.mark.usefixtures("same_plots")
@pytest.mark.parametrize("name", ["results.json", "config.yaml"])
@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder"])
def test_what_is_no_file_is_one_error(run_dir, name, kind):
    (run_dir / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(run_dir / name)
    elif kind == "zeros":
        (run_dir / name).symlink_to("/dev/zero")
    else:
        (run_dir / name).mkdir()
    with pytest.raises(DataError, match=f"{name} cannot be read: (not a regular file|Is a directory)"):
        build_report(run_dir)
    assert not (run_dir / "report").exists()


@pytest.mark.usefixtures("same_plots")
def test_text_of_a_stranger_stays_text(run_dir):
    bad = "\x1b]52;c;x\x07\u202e\ud800<img src=x onerror=y>![i](http://x)[r]: http://x\n# h | $\\frac{$"
    path = run_dir / "results.json"
    value = json.loads(path.read_text())
    value |= {"name": bad, "preset": bad, "notes": [bad]}
    value["models"] = {side: info | {"source": bad} for side, info in value["models"].items()}
    path.write_text(json.dumps(value))
    events = [
        {"kind": "label_sample", "teacher": [1]}, {"kind": "label_sample"}, {"kind": "message", "level": "warning"},
        {"kind": "hard_tokens", "round": 1, "examples": [{"tokens": 3}]}, {"kind": "hard_tokens"},
        {"kind": "message", "level": "error", "text": bad},
    ]  # fmt: skip
    with (run_dir / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({"v": 1, "t": 1.0, **event}) + "\n" for event in events)
    page = build_report(run_dir)
    checker, text = parsed(page)
    assert "img" not in checker.seen
    assert text.count("<img src=x onerror=y>") >= 4
    for file in (page, page.with_name("report.md"), page.with_name("tables.md"), page.with_name("tables.tex")):
        written = file.read_text(encoding="utf-8")
        assert not {unicodedata.category(sign) for sign in written if sign not in "\n\t"} & {"Cc", "Cf", "Cs"}
        if file.suffix == ".md":
            assert "<img" not in written
            assert "](http" not in written
            assert "]: http" not in written
            assert "\n# h" not in written


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
    assert "Configuration" not in text.split()
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
    assert sorted(links) == [
        "accuracy-against-cost.png",
        "accuracy-by-round.png",
        "error-and-weight.png",
        "reliability.png",
        "students.png",
    ]
    assert "| **boosted ensemble** |" in text


def test_report_over_seeds(tmp_path, seeds):
    seeds.write(tmp_path / "aggregate.json")
    checker, text = parsed(build_report(tmp_path))
    assert "over 3 seeds" in text
    assert "Three seeds prove little" in text
    assert "Differences seed by seed" in text
    assert checker.seen.count("svg") == 4
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
