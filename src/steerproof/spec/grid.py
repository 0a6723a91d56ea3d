"""What an experiment asks for, spelt out: every adapter and every cell."""

from dataclasses import dataclass

from steerproof.spec.experiment import DirectionKind, Experiment, PromptKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The LoRA weights of one (arm, persona)."""

    arm: str
    persona: str

    @property
    def name(self) -> str:
        """Readable identifier, `A.villain`."""
        return f"{self.arm}.{self.persona}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement: (adapter, prompt, direction, layer, strength)."""

    arm: str
    persona: str
    prompt: PromptKind
    direction: DirectionKind
    layer: int | None
    """Block index; none without a direction."""
    strength: str

    @property
    def adapter(self) -> Adapter:
        """The adapter that is measured."""
        return Adapter(arm=self.arm, persona=self.persona)

    @property
    def name(self) -> str:
        """Readable identifier, `A.villain.neutral.centroid.L4.c=+2`."""
        place = "none" if self.layer is None else f"{self.direction}.L{self.layer}.{self.strength}"
        return f"{self.arm}.{self.persona}.{self.prompt}.{place}"


def adapters(experiment: Experiment) -> tuple[Adapter, ...]:
    """Every adapter of the experiment, arm by arm, in file order."""
    return tuple(
        Adapter(arm=arm.name, persona=persona.name)
        for arm in experiment.arms
        for persona in experiment.personas
        if persona.headline or arm.supplementary
    )


def cells(experiment: Experiment) -> tuple[Cell, ...]:
    """Every cell of the experiment, in file order, each once.

    A cell at strength `none` has direction `none` and no layer, whatever its grid says.
    """
    found: dict[Cell, None] = {}
    for grid in experiment.cells:
        for name in grid.arms:
            arm = experiment.arm(name)
            own = "centroid" if arm.direction == "none" else arm.direction
            direction = grid.direction or own
            layer = experiment.layer(grid.layer or arm.layer)
            for persona in experiment.personas:
                if not (persona.headline or arm.supplementary):
                    continue
                for strength in grid.strengths:
                    still = strength == "none" or direction == "none"
                    cell = Cell(
                        arm=name,
                        persona=persona.name,
                        prompt=grid.prompt,
                        direction="none" if still else direction,
                        layer=None if still else layer,
                        strength="none" if still else strength,
                    )
                    found[cell] = None
    return tuple(found)
