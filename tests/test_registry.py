"""Registries: built-in names, plug-ins of installed distributions, and what goes wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ensemw2s import registry
from ensemw2s.config.composition import compose
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.errors import ConfigError
from ensemw2s.registry import ALPHA_RULES, Registry

EVERY = [found for found in vars(registry).values() if isinstance(found, Registry)]


def install(folder: Path, name: str, version: str, points: str, module: str = "") -> None:
    """An installed distribution: its metadata, and a module of its name."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)
    (folder / f"{name}.py").write_text(module)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with installed distributions; what is loaded from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for one in EVERY:
        monkeypatch.setattr(one, "_loaded", {})
    return tmp_path


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.kind)
def test_every_built_in_name_loads(one: Registry) -> None:
    expected = registry._load(one._of)
    for name in one.builtin:
        assert isinstance(one.get(name), expected)


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.kind)
def test_an_unknown_name_is_an_error_that_names_the_nearest(one: Registry) -> None:
    name = next(iter(one.builtin))
    with pytest.raises(ConfigError, match=f"Unknown {one.kind} '{name}x' .did you mean '{name}'"):
        one.get(name + "x")


@pytest.mark.parametrize("name", ["", "Zürich", "\x1b]0;x\x07", "a" * 10_000, "prior "])
def test_hostile_names_are_unknown(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ALPHA_RULES.get(name)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_names_and_a_configuration_import_nothing(site: Path) -> None:
    install(site, "loud", "1.0", "[ensemw2s.alpha_rules]\nloud = loud:rule\n", "raise SystemExit('imported')")
    code = (
        "import sys\n"
        "from ensemw2s.config.composition import compose\n"
        "from ensemw2s.registry import ALPHA_RULES\n"
        "assert compose(sets=['boosting.alpha=loud']).config.boosting.alpha == 'loud'\n"
        "assert 'loud' in ALPHA_RULES.names()\n"
        "assert not {'loud', 'numpy', 'torch', 'ensemw2s.boosting'} & set(sys.modules)\n"
    )
    paths = [str(site), *(path for path in sys.path if path)]
    subprocess.run([sys.executable, "-P", "-c", f"import sys; sys.path[:] = {paths}\n{code}"], check=True, cwd=site)


def test_the_fingerprint_of_a_plug_in_holds_its_distribution_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for version in ("1.0", "1.1"):
        folder = tmp_path / version
        install(folder, "mine", version, "[ensemw2s.alpha_rules]\nmine = mine:rule\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            assert ALPHA_RULES.origin("mine") == f"mine {version}"
            assert ALPHA_RULES.names()[-1] == "mine"
            found.append(config_fingerprint(compose(sets=["boosting.alpha=mine"]).config))
    assert len(set(found)) == 2
    assert ALPHA_RULES.origin("prior") is None


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("", "has no attribute 'rule'"),
        ("rule = 3", "is no AlphaRule, but 3"),
        ("from ensemw2s.boosting.alpha import AlphaRule as rule", "is no AlphaRule"),
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("from ensemw2s.boosting.alpha import AlphaRule\nrule = AlphaRule(max, prior='last')", "prior is 'last'"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_an_error(site: Path, module: str, words: str) -> None:
    name = f"broken{abs(hash(module))}"
    install(site, name, "2.0", f"[ensemw2s.alpha_rules]\nbroken = {name}:rule\n", module)
    with pytest.raises(ConfigError) as caught:
        ALPHA_RULES.get("broken")
    assert words in str(caught.value)
    assert f"{name} 2.0" in str(caught.value)


def test_built_in_names_win_and_two_plug_ins_of_one_name_are_an_error(site: Path) -> None:
    points = "[ensemw2s.alpha_rules]\nprior = other:rule\nboth = other:rule\n"
    install(site, "other", "1.0", points)
    install(site, "another", "3.0", points)
    assert ALPHA_RULES.get("prior") is registry._load(ALPHA_RULES.builtin["prior"])
    assert ALPHA_RULES.names().count("prior") == 1
    with pytest.raises(ConfigError, match=r"offered by another 3\.0 and by other 1\.0"):
        ALPHA_RULES.get("both")


def test_a_configuration_names_the_nearest_and_lists_plug_ins(site: Path) -> None:
    install(site, "margins", "1.0", "[ensemw2s.alpha_rules]\nmargin = margins:rule\n")
    with pytest.raises(ConfigError) as caught:
        compose(sets=["boosting.alpha=margins"])
    assert "expected one of prior, adaptive, samme, binary, uniform, margin. Did you mean margin?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"boosting\.alpha is 3 .*expected one of prior, .*margin\."):
        compose(sets=["boosting.alpha=3"])
