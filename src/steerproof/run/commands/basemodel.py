"""The base model of an experiment, as far as planning and `doctor` look at it."""

from pathlib import Path
from typing import TYPE_CHECKING

from steerproof.decide.review.plan import Plan, make_plan
from steerproof.decide.review.shape import Footprint, shape_of
from steerproof.errors import MachineError, ModelError
from steerproof.model.files import find_directory, read_config
from steerproof.run.commands.doctor import Needs, unfit
from steerproof.run.commands.preflight import check_experiment, check_numbers
from steerproof.run.driver.workers import gpus_of
from steerproof.run.graph.environment import Place, model_directory, model_path
from steerproof.run.graph.inputs import Slices
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import adapters
from steerproof.spec.yaml_io import Loaded

if TYPE_CHECKING:
    from steerproof.model.base import Base


def load_model(experiment: Experiment, place: Place) -> "Base":
    """Load it.

    Raises:
        ModelError: It is unusable.
    """
    from steerproof.model.base import load_base

    model = experiment.model
    return load_base(
        model_path(experiment, place.directory),
        revision=model.revision,
        dtype=model.dtype,
        device=place.device,
        system_role=model.system_role,
        template_options=model.template_options,
    )


def model_shape(experiment: Experiment, place: Place) -> Footprint | None:
    """From the checkpoint's config.json, if it is on this machine.

    Raises:
        ModelError: A local model is not there.
    """
    path = model_path(experiment, place.directory)
    if experiment.model.revision is not None and not Path(path).is_dir():
        return None
    return shape_of(read_config(find_directory(path, experiment.model.revision, weights=False)))


def needs_of(loaded: Loaded, device: str) -> Needs:
    """What the plan asks of the machine, for `doctor`; zero where the plan cannot say.

    Args:
        loaded: The experiment.
        device: As asked for on the command line.
    """
    place = Place(directory=loaded.directory)
    try:
        shape = model_shape(loaded.experiment, place)
    except ModelError:  # doctor's own look at the model says what is wrong with it
        return Needs()
    return needs_of_plan(make_plan(loaded.experiment, shape=shape), device)


def needs_of_plan(plan: Plan, device: str) -> Needs:
    """What a plan asks of a machine on which it runs on this device."""
    disk, memory = plan.disk_bytes, plan.memory_bytes
    gpus = gpus_of(device)
    return Needs(
        disk=int(disk.high) if disk else 0,
        memory=int(memory.low) if memory and not gpus else 0,
        gpus=gpus,
    )


def require_room(loaded: Loaded, run: Path, device: str) -> None:
    """Refuse to begin what memory or disk cannot hold, in the words of `doctor`.

    Raises:
        MachineError: They will not do; nothing was begun.
    """
    if lacking := unfit(run, needs_of(loaded, device)):
        raise MachineError("\n".join(lacking))


def describe_model(loaded: Loaded, device: str) -> str:
    """Ask all that `run` asks of the model, answers and adapters; what the model is, in a line.

    Raises:
        ModelError: As `check_experiment` and `check_numbers`.
        ExperimentError: As `check_experiment`.
    """
    experiment, place = loaded.experiment, Place(directory=loaded.directory, device=device)
    model_directory(experiment, place.directory, weights=False)
    # What `plan` and `run` meet first: the files that the experiment names are there.
    named = Slices(experiment, place.directory)
    named.answers()
    named.score()
    for adapter in adapters(experiment):
        named.adapter(adapter)
    kind = check_experiment(experiment, place)
    check_numbers(experiment, place)
    return (
        f"{kind.name}, {kind.blocks} blocks, {kind.parameters:,} parameters, context"
        f" {kind.context}; every prompt fits"
    )
