"""`doctor`, `power`, `bench`: whether this machine, and this design, will do, and how fast."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

import steerproof
from steerproof import tables
from steerproof.cli import waiting
from steerproof.cli.output import Device, Json, Source, Where, say
from steerproof.errors import MachineError, SteerproofError


def doctor(
    experiment: Source = "zlt",
    directory: Where = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Is this machine fit for an experiment? Exit 3 if not."""
    from steerproof.run.commands.basemodel import describe_model, needs_of
    from steerproof.run.commands.doctor import FAIL
    from steerproof.run.commands.doctor import doctor as examine
    from steerproof.run.driver.workers import choose_device
    from steerproof.spec.yaml_io import load_experiment

    loaded = load_experiment(experiment)
    place = directory or Path("runs") / loaded.experiment.name
    needs = needs_of(loaded, device)

    def model() -> str:
        waiting.begin(waiting.MODEL)
        return describe_model(loaded, choose_device(device))

    checks = examine(place, needs, model)
    say(checks, as_json, lambda: tables.doctor_table(checks))
    unfit = [check.name for check in checks if check.level == FAIL]
    if unfit:
        raise MachineError(f"unfit for {loaded.experiment.name}: {', '.join(unfit)}")


def power(
    experiment: Source,
    simulations: Annotated[int, typer.Option(help="Simulated experiments per correlation.")] = 400,
    as_json: Json = False,
) -> None:
    """How often the verdict would be right and wrong.

    By simulation of the real decision.
    """
    from steerproof.decide.review.power import operating_characteristics, to_json, trial_of
    from steerproof.spec.yaml_io import load_experiment

    asked = load_experiment(experiment).experiment
    characteristics = operating_characteristics(trial_of(asked, simulations=simulations))
    say(to_json(characteristics), as_json, lambda: tables.power_table(characteristics))


def bench(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Ours against named peers; from a checkout alone.

    Generation, training or statistics.
    """
    place = Path(__file__).parents[3] / "benchmarks"
    if not (place / "steerproof_bench").is_dir():
        raise SteerproofError(
            "the benchmarks are not part of the installed package; get the source tree of"
            f" steerproof {steerproof.__version__}, run `make` in it, then"
            " `.venv/bin/steerproof bench` there"
        )
    if str(place) not in sys.path:
        sys.path.append(str(place))
    command = typer.main.get_command(importlib.import_module("steerproof_bench.command").app)
    command.main(arguments or [], prog_name="steerproof bench", standalone_mode=False)
