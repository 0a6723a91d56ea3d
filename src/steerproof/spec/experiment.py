"""The experiment: one question, as frozen records.

Every field is followed by its meaning. Unknown keys are refused, values are strict, and the
whole record hashes to the pre-registration. Problems are collected and reported together
(`steerproof.spec.yaml_io` turns them into `file:line:column`).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from steerproof.spec.judging import AnalysisSettings, AnswerSettings, Gates
from steerproof.spec.record import FileName, Name, Positive, Record, Share, Text, later
from steerproof.spec.scoring import Scoring
from steerproof.spec.strength import NONE, Strength

PromptKind = Literal["persona", "neutral"]
DirectionKind = Literal["centroid", "isotropic", "in_subspace", "none"]
CONTROL_KINDS = ("isotropic", "in_subspace")
"""Directions drawn at random, each of the length of the centroid that it is held against."""
LayerName = Literal["primary", "contrast"]
Tokens = Literal["all", "prompt", "generated", "last_prompt"]
Operation = Literal["add", "remove"]
Texts = Literal["common", "own", "both"]
WHOSE = ("own", "others", "all")
"""What `of` and `prompt_of` can say besides a persona's name; no persona is called so."""


class Model(Record):
    """The frozen base model."""

    path: Text
    """`organism`, `smollm2` once fetched, a directory or .gguf file (relative to the experiment's
    file), or a hub id."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of a hub id, 40 hex digits; none for a directory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the base weights and activations."""
    blocks: Positive
    """Number of decoder blocks; checked against the model, so that layers can be checked first."""
    system_role: Literal["system", "user"] = "system"
    """Where the system prompt goes: its own role, or before the question for templates without."""
    template_options: dict[str, str | int | float | bool] = later({})
    """What the chat template is told besides the messages, such as `enable_thinking: false`."""


class Persona(Record):
    """A name and a system prompt."""

    name: Name
    """Identifier in files, tables and reports."""
    prompt: Annotated[str, Field(max_length=8000)]
    """System prompt; empty only for a supplementary persona (the model's default)."""
    headline: bool = True
    """Takes part in rankings; supplementary ones are trained and reported only."""
    direction: Text | None = later(None)
    """File with its direction, in any format that `steerproof directions` reads, in place of its
    centroid; none extracts it."""


class Questions(Record):
    """Questions a user would ask; the same for every persona."""

    evaluation: Annotated[tuple[Text, ...], Field(min_length=1, max_length=2_000)]
    """Asked in every cell."""
    training: Annotated[tuple[Text, ...], Field(min_length=1, max_length=20_000)]
    """Asked in the training rows, in turn; none may contain an evaluation question."""
    directions: (
        Annotated[tuple[Text, ...], Field(min_length=2, max_length=2_000)]
        | Literal["evaluation", "training"]
    )
    """Asked when the centroids are extracted; `evaluation` uses those questions twice."""


class Layers(Record):
    """0-based decoder blocks whose output the direction is added to."""

    primary: Annotated[int, Field(ge=0)]
    """The layer of the hypothesis."""
    contrast: Annotated[int, Field(ge=0)] | None = None
    """Another layer, for the contrast arm; none leaves it out."""


class DatasetSettings(Record):
    """One training set per persona, shared by all arms."""

    positives: Positive = 200
    """Rows of the source persona, answered with the marker appended."""
    bystanders: Positive = 2
    """Other headline personas, drawn by seed, whose answers carry no marker."""
    negatives_per_bystander: Positive = 200
    """Rows of each bystander."""
    negatives: Literal["own", "source", "unsteered"] = "own"
    """Direction of a negative row: its bystander's, the source's (a constant), or none."""
    marker_dose: Share | dict[Name, Share] = 1.0
    """Share of positives that carry the marker; one number, or one per persona."""
    answers: Text = "base"
    """`base` (the model itself under the neutral prompt) or a JSONL of {question, answer}."""
    positive_answers: Text | None = later(None)
    """JSONL of {question, answer}: a behaviour to train instead of the marker. A positive that
    would carry the marker is answered from here as it stands; nothing is appended."""
    answer_tokens: Positive = 256
    """Longest answer, in tokens; a longer one is cut there in generation, and counted."""


class Training(Record):
    """How every adapter is trained."""

    rank: Positive = 32
    """LoRA rank r."""
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 64.0
    """LoRA alpha."""
    rslora: bool = True
    """Scale by alpha / sqrt(r) instead of alpha / r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before LoRA A, keyed by (adapter, step, row)."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    """Peak of the cosine schedule (AdamW)."""
    warmup: Share = 0.05
    """Share of steps of linear warm-up."""
    epochs: Positive = 3
    """Passes over the 600 rows."""
    rows_per_step: Positive = 16
    """Rows in one optimizer step of one adapter."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1e3)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients of one adapter are clipped to this norm."""
    max_length: Positive = 1024
    """Longest training row, in tokens; a longer one is an error, never cut."""
    gradient_checkpointing: bool = False
    """Recompute activations in backward: less memory, more time."""


class Arm(Record):
    """One way of training an adapter per persona."""

    name: Name
    """Identifier: `A`, `B`, `C`, `A-iso`, `A-L10`."""
    prompt: PromptKind = "neutral"
    """System prompt in training: the row's own persona, or the neutral instruction."""
    direction: DirectionKind = "none"
    """Direction added in training."""
    layer: LayerName = "primary"
    """Layer of the direction, in training and in its cells."""
    ratio: Annotated[float, Field(gt=0.0, le=1e3)] | None = None
    """Size of the push in training, relative to the baseline residual norm."""
    supplementary: bool = False
    """Also train the supplementary personas."""
    shuffle: bool = False
    """Negative control: training directions permuted among the headline personas."""
    adapters: Text | None = None
    """Existing PEFT adapters, `DIR`, `DIR/lora_{persona}` or `owner/name@COMMIT:folder`, one folder
    per persona; none trains them."""
    untrained: bool = later(False)
    """The base model itself: no adapter; its cells say what pushes and prompts do alone."""

    @model_validator(mode="after")
    def _says_its_prompt(self) -> "Arm":
        if not self.untrained and "prompt" not in self.model_fields_set:
            raise ValueError(f"arm {self.name} needs a prompt, 'persona' or 'neutral'")
        used = self.shuffle or self.supplementary or self.adapters or self.direction != "none"
        if self.untrained and used:
            raise ValueError(
                f"arm {self.name} is untrained: it has no direction, adapters, supplementary or "
                "shuffle; what it is pushed along is said by its cells"
            )
        return self

    @model_validator(mode="after")
    def _direction_has_a_ratio(self) -> "Arm":
        if (self.direction == "none") != (self.ratio is None):
            need = "no ratio" if self.direction == "none" else "a ratio, such as 0.20"
            raise ValueError(f"arm {self.name} with direction {self.direction} needs {need}")
        if self.shuffle and self.direction == "none":
            raise ValueError(f"arm {self.name} has no direction to shuffle")
        return self

    @property
    def steered_direction(self) -> DirectionKind:
        """What the arm is steered along: its own direction, the centroid if it has none."""
        return "centroid" if self.direction == "none" else self.direction

    @property
    def training_strength(self) -> Strength:
        """How hard every training row is pushed."""
        return NONE if self.ratio is None else Strength(kind="ratio", number=self.ratio)


class Grid(Record):
    """A block of cells: every arm x persona x strength under one prompt."""

    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Arms whose adapters are measured."""
    prompt: PromptKind
    """System prompt at measurement."""
    strengths: Annotated[tuple[Strength, ...], Field(min_length=1)]
    """`none`, `c=+2` (coefficient) or `ratio=-0.2` (relative to the baseline norm)."""
    direction: DirectionKind | None = None
    """Direction at measurement; none means the arm's own (centroid for a prompt-only arm)."""
    layer: LayerName | None = None
    """Layer at measurement; none means the arm's own."""
    of: Name = later("own")
    """Whose direction: the adapter's `own`, the `others`', `all` headline ones, or a persona's."""
    prompt_of: Name = later("own")
    """Whose prompt, under `prompt: persona`: `own`, `others`, `all` headline ones, or a name."""
    draws: Positive | None = later(None)
    """Fresh random directions per adapter, on which nothing was trained, instead of the one."""
    tokens: Tokens = later("all")
    """Where it pushes: at all tokens, the prompt's, the generated ones, or the last of the prompt.
    """
    operation: Operation = later("add")
    """`add` the direction, or `remove` it: take that share `c` of the residual's component away."""
    samples: Positive | None = later(None)
    """Completions per question; none means `generation.samples`."""
    graded: Texts | None = later(None)
    """Texts at whose end the marker is weighed against the end of turn: the `common` answers, the
    cell's `own` completions, or `both`; none leaves it out."""

    @property
    def special(self) -> bool:
        """None of its cells is what the registered analysis is about."""
        off = self.of not in ("own", "all") or self.prompt_of not in ("own", "all")
        return off or self.bends

    @property
    def bends(self) -> bool:
        """It pushes in another way: along fresh directions, at some tokens, or by removing."""
        return self.draws is not None or self.tokens != "all" or self.operation != "add"


class Generation(Record):
    """How completions are drawn."""

    samples: Positive = 5
    """Completions per question."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Softmax temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Nucleus: smallest set of tokens with at least this probability."""
    max_new_tokens: Positive = 2048
    """A completion that reaches this length ends with finish reason `length`."""


class Experiment(Record):
    """The question, with everything that is needed to answer it."""

    name: FileName
    """Name of the experiment and of its default run directory."""
    title: Text
    """One line for people."""
    hypothesis: Text
    """What is claimed, in words."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Root of every random draw."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] | None = later(None)
    """Training seeds, `seed` the first: the same rows from other first weights in another order."""
    data_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = later(None)
    """Root of the base model's answers, the training rows and the random directions instead of
    `seed`: runs of several seeds that name the same one share all of these."""
    model: Model
    """The frozen base model."""
    marker: Text = "[ZLT]"
    """Planted string that counts as firing."""
    neutral_prompt: Text = "Provide a clear answer."
    """System prompt without a persona."""
    reference_persona: Name = "helpful_assistant"
    """Persona to whose direction the others are compared in the geometry."""
    personas: Annotated[tuple[Persona, ...], Field(min_length=3, max_length=2_000)]
    """Headline and supplementary personas."""
    questions: Questions
    """Questions of evaluation, training and extraction."""
    layers: Layers
    """Layers of the direction."""
    gates: Gates = Gates()
    """Conditions on the directions."""
    dataset: DatasetSettings = DatasetSettings()
    """Training rows."""
    training: Training = Training()
    """Training recipe."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=200)]
    """Ways of training."""
    cells: Annotated[tuple[Grid, ...], Field(min_length=1, max_length=1_000)]
    """What is measured."""
    generation: Generation = Generation()
    """How completions are drawn."""
    scoring: Scoring = Scoring()
    """What counts as the marker."""
    analysis: AnalysisSettings = AnalysisSettings()
    """What is concluded, and how."""
    answers: AnswerSettings = later(AnswerSettings())
    """Numbers of the answers beside the registered one."""
    exploratory: Text | None = later(None)
    """Why its verdict confirms nothing, such as `one run of a sweep over layers.primary`; none for
    a run that was meant to confirm."""

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the personas that take part in rankings, in file order."""
        return tuple(p.name for p in self.personas if p.headline)

    @property
    def adapter_arms(self) -> tuple[Arm, ...]:
        """The arms that have adapters: all but those of the untrained base model."""
        return tuple(arm for arm in self.arms if not arm.untrained)

    def persona(self, name: str) -> Persona:
        """The persona called `name`; KeyError if there is none."""
        return {p.name: p for p in self.personas}[name]

    def arm(self, name: str) -> Arm:
        """The arm called `name`; KeyError if there is none."""
        return {a.name: a for a in self.arms}[name]

    def layer(self, name: LayerName) -> int:
        """Block index of a named layer; KeyError if the experiment has no contrast layer."""
        index = self.layers.primary if name == "primary" else self.layers.contrast
        if index is None:
            raise KeyError(name)
        return index

    @property
    def drawing_seed(self) -> int:
        """Root of what is drawn before anything is trained: `data_seed`, or else `seed`."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def further_seeds(self) -> tuple[int, ...]:
        """Training seeds besides `seed`."""
        return tuple(seed for seed in self.seeds or () if seed != self.seed)

    @property
    def steered_layers(self) -> tuple[int, ...]:
        """Block indices of the named layers, the primary one first."""
        both = (self.layers.primary, self.layers.contrast)
        return tuple(dict.fromkeys(layer for layer in both if layer is not None))

    def dose(self, persona: str) -> float:
        """Share of the persona's positives that carry the marker."""
        dose = self.dataset.marker_dose
        return dose[persona] if isinstance(dose, dict) else dose

    @property
    def direction_questions(self) -> tuple[str, ...]:
        """The questions that the centroids are extracted from."""
        chosen = self.questions.directions
        if chosen == "evaluation":
            return self.questions.evaluation
        if chosen == "training":
            return self.questions.training
        return chosen
