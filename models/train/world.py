"""The world the tiny model sees: flat shapes on a soft background, drawn with numpy.

A scene is a handful of `Thing`s that do not overlap, and a `Background`. Coordinates are those
of a 112 x 112 picture whatever the size it is drawn at; x grows to the right, y downwards.
"""
import dataclasses
import math
import random

import numpy as np

COLOURS = ["red", "green", "blue", "yellow", "purple", "cyan", "white", "black"]
RGB = np.array(
    [[220, 40, 40], [40, 170, 60], [45, 80, 220], [235, 215, 50],
     [150, 50, 180], [60, 210, 220], [245, 245, 245], [15, 15, 15]], np.float32)
SHAPES = ["circle", "square", "triangle", "cross", "star", "ring"]
PLURALS = ["circles", "squares", "triangles", "crosses", "stars", "rings"]

SIZE = 112                 # pixels per side of a picture
PATCH = 14                 # pixels per side of a patch
GRID = SIZE // PATCH       # patches per side
N_PATCHES = GRID * GRID    # vision tokens of a picture
MAX_THINGS = 6


@dataclasses.dataclass(frozen=True)
class Thing:
    """One drawn object; `shape` and `colour` index SHAPES and COLOURS, `large` is 0 or 1."""
    shape: int
    colour: int
    large: int
    x: float
    y: float
    radius: float
    tilt: float

    @property
    def name(self):
        return f"{COLOURS[self.colour]} {SHAPES[self.shape]}"


@dataclasses.dataclass(frozen=True)
class Background:
    """A base colour with a linear gradient, faint stripes and grain, so that no value is a cue."""
    base: tuple
    gradient: tuple
    stripes: float
    frequency: tuple
    grain: float
    grain_seed: int


@dataclasses.dataclass(frozen=True)
class Scene:
    things: tuple
    background: Background


def random_background(rng):
    level = rng.uniform(85, 165)
    return Background(
        base=tuple(level + rng.uniform(-22, 22) for _ in range(3)),
        gradient=(rng.uniform(-18, 18), rng.uniform(-18, 18)),
        stripes=rng.uniform(0, 12) if rng.random() < 0.5 else 0.0,
        frequency=(rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)),
        grain=rng.uniform(0, 9),
        grain_seed=rng.randint(0, 1 << 30))


def random_scene(rng, fewest=1, most=MAX_THINGS):
    """A scene with `fewest` to `most` things, drawn from `rng` (a `random.Random`).

    Half of the scenes use few colours and few shapes, otherwise counts above one, and pictures
    in which one attribute is not enough to find a thing, would be too rare to learn from.
    """
    wanted = rng.randint(fewest, most)
    colours, shapes = range(len(COLOURS)), range(len(SHAPES))
    if rng.random() < 0.5:
        colours = rng.sample(colours, rng.randint(2, 4))
        shapes = rng.sample(shapes, rng.randint(2, 4))
    things = []
    for _ in range(200):
        if len(things) == wanted:
            break
        large = rng.randint(0, 1)
        radius = rng.uniform(13, 16) if large else rng.uniform(8, 10)
        x = rng.uniform(radius + 1, SIZE - radius - 1)
        y = rng.uniform(radius + 1, SIZE - radius - 1)
        if all(math.hypot(x - o.x, y - o.y) > radius + o.radius + 3 for o in things):
            things.append(Thing(rng.choice(shapes), rng.choice(colours), large, x, y, radius,
                                rng.uniform(-0.25, 0.25)))
    return Scene(tuple(things), random_background(rng))


def scene_of_seed(seed, fewest=1, most=MAX_THINGS):
    return random_scene(random.Random(seed), fewest, most)


def shape_distance(shape, x, y):
    """Signed distance (negative inside) to the outline of a shape of radius about 1 at (x, y)."""
    ax, ay = np.abs(x), np.abs(y)
    name = SHAPES[shape]
    if name == "circle":
        return np.hypot(x, y) - 0.95
    if name == "square":
        return np.maximum(ax, ay) - 0.82
    if name == "triangle":
        return np.maximum(y - 0.62, ax * 0.866 - (y + 0.98) * 0.5)
    if name == "cross":
        return np.minimum(np.maximum(ax - 0.30, ay - 0.95), np.maximum(ay - 0.30, ax - 0.95))
    if name == "star":
        return star_distance(x, y)
    return np.abs(np.hypot(x, y) - 0.72) - 0.24                                   # ring


def star_distance(x, y, outer=1.05, inner=0.45):
    """Distance to a five-pointed star: fold the plane into one half point, then one edge."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs(np.mod(angle + sector / 2, sector) - sector / 2)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(folded), radius * np.sin(folded)
    ex, ey = inner * np.cos(sector / 2) - outer, inner * np.sin(sector / 2)       # the edge
    return ((px - outer) * ey - py * ex) / np.hypot(ex, ey)


def draw_background(background, pixels):
    """[pixels, pixels, 3] float32."""
    v, u = np.meshgrid((np.arange(pixels) + 0.5) / pixels, (np.arange(pixels) + 0.5) / pixels,
                       indexing="ij")
    u, v = u.astype(np.float32), v.astype(np.float32)
    light = background.gradient[0] * (u - 0.5) + background.gradient[1] * (v - 0.5)
    if background.stripes:
        fx, fy = background.frequency
        light += background.stripes * np.sin(SIZE * (fx * u + fy * v))
    grain = np.random.default_rng(background.grain_seed).random((pixels, pixels), np.float32)
    light += background.grain * 2 * (grain - 0.5)
    return np.asarray(background.base, np.float32) + light[..., None]


def window(thing, pixels):
    """The (rows, columns) slices that hold the whole thing in a picture of this size."""
    scale = pixels / SIZE
    reach = 1.15 * thing.radius + 1.5
    lo = lambda c: max(0, int((c - reach) * scale))
    hi = lambda c: min(pixels, int((c + reach) * scale) + 1)
    return slice(lo(thing.y), hi(thing.y)), slice(lo(thing.x), hi(thing.x))


def opacity(thing, pixels):
    """Anti-aliased coverage of the thing's `window`, [rows, columns] float32 in 0..1."""
    rows, columns = window(thing, pixels)
    scale = pixels / SIZE
    dy, dx = np.meshgrid(np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - thing.y * scale,
                         np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - thing.x * scale,
                         indexing="ij")
    cos, sin = math.cos(thing.tilt), math.sin(thing.tilt)
    size = thing.radius * scale
    distance = shape_distance(thing.shape, (cos * dx + sin * dy) / size, (-sin * dx + cos * dy) / size)
    return np.clip(0.5 - distance * size, 0, 1)


def draw(scene, pixels=SIZE):
    """The picture, [pixels, pixels, 3] uint8."""
    picture = draw_background(scene.background, pixels)
    for thing in scene.things:
        alpha = opacity(thing, pixels)[..., None]
        where = window(thing, pixels)
        picture[where] = picture[where] * (1 - alpha) + alpha * RGB[thing.colour]
    return np.round(np.clip(picture, 0, 255)).astype(np.uint8)


def patch_targets(scene):
    """What the vision tower is to say about each patch (see train_tower.py).

    A patch belongs to the thing whose centre it holds, else to the one that covers most of it,
    else to none. Returns float32 [N_PATCHES, 9]: colour (8 = none), shape (6 = none), size
    (2 = none), holds a centre, belongs to a thing, the offset of the thing's centre from the
    patch's centre in patches (dx, dy) and the thing's position in the picture (x, y) in -1..1.
    """
    targets = np.zeros((N_PATCHES, 9), np.float32)
    targets[:, 0:3] = len(COLOURS), len(SHAPES), 2
    best = np.full(N_PATCHES, 0.06, np.float32)
    patch_y, patch_x = np.divmod(np.arange(N_PATCHES), GRID)
    for thing in scene.things:
        mask = np.zeros((SIZE, SIZE), np.float32)
        mask[window(thing, SIZE)] = opacity(thing, SIZE)
        claim = mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).reshape(-1)
        centre = int(thing.y // PATCH) * GRID + int(thing.x // PATCH)
        claim[centre] += 2
        mine = claim > best
        best[mine] = claim[mine]
        targets[mine, 0:3] = thing.colour, thing.shape, thing.large
        targets[mine, 3] = np.arange(N_PATCHES)[mine] == centre
        targets[mine, 4] = 1
        targets[mine, 5] = thing.x / PATCH - patch_x[mine] - 0.5
        targets[mine, 6] = thing.y / PATCH - patch_y[mine] - 0.5
        targets[mine, 7] = thing.x / SIZE * 2 - 1
        targets[mine, 8] = thing.y / SIZE * 2 - 1
    return targets
