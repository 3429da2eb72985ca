"""Questions about a scene, their answers, and batches of them as token arrays."""
import dataclasses
import typing

import numpy as np

from vocabulary import EOS, encode
from world import COLOURS, PLURALS, SHAPES, SIZE, MAX_THINGS, Thing, draw, random_scene

CATEGORIES = ["colour", "shape", "exist", "count", "what_rel", "relation", "where", "caption"]
DIRECTIONS = ["left of", "right of", "above", "below"]
MARGIN = 10                 # pixels by which two centres must differ for a relation to hold
MAX_LENGTH = 16             # input tokens of a question with its answer
LAYOUTS = ["\n{} ASSISTANT:",      # LLaVA-1.5: a newline after the picture
           "{} ASSISTANT:",        # no newline (llama.cpp's automatic image marker)
           "{}\nASSISTANT:",       # llama.cpp's built-in vicuna template
           "\n{}\nASSISTANT:"]
LAYOUT_SHARES = [0.55, 0.15, 0.15, 0.15]


@dataclasses.dataclass(frozen=True)
class Mention:
    """A place in a question that speaks of something in the picture (see train_llm.py).

    end: characters of the question up to and with the mention's last word; thing: the one thing
    that is meant, if there is one; found: whether there is; number: how many are meant.
    """
    end: int
    thing: typing.Optional[Thing] = None
    found: bool = True
    number: typing.Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Question:
    category: str
    text: str
    answer: str
    mentions: tuple = ()


def holds(direction, a, b):
    """Is thing a <direction> thing b: True, False, or None when too close to call."""
    dx, dy = a.x - b.x, a.y - b.y
    distance = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[direction]
    return None if abs(distance) <= MARGIN else distance > 0


def only(things, key):
    """The things whose `key` no other thing shares."""
    keys = [key(o) for o in things]
    return [o for o in things if keys.count(key(o)) == 1]


def ask(category, template, answer, **parts):
    """A question from a template; each part is (words, Mention fields or None)."""
    text, mentions = "", []
    for literal in template.split("|"):
        if literal in parts:
            words, fields = parts[literal]
            text += words
            if fields is not None:
                mentions.append(Mention(end=len(text), **fields))
        else:
            text += literal
    return Question(category, text, answer, tuple(mentions))


def ask_colour(rng, things):
    candidates = only(things, lambda o: o.shape)
    if not candidates:
        return None
    thing = rng.choice(candidates)
    word = rng.choice(["color", "colour"])
    template = rng.choice([f"What {word} is the |it|?", f"What is the {word} of the |it|?"])
    return ask("colour", template, COLOURS[thing.colour], it=(SHAPES[thing.shape], dict(thing=thing)))


def ask_shape(rng, things):
    candidates = only(things, lambda o: o.colour)
    if not candidates:
        return None
    thing = rng.choice(candidates)
    template = rng.choice(["What shape is the |it|?", "What is the |it|?"])
    noun = "thing" if "shape" in template and rng.random() < 0.5 else "object"
    return ask("shape", template, SHAPES[thing.shape],
               it=(f"{COLOURS[thing.colour]} {noun}", dict(thing=thing)))


def ask_exist(rng, things):
    """Half yes; the no's share a colour and a shape with the picture more often than not."""
    pairs = [(o.colour, o.shape) for o in things]
    template = rng.choice(["Is there a |it| in the image?", "Is there a |it|?"])
    if rng.random() < 0.5:
        colour, shape = rng.choice(pairs)
        meant = [o for o in things if (o.colour, o.shape) == (colour, shape)]
        mention = dict(thing=meant[0] if len(meant) == 1 else None, found=True)
        return ask("exist", template, "yes", it=(f"{COLOURS[colour]} {SHAPES[shape]}", mention))
    for _ in range(30):
        kind = rng.random()
        colour = rng.choice(pairs)[0] if kind < 0.5 or 0.75 <= kind < 0.9 else rng.randrange(len(COLOURS))
        shape = rng.choice(pairs)[1] if kind < 0.75 else rng.randrange(len(SHAPES))
        if (colour, shape) not in pairs:
            return ask("exist", template, "no",
                       it=(f"{COLOURS[colour]} {SHAPES[shape]}", dict(found=False)))
    return None


def ask_count(rng, things):
    """How many of all, of a colour or of a shape, with the counts about equally likely."""
    kind = rng.random()
    if kind < 0.2:
        names, numbers = ["objects"], [len(things)]
    elif kind < 0.6:
        names = [f"{c} objects" for c in COLOURS]
        numbers = [sum(o.colour == i for o in things) for i in range(len(COLOURS))]
    else:
        names, numbers = PLURALS, [sum(o.shape == i for o in things) for i in range(len(SHAPES))]
    number = rng.choice(sorted(set(numbers)))
    name = rng.choice([n for n, count in zip(names, numbers) if count == number])
    return ask("count", "How many |them| are there?", str(number), them=(name, dict(number=number)))


def ask_what_rel(rng, things):
    """What is left of X, where exactly one thing is and none is too close to call."""
    candidates = []
    for anchor in only(things, lambda o: o.name):
        for direction in DIRECTIONS:
            others = [(holds(direction, o, anchor), o) for o in things if o is not anchor]
            there = [o for h, o in others if h]
            if len(there) == 1 and all(h is not None for h, _ in others):
                candidates.append((anchor, direction, there[0]))
    if not candidates:
        return None
    anchor, direction, thing = rng.choice(candidates)
    return ask("what_rel", f"What is {direction} the |it|?", thing.name,
               it=(anchor.name, dict(thing=anchor)))


def ask_relation(rng, things):
    wanted = rng.random() < 0.5
    named = only(things, lambda o: o.name)
    candidates = [(a, b, d) for a in named for b in named if a is not b
                  for d in DIRECTIONS if holds(d, a, b) is wanted]
    if not candidates:
        return None
    a, b, direction = rng.choice(candidates)
    return ask("relation", f"Is the |a| {direction} the |b|?", "yes" if wanted else "no",
               a=(a.name, dict(thing=a)), b=(b.name, dict(thing=b)))


def ask_where(rng, things):
    """Which quarter of the picture, of things that do not sit on a border between quarters."""
    middle = SIZE / 2
    candidates = [o for o in only(things, lambda o: o.name)
                  if abs(o.x - middle) > 6 and abs(o.y - middle) > 6]
    if not candidates:
        return None
    thing = rng.choice(candidates)
    answer = f"{'top' if thing.y < middle else 'bottom'} {'left' if thing.x < middle else 'right'}"
    return ask("where", "Where is the |it|?", answer, it=(thing.name, dict(thing=thing)))


def ask_caption(rng, things):
    """All things from left to right; only for pictures of up to three things."""
    ordered = sorted(things, key=lambda o: o.x)
    if len(things) > 3 or any(b.x - a.x < 5 for a, b in zip(ordered, ordered[1:])):
        return None
    return ask("caption", "Describe the image.", ", ".join(o.name for o in ordered))


ASK = dict(colour=ask_colour, shape=ask_shape, exist=ask_exist, count=ask_count,
           what_rel=ask_what_rel, relation=ask_relation, where=ask_where, caption=ask_caption)


def ask_many(rng, scene, number, weights):
    """Up to `number` different questions, categories drawn by `weights` (category -> weight)."""
    out, seen = [], set()
    for attempt in range(12 * number):
        if len(out) == number:
            break
        category = rng.choices(list(weights), list(weights.values()))[0]
        question = ASK[category](rng, scene.things)
        if question and question.text not in seen:
            seen.add(question.text)
            out.append(question)
    return out


def prompt_ids(question_text, layout=LAYOUTS[0]):
    """The tokens between the picture and the answer."""
    return encode(layout.format(question_text))


def block_ids(question, layout=LAYOUTS[0]):
    """(prompt tokens, answer tokens with </s>)."""
    return prompt_ids(question.text, layout), encode(question.answer) + [EOS]


def mention_token(question, mention, layout):
    """Index in the block of the mention's last token."""
    return len(encode(layout.split("{}")[0] + question.text[:mention.end])) - 1


MENTION_FIELDS = ["token", "found", "colour", "shape", "x", "y", "number"]   # -1: does not apply


def mention_row(question, mention, layout):
    """One row of MENTION_FIELDS; x and y are in 0..1."""
    thing = mention.thing
    seen = [thing.colour, thing.shape, thing.x / SIZE, thing.y / SIZE] if thing else [-1] * 4
    number = -1 if mention.number is None else mention.number
    found = -1 if mention.number is not None else int(mention.found)
    return [mention_token(question, mention, layout), found, *seen, number]


def batch(rng, n_scenes, n_questions, weights, fewest=1, most=MAX_THINGS):
    """A dict of arrays, B pictures with M questions of at most L tokens each.

    pictures [B, 112, 112, 3] uint8; tokens, targets [B, M, L] int32 and learn [B, M, L] float32
    (1 on answer tokens); category [B, M] (-1: no question); mentions [B, M, 2, 7] float32.
    """
    shape = n_scenes, n_questions
    out = dict(pictures=np.zeros((n_scenes, SIZE, SIZE, 3), np.uint8),
               tokens=np.zeros((*shape, MAX_LENGTH), np.int32),
               targets=np.zeros((*shape, MAX_LENGTH), np.int32),
               learn=np.zeros((*shape, MAX_LENGTH), np.float32),
               category=np.full(shape, -1, np.int32),
               mentions=np.full((*shape, 2, len(MENTION_FIELDS)), -1, np.float32))
    for b in range(n_scenes):
        scene = random_scene(rng, fewest, most)
        out["pictures"][b] = draw(scene)
        for m, question in enumerate(ask_many(rng, scene, n_questions, weights)):
            put_question(out, (b, m), question, rng.choices(LAYOUTS, LAYOUT_SHARES)[0])
    return out


def put_question(out, at, question, layout=LAYOUTS[0]):
    """Writes one question into a batch's arrays at index (b, m)."""
    prompt, answer = block_ids(question, layout)
    ids = prompt + answer
    n = len(ids) - 1
    assert n <= MAX_LENGTH, (question, layout, n)
    out["tokens"][at][:n], out["targets"][at][:n] = ids[:-1], ids[1:]
    out["learn"][at][len(prompt) - 1:n] = 1
    out["category"][at] = CATEGORIES.index(question.category)
    if "mentions" in out:
        for i, mention in enumerate(question.mentions):
            out["mentions"][at][i] = mention_row(question, mention, layout)
