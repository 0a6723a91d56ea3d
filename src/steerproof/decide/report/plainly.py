"""The three answers for a reader who knows neither statistics nor the words of this field."""

from steerproof.decide.analysis.answer_records import Ranking, Reads
from steerproof.decide.analysis.rule import Verdict

RULE = {
    Verdict.SUPPORTED: "By the rule that was fixed beforehand, the claim holds.",
    Verdict.REFUTED: "By the rule that was fixed beforehand, the claim fails.",
    Verdict.INCONCLUSIVE: "By the rule that was fixed beforehand, the claim stays open.",
}
RANKED = {
    Ranking.CANNOT_ANSWER: "Whether pushes put the personas in the same order as prompts do, this "
    "run could not have shown.",
    Ranking.SUPPORTED: "Pushes put the personas in the same order as prompts do.",
    Ranking.REFUTED: "Pushes do not put the personas in the order that prompts do.",
    Ranking.INCONCLUSIVE: "Whether pushes put the personas in the same order as prompts do stays "
    "open.",
}
READ = {
    Reads.OWN: "An adapter answers to the push that it was trained with{own}, and less often to "
    "those of other personas{others}.",
    Reads.SUBSPACE: "An adapter answers to the push of any persona alike, not to its own.",
    Reads.NEGATIVES: "An adapter is silent at the pushes it was trained to ignore, and answers to "
    "all other personas' alike.",
    Reads.ANY: "An adapter answers to any push of that size, even a random one.",
    Reads.NONE: "An adapter does not answer to the push that it was trained with.",
    Reads.UNDECIDED: "Whether an adapter tells its own push from others stays open.",
    Reads.NOT_MEASURED: "No adapter was pushed along another persona's direction, so whether it "
    "tells its own from others was not asked.",
}
"""`{own}` and `{others}` take how often, in brackets."""
UNREAD = "Whether an adapter tells its own push from others cannot be said"
"""Where there is a matrix and nothing follows from it."""


def plainly(verdict: str, ranking: str, reads: str) -> tuple[str, str, str]:
    """One sentence an answer, without numbers; empty for a word that is none of ours.

    Args:
        verdict: The registered rule's.
        ranking: Of `Ranking`.
        reads: Of `Reads`.
    """
    known = {**READ, Reads.NOT_MEASURED: f"{UNREAD}."}
    ruled = {str(word): said for word, said in RULE.items()}
    ranked = {str(word): said for word, said in RANKED.items()}
    read = {str(word): said.format(own="", others="") for word, said in known.items()}
    return ruled.get(verdict, ""), ranked.get(ranking, ""), read.get(reads, "")
