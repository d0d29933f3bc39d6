"""Stands in for a run of a sweep: writes results at once, and fails, dies or waits where the seed says so.

The name of the configuration tells what to do, in the cell with two rounds: ``fail-1`` fails with seed 1, ``die-1`` is
killed, ``wait-1`` stays until it is stopped and says so, ``once-1`` fails the first time only. The numbers come from
files in the folder ``SWEEP_JOB_RESULTS``, and the fingerprint from the order, to which test_sweep.py adds it: a process
imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

order = json.loads(Path(sys.argv[1]).read_text())
config = order["config"]
rounds = config["boosting"]["rounds"]
folder = Path(order["directory"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("name: x\n")
with (folder / "starts").open("a") as stream:
    stream.write("x")
kind, _, seed = config["name"].partition("-")
if seed == str(config["seed"]) and rounds == 2:
    if kind == "fail" or (kind == "once" and (folder / "starts").read_text() == "x"):
        print("Error: the data are bad.", file=sys.stderr)
        sys.exit(2)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "wait":

        def stopped(*_: object) -> None:
            (folder / "stopped").write_text("x")
            sys.exit(130)

        signal.signal(signal.SIGTERM, stopped)
        (folder / "waits").write_text("x")
        time.sleep(60)
right = 5 + rounds + config["seed"] % 2
results = json.loads((Path(os.environ["SWEEP_JOB_RESULTS"]) / f"{right}.json").read_text())
results |= {"name": config["name"], "seed": config["seed"], "config_fingerprint": order["fingerprint"]}
shutil.copyfile(Path(os.environ["SWEEP_JOB_RESULTS"]) / f"{right}.parquet", folder / "correct.parquet")
(folder / "results.json").write_text(json.dumps(results))
