"""Available memory, within control groups too, and visible devices."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from ensemw2s import resources
from ensemw2s.resources import bounded_memory


@pytest.mark.parametrize(
    ("limit", "used", "reclaimable", "available"),
    [
        (1000, 900, 50, 150),
        (300, 200, 0, 100),
        (300, 300, 0, 0),
        (50, 200, 0, 0),  # lowered below what is used
        (50, 200, 170, 20),
        (2**60, 0, 0, None),
        ("max", 200, 0, None),
    ],
)
def test_memory_of_a_container(
    limit: int | str,
    used: int,
    reclaimable: int,
    available: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None: what the machine has, since the control group allows more."""
    machine = psutil.virtual_memory()
    monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: machine)
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {reclaimable}\nactive_file 7\n")
    assert resources.available_memory(tmp_path) == (machine.available if available is None else available)


@pytest.mark.parametrize("missing", ["memory.max", "memory.current", "memory.stat"])
def test_memory_without_a_control_group(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = psutil.virtual_memory()
    monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: machine)
    for name in {"memory.max", "memory.current", "memory.stat"} - {missing}:
        (tmp_path / name).write_text("" if name == "memory.stat" else "10")
    assert resources.available_memory(tmp_path) == machine.available > 2**20


def test_processes_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resources.process_memory(os.getpid()) > 2**20
    assert resources.process_memory(2**22 + 12345) == 0
    assert resources.visible_devices({"CUDA_VISIBLE_DEVICES": "1, 3"}) == ["1", "3"]
    assert resources.visible_devices({"CUDA_VISIBLE_DEVICES": ""}) == []
    monkeypatch.setattr(resources.shutil, "which", lambda name: None)
    assert resources.visible_devices({}) == []
    assert resources.device_memory("0") is None
    monkeypatch.setattr(resources, "_ask", lambda field, device=None: ["81000"] if device else ["0", "1"])
    assert resources.visible_devices({}) == ["0", "1"]
    assert resources.device_memory("1") == 81000 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_memory_is_bounded_within_the_block_alone():
    with pytest.raises(MemoryError), bounded_memory(2**28):
        np.empty(2**30, dtype=np.uint8)
    with bounded_memory(2**30):
        assert np.empty(2**28, dtype=np.uint8).size == 2**28
        with pytest.raises(MemoryError), bounded_memory(2**20):
            np.empty(2**29, dtype=np.uint8)
        assert np.empty(2**28, dtype=np.uint8).size == 2**28
    assert np.empty(2**30, dtype=np.uint8).size == 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_threads_that_bound_memory_leave_no_limit_behind():
    import resource

    before, inside = resource.getrlimit(resource.RLIMIT_AS), threading.Event()

    def other() -> None:
        with bounded_memory(2**32):
            inside.set()

    thread = threading.Thread(target=other)
    with bounded_memory(2**33):
        thread.start()
        inside.wait(0.1)
    thread.join()
    assert inside.is_set()
    assert resource.getrlimit(resource.RLIMIT_AS) == before
