"""Coverage-guided fuzzing of every parser (atheris); a finding is kept in ``cases/TARGET/`` and replayed by the suite.

python -P tests/fuzz/fuzz.py [TARGET …] [--seconds 60]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CASES = HERE / "cases"
sys.path.insert(0, str(HERE))


def fuzz_one(name: str, arguments: list[str]) -> None:
    """Fuzz a target in this process; ends it."""
    import atheris

    with atheris.instrument_imports(include=["ensemw2s"]):
        from targets import TARGETS, scratch

        target = TARGETS[name]
        with scratch() as folder:
            for seed in target.seeds():  # imports what the target needs, instrumented
                target(seed, folder)
    with scratch() as folder:
        atheris.Setup([sys.argv[0], *arguments], lambda data: target(data, folder))
        atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Fuzz a target in a process of its own; whether nothing was found."""
    from targets import TARGETS

    kept = CASES / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as corpus:
        for index, seed in enumerate(TARGETS[name].seeds()):
            Path(corpus, f"seed-{index}").write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1"]
        options += ["-close_fd_mask=1", f"-artifact_prefix={kept}/", corpus, str(kept)]
        command = [sys.executable, "-P", __file__, "--one", name, *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    executed = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    print(
        f"{name:<14} {executed[0] if executed else '?':>9} inputs  {'clean' if done.returncode == 0 else 'FOUND'}",
        flush=True,
    )
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-40:]), flush=True)
    if not any(kept.iterdir()):
        kept.rmdir()
    return done.returncode == 0


def main() -> int:
    """Fuzz the targets one after the other; returns the exit code."""
    from targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    options = parser.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    clean = [run(name, options.seconds) for name in options.targets or TARGETS]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        fuzz_one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
