"""Draws the built-in dataset: colored shapes with five captions each, and the objects in every image.

    images/NNNN.png   112 x 112 pixels
    captions.csv      image,caption,split
    scenes.json       the objects drawn in each image, with which a test checks generated captions

A scene has one object somewhere in the image, or two objects side by side or one above the other. Size, color and
shape are independent, so that a correct caption requires the image. The same params give the same bytes.
"""

import csv
import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from ruamel.yaml import YAML

SIDE = 112
SCALE = 4  # drawn larger and scaled down, for smooth edges
COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 62),
    "blue": (38, 84, 214),
    "yellow": (240, 200, 30),
    "purple": (130, 50, 170),
    "white": (245, 245, 245),
}
SHAPES = ("ring", "cross", "triangle")
RADII = {"small": (12, 14), "large": (21, 24)}
RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Object:
    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def words(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    image: str
    split: str
    objects: tuple[Object, ...]
    relation: str
    """Position of the first object: in the image (left, right, top, bottom, middle), or relative to the second one."""


def draw_object(rng: random.Random, x: float, y: float) -> Object:
    size = rng.choice(tuple(RADII))
    return Object(size, rng.choice(tuple(COLOURS)), rng.choice(SHAPES), x, y, rng.uniform(*RADII[size]))


def draw_scene(rng: random.Random, number: int, split: str) -> Scene:
    image = f"{number:04d}.png"
    if rng.random() < 0.25:
        place = rng.choice(("left", "right", "top", "bottom", "middle"))
        x = {"left": 29, "right": SIDE - 29}.get(place, SIDE / 2) + rng.uniform(-3, 3)
        y = {"top": 29, "bottom": SIDE - 29}.get(place, SIDE / 2) + rng.uniform(-3, 3)
        return Scene(image, split, (draw_object(rng, x, y),), place)
    relation = rng.choice(tuple(RELATIONS))
    near, far = 29 + rng.uniform(-2, 2), SIDE - 29 + rng.uniform(-2, 2)
    across = [SIDE / 2 + rng.uniform(-14, 14) for _ in range(2)]
    first, second = (near, far) if relation in ("left", "above") else (far, near)
    if relation in ("left", "right"):
        objects = draw_object(rng, first, across[0]), draw_object(rng, second, across[1])
    else:
        objects = draw_object(rng, across[0], first), draw_object(rng, across[1], second)
    if objects[0].words == objects[1].words:
        return draw_scene(rng, number, split)
    return Scene(image, split, objects, relation)


def render(rng: random.Random, scene: Scene) -> Image.Image:
    grey = rng.randint(60, 130)
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), (grey, grey, grey))
    canvas = ImageDraw.Draw(image)
    for thing in scene.objects:
        x, y, radius = thing.x * SCALE, thing.y * SCALE, thing.radius * SCALE
        if thing.shape == "ring":
            box = (x - radius, y - radius, x + radius, y + radius)
            canvas.ellipse(box, outline=COLOURS[thing.colour], width=round(radius * 0.45))
            continue
        if thing.shape == "cross":
            arm = radius * 0.3
            canvas.rectangle((x - radius, y - arm, x + radius, y + arm), fill=COLOURS[thing.colour])
            canvas.rectangle((x - arm, y - radius, x + arm, y + radius), fill=COLOURS[thing.colour])
            continue
        angles = [2 * math.pi * corner / 3 - math.pi / 2 for corner in range(3)]
        reach = radius * 1.25
        points = [(x + reach * math.cos(angle), y + reach * math.sin(angle)) for angle in angles]
        canvas.polygon(points, fill=COLOURS[thing.colour])
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def captions(rng: random.Random, scene: Scene) -> list[str]:
    """Five randomly drawn sentences that describe the scene."""
    first = scene.objects[0].words
    if len(scene.objects) == 1:
        where = {
            "left": "on the left",
            "right": "on the right",
            "top": "at the top",
            "bottom": "at the bottom",
            "middle": "in the middle",
        }[scene.relation]
        sentences = [
            f"a {first} {where} of the picture",
            f"there is a {first} {where}",
            f"a {first} is {where} of the picture",
            f"one {first} {where}",
            f"a picture of a {first} {where}",
            f"a single {first} is {where}",
        ]
    else:
        second = scene.objects[1].words
        relation, back = RELATIONS[scene.relation], RELATIONS[OPPOSITE[scene.relation]]
        sentences = [
            f"a {first} {relation} a {second}",
            f"a {first} is {relation} a {second}",
            f"there is a {first} {relation} a {second}",
            f"a {second} {back} a {first}",
            f"a {second} is {back} a {first}",
            f"a picture of a {first} {relation} a {second}",
        ]
    return rng.sample(sentences, 5)


def main() -> None:
    here = Path(__file__).parent
    params = YAML(typ="safe", pure=True).load((here / "params.yaml").read_text())["scenes"]
    rng = random.Random(params["seed"])
    (here / "images").mkdir(exist_ok=True)
    splits = [split for split in ("train", "val", "test") for _ in range(params[split])]
    scenes = []
    with (here / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "caption", "split"])
        for number, split in enumerate(splits):
            scene = draw_scene(rng, number, split)
            render(rng, scene).save(here / "images" / scene.image)
            writer.writerows([scene.image, caption, split] for caption in captions(rng, scene))
            scenes.append(asdict(scene))
    (here / "scenes.json").write_text(json.dumps(scenes, indent=1) + "\n")


if __name__ == "__main__":
    main()
