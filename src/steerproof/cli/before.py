"""`doctor` and `power`: whether this machine, and this design, will do."""

from pathlib import Path
from typing import Annotated

import typer

from steerproof import tables
from steerproof.cli import waiting
from steerproof.cli.output import Device, Json, Source, Where, say
from steerproof.errors import MachineError


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
        waiting.begin("looking into the model, its tokenizer and every prompt")
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
