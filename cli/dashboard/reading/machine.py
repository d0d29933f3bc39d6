"""Load of this machine: processors, memory, GPUs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU: load in per cent, memory in bytes, temperature in °C (NaN where it is not told)."""

    name: str
    load: float
    memory: float
    memory_total: float
    temperature: float


@dataclass(frozen=True)
class Sample:
    """The machine at one moment: loads in per cent, memory in bytes."""

    cpu: float
    cores: list[float]
    memory: float
    memory_total: float
    swap: float
    load_average: float
    gpus: list[Gpu] = field(default_factory=list)
    gpu_note: str = ""


class Machine:
    """Samples the machine; GPUs through ``nvidia-ml-py`` where it is installed."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._note = ""
        self._tried = False

    def sample(self) -> Sample:
        """Load of the machine; that of processors is since the last call."""
        import psutil

        cores = [float(value) for value in psutil.cpu_percent(percpu=True)]
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return Sample(
            cpu=sum(cores) / len(cores) if cores else float("nan"),
            cores=cores,
            memory=float(memory.total - memory.available),
            memory_total=float(memory.total),
            swap=float(swap.used),
            load_average=float(psutil.getloadavg()[0]),
            gpus=self._gpus(),
            gpu_note=self._note,
        )

    def _open(self) -> None:
        self._tried = True
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            self._note = "GPUs are not shown: nvidia-ml-py is not installed."
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._note = f"No NVIDIA GPU ({error})."
            return
        self._nvml = nvml

    def _gpus(self) -> list[Gpu]:
        if not self._tried:
            self._open()
        nvml = self._nvml
        if nvml is None:
            return []
        try:
            return [_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            self._note = f"The GPUs cannot be read ({error})."
            return []


def _gpu(nvml: Any, handle: Any) -> Gpu:
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        load = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError:  # not told for a part of a GPU
        load = float("nan")
    try:
        temperature = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    except nvml.NVMLError:
        temperature = float("nan")
    return Gpu(
        name.decode() if isinstance(name, bytes) else str(name),
        load,
        float(memory.used),
        float(memory.total),
        temperature,
    )
