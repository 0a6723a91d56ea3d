"""The `steerproof bench` command: a sub-command for each benchmark."""

from collections.abc import Callable, Collection
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from steerproof.cli.output import Device, Json, say
from steerproof_bench.comparison import Comparison, text, to_json

app = typer.Typer(
    help="Ours against named peers: same work, one process, the ratio last.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _option(kind: Any, said: str) -> Any:
    return Annotated[kind, typer.Option(help=said)]


_OPTIONS: dict[str, tuple[Any, object]] = {
    "model": (_option(str | None, "Checkpoint; default the organism."), None),
    "random_config": (
        _option(str | None, "Random weights: smollm2-135m, qwen2.5-7b, qwen2.5-32b, llama-70b."),
        None,
    ),
    "device": (Device, "auto"),
    "run": (_option(Path | None, "A finished run, for its adapters and rows."), None),
    "adapters": (_option(int, "Adapters, spread over all arms."), 12),
    "cells": (_option(int, "Cells to generate."), 24),
    "rows": (_option(int | None, "Rows of a cell (100), or of an adapter (about 600)."), None),
    "tokens": (_option(int | None, "New tokens of a row at most, or of a made-up answer."), None),
    "mean_tokens": (
        _option(int | None, "Mean answer of a random model; default: it never ends."),
        None,
    ),
    "repeats": (_option(int, "Timed rounds; 0 times the first."), 3),
    "peer_cells": (_option(int | None, "Cells that a peer does, its time multiplied."), None),
    "growth": (_option(bool, "Also time 1, 10, 40, 100 adapters."), False),
    "as_json": (Json, False),
}
"""What a benchmark of the engine can be asked for: the fields of `options.Options`, and `--json`.

Each with its type and its default."""
_OF_CELLS = frozenset({"cells", "mean_tokens", "peer_cells"})


def _command(compare: Callable[..., None], without: Collection[str] = ()) -> None:
    """Make a function a command that takes the options above."""
    options = {name: option for name, option in _OPTIONS.items() if name not in without}
    compare.__annotations__ = {name: kind for name, (kind, _) in options.items()}
    compare.__signature__ = Signature(  # type: ignore[attr-defined]  # where typer looks
        [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in options.items()
        ]
    )
    app.command()(compare)


def generation(*, device: str, as_json: bool, **sizes: Any) -> None:
    """Pooled generation against Transformers with PEFT, cell after cell."""
    from steerproof.run.driver.workers import choose_device
    from steerproof_bench.options import Options, bench_generation

    options = Options(device=choose_device(device), **sizes)
    _measure(lambda: bench_generation(options, _tell), as_json)


def training(*, device: str, as_json: bool, **sizes: Any) -> None:
    """Pooled training against TRL's `SFTTrainer`, adapter after adapter."""
    from steerproof.run.driver.workers import choose_device
    from steerproof_bench.options import Options, bench_training

    options = Options(device=choose_device(device), **sizes)
    _measure(lambda: bench_training(options, _tell), as_json)


_command(generation)
_command(training, without=_OF_CELLS)


@app.command()
def statistics(as_json: Json = False) -> None:
    """The registered bootstrap against its definition in plain loops."""
    from steerproof_bench.statistics import compare

    _measure(compare, as_json)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _measure(compare: Callable[[], Comparison], as_json: bool) -> None:
    found = to_json(compare())
    say(found, as_json, lambda: text(found))
