"""``lm-eval``: the LM Evaluation Harness's own command, with saved ensembles among its models."""

from __future__ import annotations

import importlib.util
import sys

import typer

from ensemw2s.cli.help import help_text
from ensemw2s.errors import EXIT_OK, InputError


def lm_eval(context: typer.Context) -> None:
    """Run ``lm-eval`` in this process, with ensembles known to ``transformers``."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "lm-eval is not installed.", hint="Install it: pip install 'ensemw2s[lm-eval]' (or pip install lm-eval)."
        )
    from lm_eval.__main__ import cli_evaluate

    import ensemw2s.ensemble  # noqa: F401  (registers saved ensembles with the Auto classes)

    before = sys.argv
    sys.argv = ["lm-eval", *context.args]
    try:
        cli_evaluate()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code != EXIT_OK:
            raise typer.Exit(code) from None
    finally:
        sys.argv = before


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "lm-eval",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "max_content_width": 100},
        help=help_text(
            "Run the LM Evaluation Harness on saved ensembles.",
            [
                "ew2s export ensemble runs/… my-ensemble",
                "ew2s lm-eval --model_args pretrained=my-ensemble --tasks arc_easy",
                "ew2s lm-eval -- --help                    # lm-eval's own help",
            ],
            "All arguments go to lm-eval (its model is hf by default). A folder of `ew2s export ensemble` is a model "
            "like any other, and `ew2s export task` makes a task of your questions.",
            "Needs the extra lm-eval: pip install 'ensemw2s[lm-eval]'.",
        ),
    )(lm_eval)
