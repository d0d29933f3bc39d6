"""One run in a process of its own: ``python -m ensemw2s.sweeps.job JOB.json``, as a sweep starts it.

``JOB.json`` holds ``config``, ``provenance``, ``preset``, ``directory``, ``date`` and ``shared``, the sweep's folder.
Nothing is read from the environment's settings: the sweep composed the configuration already. The process ends when its
parent does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from ensemw2s.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Ew2sError
from ensemw2s.sink import NullSink
from ensemw2s.text import printable

#: A line of the log that begins so says why the run failed.
ERROR_MARK = "Error: "

_WATCH_EVERY = 1.0


def main(arguments: list[str]) -> int:
    """Run the job in the file named by the only argument, and return the exit code."""
    from ensemw2s.config.schema import RunConfig

    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    try:
        from ensemw2s.pipeline.run import execute

        config = RunConfig.model_validate(job["config"])
        directory = Path(job["directory"])
        said = {name: job.get(name) for name in ("provenance", "preset", "date")}
        shared = Path(job["shared"]) if job.get("shared") else None
        execute(config, directory, sink=NullSink(), shared=shared, **said)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Ew2sError as error:
        print(printable(f"{ERROR_MARK}{' '.join(str(error).split())}"), file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        import traceback

        print(printable(traceback.format_exc(), "\n"), file=sys.stderr)
        text = " ".join(str(error).split()) or "no further words"
        print(printable(f"{ERROR_MARK}{type(error).__name__}: {text}"), file=sys.stderr, flush=True)
        return EXIT_FAILED
    return EXIT_OK


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch_parent(parent: int) -> None:
    """Stop, tidily, when the sweep that started this process is gone."""
    while os.getppid() == parent:
        time.sleep(_WATCH_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
