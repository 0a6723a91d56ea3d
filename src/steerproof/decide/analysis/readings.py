"""What each outcome means for the question, in the words of the experiment's proposal."""

from collections.abc import Mapping

from steerproof.decide.analysis.kills import NOT_SPECIFIC, criteria
from steerproof.decide.analysis.records import ArmResult, StrengthResult
from steerproof.decide.analysis.rule import Outcome, Verdict, verdict_of
from steerproof.spec.experiment import Experiment

TRAINING_GAP = (
    "training gap: conventional training never gave the model a reason to read the direction; "
    "trained with it, the model reads it"
)
NOT_EXPRESSIVE = (
    "direction not expressive enough: the persona direction at this layer does not carry the "
    "ranking even when the model is trained against it"
)
NOTHING_TO_EXPLAIN = (
    "nothing to explain: the prompt-only arm passes too, so training with the direction is not "
    "what makes the model read it"
)
_PROMPT_ONLY_READS = (
    "nothing to explain: adapters trained on prompts alone already follow the direction"
)
_PROMPT_ONLY_FAILS = (
    "prompt-trained adapters do not follow the direction: whether for want of training with it or "
    "because it is not expressive enough, this table cannot say"
)
UNDECIDED = "undecided: this table does not answer the question either way"


def reading(outcome: str, experiment: Experiment, arm: str) -> str:
    """The proposal's reading of an outcome.

    Args:
        outcome: Why the verdict is what it is.
        experiment: Says which arms were trained on prompts alone.
        arm: The arm that the verdict is about.
    """
    own_reading = {criterion.name: criterion.reading for criterion in criteria()}.get(outcome)
    if own_reading is not None:
        return own_reading
    if outcome == Outcome.ISOTROPIC_PASSES:
        return NOT_SPECIFIC
    if outcome == Outcome.BASELINE_PASSES:
        return NOTHING_TO_EXPLAIN
    prompt_only = experiment.arm(arm).direction == "none"
    verdict = verdict_of(outcome)
    if verdict is Verdict.SUPPORTED:
        return _PROMPT_ONLY_READS if prompt_only else TRAINING_GAP
    if verdict is Verdict.REFUTED:
        return _PROMPT_ONLY_FAILS if prompt_only else NOT_EXPRESSIVE
    return UNDECIDED


def reason(outcome: str, experiment: Experiment, arms: Mapping[str, ArmResult], arm: str) -> str:
    """One sentence: what decided, with its numbers."""
    result = arms[arm]
    primary, limits = result.primary, experiment.analysis.thresholds
    at = f"arm {arm} at {primary.strength}"
    fired = [name for name, kill in result.kills.items() if kill.fired]
    unsure = [f"{n} ({k.reason})" for n, k in result.kills.items() if k.fired is None]
    others: dict[str, str | None] = {
        Outcome.ISOTROPIC_PASSES: experiment.analysis.isotropic_arm,
        Outcome.ISOTROPIC_UNDECIDED: experiment.analysis.isotropic_arm,
        Outcome.BASELINE_PASSES: experiment.analysis.baseline_arm,
        Outcome.BASELINE_UNDECIDED: experiment.analysis.baseline_arm,
    }
    other = others.get(outcome)
    if other is not None and other in arms:
        control = arms[other].primary
        state = "passes the rule too" if control.passes else "cannot be judged"
        why = "" if control.passes else f": {control.reason or 'no result'}"
        return (
            f"{at} passes ({_numbers(primary)}), but arm {other} {state} ({_numbers(control)}){why}"
        )
    if other is not None:
        return f"{at} passes ({_numbers(primary)}), but the table has no cells of arm {other}"
    sentences: dict[str, str] = {
        Outcome.MISSING_PERSONAS: f"{at}: {primary.reason}; the rule needs every headline persona",
        Outcome.UNDEFINED_RHO: f"{at} has no rho: {primary.reason}",
        Outcome.UNDEFINED_RESAMPLES: f"{at}, {_numbers(primary)}: {primary.reason}",
        Outcome.BELOW_THRESHOLD: (
            f"{at}: {_numbers(primary)}, wholly below the threshold {limits.rho:g}"
        ),
        Outcome.NO_INTERVAL: f"{at}, {_numbers(primary)}: {primary.reason}",
        Outcome.NOT_PASSED: (
            f"{at}: {_numbers(primary)}; passing needs rho >= {limits.rho:g} with a lower bound "
            "above 0, and the interval does not exclude the threshold"
        ),
        Outcome.KILL_UNDECIDED: (
            f"{at} passes ({_numbers(primary)}), undecided: {'; '.join(unsure)}"
        ),
        Outcome.SUPPORTED: f"{at} passes ({_numbers(primary)}), no kill fired, the controls fail",
    }
    return sentences.get(outcome, f"{at}, {_numbers(primary)}: kill fired: {', '.join(fired)}")


def _numbers(result: StrengthResult) -> str:
    """`rho = 0.71, 95% interval 0.35 to 0.88`, with what there is."""
    if result.rho is None:
        return "no rho"
    text = f"rho = {result.rho:z.2f}"
    if result.interval is None:
        return f"{text}, no interval"
    return f"{text}, interval {result.interval[0]:z.2f} to {result.interval[1]:z.2f}"
