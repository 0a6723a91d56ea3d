"""The `steerproof bench` command: a sub-command for each benchmark."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from steerproof.cli.output import Device, Json, say
from steerproof_bench.comparison import Comparison, text, to_json

app = typer.Typer(
    help="Ours against named peers: same work, one process, the ratio last.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Model = Annotated[str | None, typer.Option(help="Checkpoint; default the organism.")]
RandomConfig = Annotated[
    str | None, typer.Option(help="Random weights at a true size: qwen2.5-7b.")
]
Run = Annotated[Path | None, typer.Option(help="A finished run, for its adapters and rows.")]
Adapters = Annotated[int, typer.Option(help="Adapters, spread over all arms.")]
Repeats = Annotated[int, typer.Option(help="Timed rounds; 0 times the first.")]
Growth = Annotated[bool, typer.Option(help="Also time 1, 10, 40, 100 adapters.")]


@app.command()
def generation(
    model: Model = None,
    random_config: RandomConfig = None,
    device: Device = "auto",
    run: Run = None,
    adapters: Adapters = 12,
    cells: Annotated[int, typer.Option(help="Cells to generate.")] = 24,
    rows: Annotated[int, typer.Option(help="Rows of a cell.")] = 100,
    tokens: Annotated[int | None, typer.Option(help="New tokens of a row at most.")] = None,
    mean_tokens: Annotated[
        int | None, typer.Option(help="Mean answer of a random model; default: it never ends.")
    ] = None,
    repeats: Repeats = 3,
    peer_cells: Annotated[
        int | None, typer.Option(help="Cells that a peer does, its time multiplied.")
    ] = None,
    growth: Growth = False,
    as_json: Json = False,
) -> None:
    """Pooled generation against Transformers with PEFT, cell after cell."""
    from steerproof.run.driver.workers import choose_device
    from steerproof_bench.options import Options, bench_generation

    options = Options(
        model=model,
        random_config=random_config,
        device=choose_device(device),
        run=run,
        adapters=adapters,
        cells=cells,
        rows=rows,
        tokens=tokens,
        mean_tokens=mean_tokens,
        repeats=repeats,
        peer_cells=peer_cells,
        growth=growth,
    )
    _measure(lambda: bench_generation(options, _tell), as_json)


@app.command()
def training(
    model: Model = None,
    random_config: RandomConfig = None,
    device: Device = "auto",
    run: Run = None,
    adapters: Adapters = 12,
    rows: Annotated[int | None, typer.Option(help="Rows of an adapter; default about 600.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Length of a made-up answer.")] = None,
    repeats: Repeats = 3,
    growth: Growth = False,
    as_json: Json = False,
) -> None:
    """Pooled training against TRL's `SFTTrainer`, adapter after adapter."""
    from steerproof.run.driver.workers import choose_device
    from steerproof_bench.options import Options, bench_training

    options = Options(
        model=model,
        random_config=random_config,
        device=choose_device(device),
        run=run,
        adapters=adapters,
        rows=rows,
        tokens=tokens,
        repeats=repeats,
        growth=growth,
    )
    _measure(lambda: bench_training(options, _tell), as_json)


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
