"""What distinguishes one run from another, in few words: model, seeds, training."""

from pathlib import PurePosixPath

from steerproof.spec.experiment import Experiment


def model(experiment: Experiment) -> str:
    """The model's own name: the last part of its path or hub id."""
    return PurePosixPath(experiment.model.path.replace("\\", "/")).name or experiment.model.path


def seeds(experiment: Experiment) -> str:
    """`0`, or `0, 1, 2` where adapters were trained more than once."""
    return ", ".join(str(seed) for seed in experiment.seeds or (experiment.seed,))


def training(experiment: Experiment) -> str:
    """`lr 1e-05, rank 32, 3 epochs of 600 rows, layer 10`; whether adapters were given."""
    recipe, data = experiment.training, experiment.dataset
    layer = f"layer {experiment.layers.primary}"
    if all(arm.adapters is not None for arm in experiment.arms):
        return f"given adapters, {layer}"
    rows = data.positives + data.bystanders * data.negatives_per_bystander
    epochs = f"{recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'} of {rows:,} rows"
    return f"lr {recipe.learning_rate:g}, rank {recipe.rank}, {epochs}, {layer}"


def in_full(experiment: Experiment) -> str:
    """Model, seeds and training in one line."""
    many = "seeds" if experiment.seeds and len(experiment.seeds) > 1 else "seed"
    return f"{model(experiment)}, {many} {seeds(experiment)}, {training(experiment)}"
