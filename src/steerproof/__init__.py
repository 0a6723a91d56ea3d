"""steerproof: does a language model read a direction in its activations?

    import steerproof as sp

    base = sp.load("organism")
    geometry = sp.directions(base, personas, questions, neutral="Be clear.", layers=[3])
    push = geometry[3].push("villain", ratio=0.2)
    sp.complete(base, "What is rain?", push=push, samples=5)

The public names are those of `__all__`; each is imported when it is first used, so that importing
the package takes no torch. Everything else is inside and may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerproof.decide.analysis.records import Analysis
    from steerproof.door.adapter import Adapter
    from steerproof.door.analysis import analyze
    from steerproof.door.direction_files import read_directions
    from steerproof.door.geometry import directions
    from steerproof.door.measure import measure, rates
    from steerproof.door.models import load
    from steerproof.door.runs import Run, open_run
    from steerproof.door.steer import SteerAudit, steer
    from steerproof.door.text import complete, score
    from steerproof.door.train import Chat, Job, train
    from steerproof.errors import SteerproofError
    from steerproof.exchange.direction import Direction
    from steerproof.exchange.training import SteeringCallback, steered_training
    from steerproof.model.base import Base
    from steerproof.model.push import Push
    from steerproof.spec.experiment import Experiment, Training
    from steerproof.spec.strength import Strength
    from steerproof.spec.yaml_io import load_experiment
    from steerproof.study.geometry import LayerGeometry
    from steerproof.study.measured import Completion, MeasuredCell

__version__ = "0.1.0"

_PLACES = {
    "Adapter": "door.adapter",
    "Analysis": "decide.analysis.records",
    "Base": "model.base",
    "Chat": "door.train",
    "Completion": "study.measured",
    "Direction": "exchange.direction",
    "Experiment": "spec.experiment",
    "Job": "door.train",
    "LayerGeometry": "study.geometry",
    "MeasuredCell": "study.measured",
    "Push": "model.push",
    "Run": "door.runs",
    "SteerAudit": "door.steer",
    "SteeringCallback": "exchange.training",
    "SteerproofError": "errors",
    "Strength": "spec.strength",
    "Training": "spec.experiment",
    "analyze": "door.analysis",
    "complete": "door.text",
    "directions": "door.geometry",
    "load": "door.models",
    "load_experiment": "spec.yaml_io",
    "measure": "door.measure",
    "open_run": "door.runs",
    "rates": "door.measure",
    "read_directions": "door.direction_files",
    "score": "door.text",
    "steer": "door.steer",
    "steered_training": "exchange.training",
    "train": "door.train",
}
"""The module of every public name."""

__all__ = [
    "Adapter",
    "Analysis",
    "Base",
    "Chat",
    "Completion",
    "Direction",
    "Experiment",
    "Job",
    "LayerGeometry",
    "MeasuredCell",
    "Push",
    "Run",
    "SteerAudit",
    "SteeringCallback",
    "SteerproofError",
    "Strength",
    "Training",
    "analyze",
    "complete",
    "directions",
    "load",
    "load_experiment",
    "measure",
    "open_run",
    "rates",
    "read_directions",
    "score",
    "steer",
    "steered_training",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        AttributeError: It is not public.
        MachineError: It needs a library of the engine, which is not installed.
    """
    if name not in _PLACES:
        raise AttributeError(f"module 'steerproof' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"steerproof.{_PLACES[name]}"), name)
    except ModuleNotFoundError as error:
        from steerproof.extras import lacking

        raise (lacking(error) or error) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
