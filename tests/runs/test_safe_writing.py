"""Writing never leaves the folder that it was meant for, and never leaves half a file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ensemw2s.errors import EXIT_USAGE, InputError
from ensemw2s.files import open_in_place, replaced, write_text
from ensemw2s.outputs import refuse_links


def test_a_link_at_the_name_or_at_the_temporary_name_is_replaced_and_never_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").symlink_to(victim)
    (folder / f".results.json.{os.getpid()}.tmp").symlink_to(victim)
    write_text(folder / "results.json", "new")
    assert victim.read_text() == "mine"
    assert not (folder / "results.json").is_symlink()
    assert (folder / "results.json").read_text() == "new"


def test_an_error_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "a") as temporary:
        temporary.write_text("half" * (1 // 0))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "名" * 85])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "a", "x")
    os.close(open_in_place(tmp_path / "b", os.O_RDWR))
    assert {(tmp_path / name).stat().st_mode for name in ("a", "b")} == {(tmp_path / "usual").stat().st_mode}


def _entry(kind: str, place: Path, victim: Path) -> None:
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "dangling":
        place.symlink_to(victim.with_name("nowhere"))
    elif kind == "hard":
        place.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(place))  # an absolute one can be too long
    else:
        place.mkdir()


@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "pipe", "socket", "folder"])
def test_what_is_appended_to_is_a_regular_file_with_one_name(tmp_path: Path, kind: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    folder.mkdir()
    _entry(kind, folder / "events.jsonl", victim)
    with pytest.raises(OSError, match=r"events\.jsonl"):
        open_in_place(folder / "events.jsonl", os.O_RDWR | os.O_APPEND)
    with pytest.raises(InputError, match=r"events\.jsonl") as caught:
        refuse_links(folder, in_place=["events.jsonl"])
    assert caught.value.exit_code == EXIT_USAGE
    assert victim.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "victim"]


@pytest.mark.parametrize("place", ["report", "student", "experts/round-01.partial/model", "labels/x.stale/deep/down"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_links_are_refused_by_name_at_any_depth(tmp_path: Path, place: str, kind: str) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    (folder / place).parent.mkdir(parents=True)
    _entry(kind, folder / place, victim)
    for names in ((), (place,), (f"{place}/more/below",), (place.split("/")[0],)):
        with pytest.raises(InputError, match=place.replace(".", r"\.")):
            refuse_links(folder, *names)
    refuse_links(folder, "elsewhere/below")
    assert [p.name for p in victim.iterdir()] == ["file"]


def test_the_folder_itself_may_be_a_link_and_need_not_exist(tmp_path: Path) -> None:
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "run", "data", in_place=["events.jsonl"])
    refuse_links(tmp_path / "none")
