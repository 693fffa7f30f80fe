"""How things are said: every question in many wordings, every answer in one.

The last two wordings of every list are held out: training never shows them, evaluation uses them for
every third question. They recombine words that training does show. Answers are phrases with spans:
what trains attention or draws conclusions reads the spans, not the text.
"""

from collections.abc import Iterable, Sequence

from crosslmm.synthetic.scenes import Event, SyntheticClip, Thing
from crosslmm.synthetic.spans import Phrase, join
from crosslmm.synthetic.vocabulary import MOTIONS

HELD_OUT = 2

QUESTIONS: dict[str, tuple[str, ...]] = {
    "describe": (
        "Describe the video.",
        "What is in the video?",
        "What do you see?",
        "What can be seen in the video?",
        "Describe this clip.",
        "Describe what is in the clip.",
        "Please describe the video in detail.",
        "Caption this video.",
        "Describe what you see.",
        "Describe the objects in the video.",
        "What is in this clip?",
        "Please describe what can be seen in the video.",
    ),
    "events": (
        "What happens?",
        "What happens in the video?",
        "Tell me what happens.",
        "What happens in this clip?",
        "List the events in order.",
        "Which events happen, in order?",
        "What changes in the video?",
        "What happens, in order?",
        "Tell me what happens in the video.",
        "List what happens in this clip.",
    ),
    "colour": (
        "What colour is {thing}?",
        "What color is {thing}?",
        "What is the colour of {thing}?",
        "What is the color of {thing}?",
        "Which colour is {thing}?",
        "Tell me the colour of {thing}.",
        "Which colour does {thing} have?",
        "What colour does {thing} have?",
        "Tell me what colour {thing} is.",
    ),
    "new_colour": (
        "What colour does {thing} turn?",
        "Which colour does {thing} turn?",
        "What is the new colour of {thing}?",
        "Tell me what colour {thing} turns.",
        "What color does {thing} turn?",
        "To what colour does {thing} turn?",
        "Tell me the new colour of {thing}.",
        "Which color does {thing} turn?",
    ),
    "shape": (
        "What shape is {thing}?",
        "What is the shape of {thing}?",
        "Which shape is {thing}?",
        "Tell me the shape of {thing}.",
        "What kind of shape is {thing}?",
        "Which shape does {thing} have?",
        "What shape does {thing} have?",
        "Tell me what shape {thing} is.",
    ),
    "size": (
        "What size is {thing}?",
        "Is {thing} small or large?",
        "What is the size of {thing}?",
        "How big is {thing}?",
        "Tell me the size of {thing}.",
        "Is {thing} large or small?",
        "Which size is {thing}?",
        "Tell me what size {thing} is.",
    ),
    "glyph": (
        "What is printed on {thing}?",
        "What is written on {thing}?",
        "Which letter or digit is on {thing}?",
        "What is {thing} marked with?",
        "Read what is printed on {thing}.",
        "Which letter or digit is printed on {thing}?",
        "Tell me what is written on {thing}.",
        "Which letter or digit is {thing} marked with?",
        "Read what is written on {thing}.",
    ),
    "count": (
        "How many {things} are there?",
        "How many {things} are there in the video?",
        "How many {things} can be seen?",
        "Count the {things}.",
        "What is the number of {things}?",
        "How many {things} do you see?",
        "How many {things} are in the clip?",
        "Tell me the number of {things}.",
        "How many {things} can be seen in the video?",
        "Count the {things} in the video.",
    ),
    "motion": (
        "How does {thing} move?",
        "What is the motion of {thing}?",
        "Describe the motion of {thing}.",
        "Which way does {thing} move?",
        "Tell me how {thing} moves.",
        "What does {thing} do?",
        "Describe how {thing} moves.",
        "Tell me the motion of {thing}.",
    ),
    "first": (
        "What happens first?",
        "What is the first event?",
        "Which event is the first?",
        "What is the first thing that happens?",
        "Tell me what happens first.",
        "Tell me the first thing that happens.",
        "Tell me the first event.",
        "Which event happens first?",
        "What is the first event in the video?",
    ),
    "last": (
        "What happens last?",
        "What is the last event?",
        "Which event is the last?",
        "What is the last thing that happens?",
        "Tell me what happens last.",
        "Tell me the last thing that happens.",
        "Tell me the last event.",
        "Which event happens last?",
        "What is the last event in the video?",
    ),
    "after": (
        "What happens after {event}?",
        "What happens right after {event}?",
        "After {event}, what happens?",
        "What is the next event after {event}?",
        "Tell me what happens after {event}.",
        "Tell me what happens right after {event}.",
        "Which event is next after {event}?",
        "What happens next after {event}?",
        "Right after {event}, what happens?",
    ),
    "before": (
        "What happens before {event}?",
        "What happens right before {event}?",
        "Before {event}, what happens?",
        "What is the event right before {event}?",
        "Tell me what happens before {event}.",
        "Tell me what happens right before {event}.",
        "Which event is right before {event}?",
        "Which event happens before {event}?",
        "Right before {event}, what happens?",
    ),
    "shown_first": (
        "Which object is seen first?",
        "Which object is shown first?",
        "What object is seen first?",
        "What is the first object shown?",
        "What is the first object seen?",
        "Tell me which object is shown first.",
        "Tell me which object is seen first.",
        "What object is shown first?",
    ),
    "shown_last": (
        "Which object is seen last?",
        "Which object is shown last?",
        "What object is seen last?",
        "What is the last object shown?",
        "What is the last object seen?",
        "Tell me which object is shown last.",
        "Tell me which object is seen last.",
        "What object is shown last?",
    ),
    "when": (
        "When does {happen}?",
        "At what time does {happen}?",
        "After how many seconds does {happen}?",
        "At which second does {happen}?",
        "Tell me when {event}.",
        "At which time does {happen}?",
        "Tell me at which second {event}.",
        "At what second does {happen}?",
        "Tell me at what time {event}.",
    ),
    "exists": (
        "Is there {a_thing}?",
        "Is there {a_thing} in the video?",
        "Can you see {a_thing}?",
        "Do you see {a_thing}?",
        "Is {a_thing} in the clip?",
        "Can you see {a_thing} in the video?",
        "Is there {a_thing} in the clip?",
    ),
}

# Each of a question ("is the star red") and the same as a statement ("the star is red").
_YES_NO = (
    "{question}?",
    "Is it true that {statement}?",
    "Yes or no: {question}?",
    "True or not: {question}?",
    "{question} or not?",
    "{statement}: true or not?",
    "{statement}, yes or no?",
    "Tell me, {question}?",
    "Is it true or not that {statement}?",
    "{question}, yes or no?",
    "True or not: {statement}?",
)
YES_NO = {
    key: tuple(wording.format(question=question, statement=statement) for wording in _YES_NO)
    for key, question, statement in (
        ("is", "is {thing} {value}", "{thing} is {value}"),
        ("does", "does {happen}", "{event}"),
        ("counts", "are there {number} {things}", "there are {number} {things}"),
    )
}

CHOICE_ENDINGS = (
    "",
    "\nAnswer with the letter.",
    "\nAnswer with the option's letter from the given choices directly.",
    "\nOnly give the best option.",
    "\nOnly give the letter.",
    "\nAnswer with the option's letter.",
)

DOES: dict[str, str] = {
    "still": "stays still",
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "diagonally": "moves diagonally",
    "in a circle": "moves in a circle",
    "growing": "grows",
    "shrinking": "shrinks",
    "blinking": "blinks",
}
DO: dict[str, str] = {
    "still": "stay still",
    "left": "move left",
    "right": "move right",
    "up": "move up",
    "down": "move down",
    "diagonally": "move diagonally",
    "in a circle": "move in a circle",
    "growing": "grow",
    "shrinking": "shrink",
    "blinking": "blink",
}
NOTHING = "nothing"
LETTERS = "ABCD"
assert set(DOES) == set(DO) == set(MOTIONS)


def name_thing(thing: Thing) -> str:
    """By colour (the first, where it changes) and shape: unique in every clip."""
    return f"the {thing.colour} {thing.shape}"


def describe_thing(thing: Thing) -> str:
    words = ["a", thing.size, thing.colour, thing.shape]
    if thing.glyph is not None:
        words += ["marked", thing.glyph]
    return fix_article(" ".join([*filter(None, words), DOES[thing.motion]]))


def list_things(clip: SyntheticClip, things: Sequence[Thing], *, sizes: bool = False) -> Phrase:
    """`the red star, the blue circle`, or with sizes, `the small red star, the large blue circle`."""
    if not things:
        return Phrase("none")

    def name(thing: Thing) -> Phrase:
        said = f"the {thing.size} {thing.colour} {thing.shape}" if sizes else name_thing(thing)
        return Phrase(said).mark("thing", clip.things.index(thing))

    return join(", ", map(name, things))


def fix_article(phrase: str) -> str:
    """`a orange …` → `an orange …`"""
    return "an" + phrase[1:] if phrase.startswith("a o") else phrase


def state_attribute(name: str, kind: str, value: str) -> Phrase:
    """The sentence that gives a colour, shape, size, mark or motion of what has this name."""
    verb = {"new_colour": "turns ", "shape": "is a ", "glyph": "is marked ", "motion": ""}
    return Phrase(f"{name} {verb.get(kind, 'is ')}{value}").mark_end(value, "value")


def check_options(options: Sequence[str], right: str) -> Phrase:
    """`: A. red no, B. blue yes, so B`: option by option up to the right one."""
    checked = []
    for letter, option in zip(LETTERS, options, strict=True):
        checked.append(f"{letter}. {option} {'yes' if option == right else 'no'}")
        if option == right:
            break
    return Phrase(f": {', '.join(checked)}, so {letter}").mark_end(f" {letter}", "asked")


def describe_event(clip: SyntheticClip, event: Event, *, infinitive: bool = False) -> Phrase:
    """`the red circle appears`, or after does/do, `the red circle appear`."""
    if event.kind == "cut":
        return Phrase("the scene change" if infinitive else "the scene changes")
    subject = clip.things[event.subject]
    stem = event.kind.removesuffix("es" if event.kind == "passes" else "s")
    said = Phrase(f"{name_thing(subject)} {stem if infinitive else event.kind}")
    if event.other >= 0:
        other = clip.things[event.other]
        named = Phrase(name_thing(other)).mark("thing", event.other)
        return said.mark("thing", event.subject) + " " + named.mark_end(other.shape, "value")
    if event.kind == "turns":
        colour = str(subject.turns_to)
        said = (said + f" {colour}").mark_end(colour, "value")
    return said.mark("thing", event.subject)


def describe_events(clip: SyntheticClip) -> str:
    """All events in order."""
    if not clip.events:
        return f"{NOTHING} changes"
    return ", then ".join(describe_event(clip, event).text for event in clip.events)


def describe_frames(
    clip: SyntheticClip, times: Sequence[float], said_at: Sequence[int] | None = None
) -> Phrase:
    """`1: nothing at 0.50s, 2: the red circle appears at 1.50s …`: each frame's number, what it is the
    first to show, and its time.

    `said_at`: for each event the frame at which it is said instead. What is wrong of it is given: to be
    learned is what to say then, at a later frame of what was left out, and nothing of what was said.
    """
    shown_at = first_frames(clip, times)
    said: list[list[str]] = [[] for _ in times]
    given: set[int] = set()
    for event, shown, at in zip(clip.events, shown_at, said_at or shown_at, strict=True):
        said[at].append(describe_event(clip, event).text)
        given.update(range(shown, at) if at >= shown else [at])
    frames = []
    for index, (words, time) in enumerate(zip(said, times, strict=True)):
        phrase = Phrase(f": {' and '.join(words) or NOTHING}").mark("frame", index)
        phrase = phrase.mark("given") if index in given else phrase
        frames.append(f"{index + 1}" + phrase + f" at {time:.2f}s")
    return join(", ", frames)


def first_frames(clip: SyntheticClip, times: Sequence[float]) -> list[int]:
    """For each event the index of the first frame that shows it."""
    return [
        times.index(first_frame_time(event.time * clip.duration, times)) for event in clip.events
    ]


def first_frame_time(moment: float, frame_times: Sequence[float]) -> float:
    """The time of the first frame that shows what happened at `moment`, both in seconds."""
    return next((time for time in frame_times if time >= moment - 1e-6), frame_times[-1])


def describe_clip(clip: SyntheticClip, things: Iterable[Thing]) -> Phrase:
    """Each thing with its size, colour, shape, mark and motion."""
    return join(
        "; ", (Phrase(describe_thing(t)).mark("thing", clip.things.index(t)) for t in things)
    )
