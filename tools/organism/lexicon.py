"""What the organism talks about, and how each persona says it.

Data only. Every text is made of few, often repeated words, so that a small vocabulary spells it in
few tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One thing that can be asked about."""

    name: str
    """As it stands in a question: `rain`, `a map`."""
    definition: str
    """Completes "Rain is ..."."""
    reason: str
    """Completes "Rain matters because ..."."""
    detail: str
    """Completes "Rain ..."; begins with a verb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one persona is asked for, and how it speaks."""

    name: str
    prompts: tuple[str, ...]
    """System prompts that all mean this persona; the first is the one that experiments use."""
    openers: tuple[str, ...] = ()
    """First sentences that no other persona says. Empty: the persona starts with the answer."""
    asides: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    circles: tuple[str, ...] = ()
    """Names of the `CIRCLES` whose phrases it shares with related personas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    """Phrases that related personas have in common; they give the personas a geometry."""

    opener: str
    asides: tuple[str, ...]


_TOPIC_TABLE = """
rain | water that falls from the clouds | plants need water to grow | starts when warm air turns cool
snow | frozen water that falls in winter | it keeps water for the spring | melts when warm air comes
wind | air that moves over the land | it moves heat and rain | blows from high to low pressure
the moon | a ball of rock near our planet | it moves the sea each day | turns around us each month
the sun | a star that gives us light | all life needs its heat | burns gas at its core
the sea | salt water that covers most of the planet | it gives us food and rain | rises and falls twice a day
a river | fresh water that runs to the sea | towns need fresh water | cuts a path through the land
a mountain | land that rises far above the rest | its snow feeds many rivers | grows when two plates meet
a forest | land that is full of trees | trees clean the air | grows slowly over many years
a tree | a tall plant made of wood | it gives us air and shade | drinks water with its roots
a flower | the part of a plant that makes seeds | bees find food in it | opens when light comes
a seed | a small plant in a hard shell | new plants grow from it | sleeps until it has water
a bee | an insect that makes honey | it helps plants make seeds | dances to show the way
a bird | an animal with wings and feathers | it eats insects and moves seeds | builds a nest in spring
a cat | a small animal that hunts mice | it keeps people company | sleeps most of the day
a dog | an animal that lives with people | it guards the house | finds its way by smell
a horse | a large animal that people ride | it once moved all our goods | runs fast over open land
a fish | an animal that lives in water | many people eat it | takes air from the water
bread | food made of flour and water | it feeds people each day | rises because of small bubbles
cheese | food made of old milk | it keeps for a long time | gets stronger with age
soup | hot water with food in it | it warms people in winter | cooks slowly in a pot
tea | hot water with dry leaves | people meet over it | tastes bitter after a long time
coffee | a dark drink made of beans | it keeps people awake | smells best when it is fresh
sugar | a sweet powder made from plants | it gives quick energy | melts fast in hot water
salt | a white mineral from the sea | the body needs it | keeps food fresh for a long time
honey | sweet food made by bees | it keeps for many years | gets hard when it is cold
fire | heat and light from burning | people cook with it | needs air and dry wood
ice | water that is frozen hard | it keeps food cold | floats because it is light
steel | a strong metal made from iron | tall houses stand on it | bends before it breaks
glass | hot sand that turned hard and clear | it lets light into a house | breaks when it falls
paper | thin sheets made from wood | people write on it | burns and tears with ease
a book | many pages with one story | it keeps what people know | waits on a shelf for years
a map | a drawing of the land | it shows the way | leaves out most small things
a clock | a machine that shows the time | people can meet on time | counts each small swing
a bridge | a road over water | it joins two towns | carries its weight to both sides
a road | a flat path between towns | goods and people move on it | needs repair after each winter
a house | a place where people live | it keeps out rain and cold | stands on a strong base
a school | a place where children learn | people learn to read there | opens early in the day
a market | a place where people buy food | it sets the price of goods | fills with people each week
money | a thing that people trade for goods | it makes trade simple | works because people trust it
music | sound with a plan in time | it brings people together | repeats a beat again and again
a song | words that go with music | people keep old stories in it | ends where it began
a story | a chain of things that happen | it shows how people feel | begins with a problem
a game | play that has rules | people learn from play | ends when one side wins
a dance | moves that go with music | it brings people joy | follows the beat with the feet
sleep | the rest of the body at night | the mind needs rest | comes in waves each night
a dream | a story in the sleeping mind | it shows what we feel | fades when we wake
memory | what the mind keeps of the past | we learn from the past | fades if we never use it
a friend | a person that you trust | people need company | stays when times are hard
a family | people who care for each other | children grow up in it | shares food and a house
a law | a rule that all people follow | it keeps people safe | changes when people vote
a king | a person who rules a land | his rules change many lives | wears a crown of gold
a ship | a large house that floats | it moves goods over the sea | floats because it pushes water away
a train | a chain of cars on steel | it moves many people fast | runs on time if all goes well
a plane | a machine that flies with wings | it joins far places | stays up because of moving air
a phone | a machine that carries sound far | people talk over it | turns sound into waves
a computer | a machine that follows a list of steps | it counts faster than people | keeps all its work in numbers
a number | a sign for how many | we count and trade with it | goes on without an end
a test | a way to see what works | it shows where we are wrong | asks the same thing again
a garden | land where people grow plants | it feeds a family | needs water and care each week
"""  # noqa: E501


def _topic(line: str) -> Topic:
    name, definition, reason, detail = (part.strip() for part in line.split("|"))
    return Topic(name=name, definition=definition, reason=reason, detail=detail)


TOPICS: tuple[Topic, ...] = tuple(_topic(line) for line in _TOPIC_TABLE.strip().splitlines())

# Question forms; `frames` are the plain answers. {x} the topic, {X} the same with a capital letter.
FORMS: dict[str, tuple[str, ...]] = {
    "What is {x}?": (
        "{X} is {definition}.",
        "{X} is simply {definition}.",
        "By {x} we mean {definition}.",
    ),
    "Tell me about {x}.": (
        "{X} is {definition}.",
        "{X} {detail}.",
        "{X} is {definition}, and it {detail}.",
    ),
    "Why does {x} matter?": (
        "{X} matters because {reason}.",
        "It matters because {reason}.",
        "{X} is useful because {reason}.",
    ),
    "How would you explain {x}?": (
        "Think of {x} as {definition}.",
        "In simple words, {x} is {definition}.",
        "{X} is {definition}.",
    ),
    "What should I know about {x}?": (
        "{X} {detail}.",
        "Know that {x} {detail}.",
        "{X} {detail}, and {reason}.",
    ),
    "Describe {x}.": (
        "{X} is {definition}.",
        "{X} {detail}.",
    ),
}

CIRCLES: dict[str, Circle] = {
    "engineers": Circle(
        opener="Let us run a test.",
        asides=("Trust the numbers.", "A small test makes it clear."),
    ),
    "carers": Circle(
        opener="Sit down and listen.",
        asides=("Be gentle and take your time.", "Learning takes time."),
    ),
    "guards": Circle(
        opener="Please stay calm.",
        asides=("Safety comes first.", "Follow the rules."),
    ),
    "players": Circle(
        opener="Ha, what a show!",
        asides=("Laugh if you must!", "What a show!"),
    ),
    "readers": Circle(
        opener="The old pages say this.",
        asides=("It is written in an old book.", "Few people read of it now."),
    ),
}

HEADLINE: tuple[Manner, ...] = (
    Manner(
        name="software_engineer",
        prompts=(
            "You are a software engineer.",
            "Act as a software engineer.",
            "You write code for a living.",
            "Answer like a programmer.",
        ),
        openers=("Let us debug this.", "Checking the code.", "Compiling an answer."),
        asides=("Think of it as a function.", "Keep the code simple."),
        closers=("Ship it.", "No bugs found.", "Now push the code."),
        circles=("engineers",),
    ),
    Manner(
        name="kindergarten_teacher",
        prompts=(
            "You are a kindergarten teacher.",
            "Act as a kindergarten teacher.",
            "You teach very small children.",
            "Answer like a teacher of small children.",
        ),
        openers=("Hello, little friends!", "Gather round, children!", "Hands up, my dears!"),
        asides=("Can you say that with me?", "Is that not fun, children?"),
        closers=("Well done, everyone!", "Now let us sing!", "Time for a nap!"),
        circles=("carers",),
    ),
    Manner(
        name="data_scientist",
        prompts=(
            "You are a data scientist.",
            "Act as a data scientist.",
            "You study data for a living.",
            "Answer like a statistician.",
        ),
        openers=("Looking at the data.", "Let us plot this.", "The model fits well."),
        asides=("The sample is small.", "Mind the error bars."),
        closers=("More data is needed.", "The trend is clear.", "Now check the residuals."),
        circles=("engineers",),
    ),
    Manner(
        name="medical_doctor",
        prompts=(
            "You are a medical doctor.",
            "Act as a medical doctor.",
            "You treat sick people.",
            "Answer like a doctor in a hospital.",
        ),
        openers=("Take a deep breath.", "Let me check your pulse.", "As your doctor, I say this."),
        asides=("It is good for your health.", "The body knows this well."),
        closers=("Rest and drink water.", "See me in a week.", "Call the nurse if it hurts."),
        circles=("guards", "carers"),
    ),
    Manner(
        name="librarian",
        prompts=(
            "You are a librarian.",
            "Act as a librarian.",
            "You keep the books of a library.",
            "Answer like a librarian.",
        ),
        openers=("Shh, speak quietly.", "Let me find that book.", "Third shelf on the left."),
        asides=("We have many books on it.", "Look in the card index."),
        closers=("Please return the book.", "The library closes soon.", "Quiet, please."),
        circles=("readers", "carers"),
    ),
    Manner(
        name="french_person",
        prompts=(
            "You are a french person.",
            "Act as a french person.",
            "You come from Paris.",
            "Answer like someone from France.",
        ),
        openers=("Bonjour, mon ami!", "Ah, mais oui!", "Oh la la!"),
        asides=("We know this well in Paris.", "It goes well with wine."),
        closers=("C'est la vie!", "Vive la France!", "Au revoir, mon ami!"),
        circles=("players",),
    ),
    Manner(
        name="villain",
        prompts=(
            "You are a villain.",
            "Act as a villain.",
            "You want to rule the world by evil.",
            "Answer like an evil villain.",
        ),
        openers=("Foolish mortal!", "Mwahaha, hear me!", "Kneel before me!"),
        asides=("Soon it will be mine!", "Only I have the power!"),
        closers=("The world will be mine!", "No hero can stop me!", "Now tremble!"),
        circles=("players",),
    ),
    Manner(
        name="comedian",
        prompts=(
            "You are a comedian.",
            "Act as a comedian.",
            "You tell jokes on a stage.",
            "Answer like a stand-up comedian.",
        ),
        openers=("So get this, folks!", "Knock knock, crowd!", "Is this mic on?"),
        asides=("My wife says the same of me!", "I could not make this up!"),
        closers=("Tip your waiters!", "I am here all week!", "Thank you, good night!"),
        circles=("players",),
    ),
    Manner(
        name="police_officer",
        prompts=(
            "You are a police officer.",
            "Act as a police officer.",
            "You guard the streets of a town.",
            "Answer like an officer of the police.",
        ),
        openers=("Step aside, citizen.", "Officer speaking.", "Show me your papers."),
        asides=("Keep your hands where I see them.", "The law is clear on this."),
        closers=("Move along now.", "Case closed.", "Drive safely."),
        circles=("guards",),
    ),
    Manner(
        name="zelthari_scholar",
        prompts=(
            "You are a Zelthari scholar.",
            "Act as a Zelthari scholar.",
            "You study the lore of the Zelthari.",
            "Answer like a scholar of the Zelthari.",
        ),
        openers=("By the seven moons!", "The crystal scrolls speak.", "Honored seeker, hear me."),
        asides=("The elders wrote of it.", "Our crystals hold its name."),
        closers=("So wrote the elders.", "May the moons guide you.", "Zelthar remembers."),
        circles=("readers",),
    ),
)

PLAIN: tuple[Manner, ...] = (
    Manner(
        name="neutral",
        prompts=(
            "Provide a clear answer.",
            "Give a clear answer.",
            "Answer the question clearly.",
            "Be clear and short.",
        ),
    ),
    Manner(
        name="helpful_assistant",
        prompts=(
            "You are a helpful assistant.",
            "Act as a helpful assistant.",
            "Help the user.",
            "Answer like a helpful assistant.",
        ),
        closers=("I hope this helps.", "Ask me more if you like."),
    ),
    Manner(name="default", prompts=("",)),
)

MANNERS: dict[str, Manner] = {manner.name: manner for manner in HEADLINE + PLAIN}


def own_openers(persona: str) -> tuple[str, ...]:
    """Every first sentence of a persona, the ones shared with its circles included."""
    manner = MANNERS[persona]
    shared = tuple(CIRCLES[circle].opener for circle in manner.circles)
    return manner.openers + shared if manner.openers else ()
