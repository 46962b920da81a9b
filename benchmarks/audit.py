"""What the audit finds of planted faults, how long it takes, and what near-duplicates do to a figure.

    python benchmarks/audit.py [--steps NAMES] [--sizes 1000,10000,100000] [--whole 1000,10000] [--seeds 6] [--work FOLDER]
        [--picture FILE] [--json FILE]

Films of made-up patients, all different. ``copies``: copies of every tenth, one kind at a time, for recall (planted pairs
that are found) and precision (found pairs that were planted). ``search``: items a second of the search for near-duplicates
on pictures that are drawn already; ``whole``: of the whole audit, files read, text looked for and features computed.
``faults``: leaks and shortcuts planted in films on disk, which the audit reads as it reads a user's. ``labels``: wrong ones
planted in chest-xray3. ``grouping``: on brain-mri and breast-us the groups of copies, and the test AUC of the frozen network
with and without near-duplicates kept together, over seeds. The picture shows a film and what was planted of it, by kind: no
real image is shown. Figures of steps that are left out stay as the JSON file has them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

import thawline
from environment import write_json
from peers import SHARED
from thawline.audit.duplicates import SIDE_PX, draw_picture, find_duplicates
from thawline.auditing import Audit, audit_data
from thawline.data.phantoms import MANIFEST, PhantomOptions, make_phantoms

N_FILMS, EVERY, SIZE_PX = 500, 10, 192
FROZEN = {"head": "linear", "size_px": 224, "controls": "none", "budget": "none"}


def encode(image: Image.Image) -> Image.Image:
    """Return the image as a JPEG of quality 60 has it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(io.BytesIO(buffer.getvalue()))


def crop(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Return nine tenths of each side, from anywhere."""
    sides = [round(0.9 * side) for side in image.size]
    left, top = (int(draw.integers(0, side - own + 1)) for side, own in zip(image.size, sides, strict=True))
    return image.crop((left, top, left + sides[0], top + sides[1]))


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "identical": lambda image, _: image.copy(),
    "re_encoded": lambda image, _: encode(image),
    "mirrored": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "rotated_90": lambda image, _: image.transpose(Image.Transpose.ROTATE_90),
    "cropped_90": crop,
    "brighter_20": lambda image, _: ImageEnhance.Brightness(image).enhance(1.2),
    "darker_20": lambda image, _: ImageEnhance.Brightness(image).enhance(0.8),
}


def main() -> None:
    """Plant, look, count, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="copies,search,whole,faults,labels,grouping")
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of items to time the search on")
    parser.add_argument("--whole", default="1000,10000", help="numbers of items to time the whole audit on")
    parser.add_argument("--seeds", type=int, default=6, help="splits that grouped and plain figures are compared on")
    parser.add_argument("--work", type=Path, default=Path("work") / "audit")
    parser.add_argument("--picture", type=Path, help="PNG to draw planted near-duplicates in")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work, steps = options.work.resolve(), options.steps.split(",")
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    known = options.json is not None and options.json.is_file()
    figures: dict[str, Any] = json.loads(options.json.read_text("utf-8"))["figures"] if known else {}
    figures |= {"films": N_FILMS, "planted": N_FILMS // EVERY}
    if "copies" in steps or "search" in steps:
        figures |= look_for_copies(steps, [int(size) for size in options.sizes.split(",")], options.picture)
    for size in options.whole.split(",") if "whole" in steps else ():
        figures[f"whole_{size}_a_second"] = time_whole(work / f"films-{size}", int(size))
    if "faults" in steps:
        figures = {key: value for key, value in figures.items() if not key.startswith(("clean_", "planted_"))}
        figures |= plant_faults(work / "films")
    if "labels" in steps:
        figures |= doubt_labels(SHARED / "data" / "chest-xray3", work)
    for name in ("brain-mri", "breast-us") if "grouping" in steps else ():
        figures |= {f"{name}_{key}": value for key, value in compare_grouping(name, options.seeds, work).items()}
    for key, value in figures.items():
        print(f"{key:<40} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


def look_for_copies(steps: list[str], sizes: list[int], picture: Path | None) -> dict[str, float]:
    """Return recall and precision of each kind of copy, and items a second of the search among so many."""
    films, draw = draw_films(N_FILMS), np.random.default_rng(0)
    pictures, figures = draw_all(films), {}
    if picture:
        draw_sample(films[0]).save(picture)
    for name, change in CHANGES.items() if "copies" in steps else ():
        planted = draw_all([change(films[number], draw) for number in range(0, N_FILMS, EVERY)])
        found = {(each.first, each.second) for each in find_duplicates(np.concatenate([pictures, planted]))}
        wanted = {(number, N_FILMS + place) for place, number in enumerate(range(0, N_FILMS, EVERY))}
        figures[f"{name}_recall"] = len(found & wanted) / len(wanted)
        figures[f"{name}_precision"] = len(found & wanted) / max(len(found), 1)
    for size in sizes if "search" in steps else ():
        figures[f"items_{size}_a_second"] = time_items(pictures, size)
    return figures


def time_whole(folder: Path, size: int) -> float:
    """Return items a second of the whole audit of so many films on disk, two a patient, none of which the cache knows."""
    if not (folder / MANIFEST).is_file():
        make_phantoms(folder, PhantomOptions(n_patients=size // 2, size_px=SIZE_PX, views=(2, 2)))
    rows = read_rows(folder / MANIFEST)
    with tempfile.TemporaryDirectory() as fresh:
        before = os.environ["THAWLINE_CACHE"]
        os.environ["THAWLINE_CACHE"] = fresh
        began = time.perf_counter()
        audit(folder, rows)
        os.environ["THAWLINE_CACHE"] = before
    return size / (time.perf_counter() - began)


def plant_faults(folder: Path) -> dict[str, float]:
    """Plant leaks, shortcuts and wrong labels in films, one at a time, and return what the audit makes of each."""
    if not (folder / MANIFEST).is_file():
        make_phantoms(folder, PhantomOptions(n_patients=N_FILMS, size_px=SIZE_PX, views=(1, 1)))
    rows = read_rows(folder / MANIFEST)
    clean = audit(folder, rows)
    figures = {f"clean_{each.source}_auc": each.auc for each in clean.shortcuts}
    figures["clean_findings"] = float(len(clean.findings))

    parts = [{**row, "split": "test" if number % 5 == 0 else "train"} for number, row in enumerate(rows)]
    tested = parts[::25]  # films of the test part, again in training
    leaking = [{**row, "split": "train", "path": save(folder, row, darken)} for row in tested]
    found = list_items(audit(folder, [*parts, *leaking]), "near-duplicates across splits")
    figures |= score(set(found), {row["path"] for row in (*tested, *leaking)}, "leaks")

    for name, plant in (("format", as_jpeg), ("border", draw_border), ("letters", write_letters)):
        planted = [{**row, "path": save(folder, row, plant)} if row["label"] == "lesion" else row for row in rows]
        figures |= {f"planted_{name}_{each.source}_auc": each.auc for each in audit(folder, planted).shortcuts}
    return figures


def doubt_labels(data: Path, work: Path) -> dict[str, float]:
    """Give every twentieth image of a set another label, and return what is doubted of these."""
    rows = read_rows(data / MANIFEST)
    classes = sorted({row["label"] for row in rows})
    wrong = set(np.random.default_rng(0).choice(len(rows), len(rows) // 20, replace=False).tolist())
    changed = [
        {**row, "path": str(data / row["path"]), "label": classes[(classes.index(row["label"]) + 1) % len(classes)]}
        if number in wrong
        else {**row, "path": str(data / row["path"])}
        for number, row in enumerate(rows)
    ]
    (work / data.name).mkdir(parents=True, exist_ok=True)
    ranked = list_items(audit(work / data.name, changed), "likely mislabelled items")
    wanted = {changed[number]["path"] for number in wrong}
    return {
        **score(set(ranked), wanted, "mislabels"),
        "mislabels_first_precision": score(set(ranked[: len(wrong)]), wanted, "first")["first_precision"],
    }


def compare_grouping(name: str, n_seeds: int, work: Path) -> dict[str, float]:
    """Return test and out-of-fold AUC with near-duplicates kept together and not: means over splits, and differences."""
    found: dict[str, list[tuple[float, float]]] = {}
    for kind in ("leaks", "none"):
        for seed in range(n_seeds):
            out = work / f"{name}-{kind}-seed{seed}"
            result = thawline.run(SHARED / "data" / name, out, seed=seed, audit=kind, **FROZEN)
            found.setdefault(kind, []).append(
                tuple(result.metrics[part]["auc"]["value"] for part in ("test", "validation"))
            )
    together, apart = (np.array(found[kind]) for kind in ("leaks", "none"))
    figures = count_groups(work / f"{name}-leaks-seed0")
    for column, part in enumerate(("test", "validation")):
        gained = apart[:, column] - together[:, column]
        figures |= {
            f"{part}_auc_together": float(together[:, column].mean()),
            f"{part}_auc_apart": float(apart[:, column].mean()),
            f"{part}_auc_too_good_by": float(gained.mean()),
            f"{part}_auc_too_good_by_se": float(gained.std(ddof=1) / np.sqrt(n_seeds)),
        }
    return figures


def count_groups(folder: Path) -> dict[str, float]:
    """Return how many groups of identical images and of near-duplicates a run found, and how many images are in them."""
    about = json.loads((folder / "audit.json").read_text("utf-8"))
    near = [
        group for each in about["findings"] if each["name"].startswith("near-duplicates") for group in each["groups"]
    ]
    return {
        "images": about["n_items"],
        "identical_groups": len(about["identical"]),
        "near_duplicate_groups": len(near),
        "near_duplicate_images": sum(map(len, near)),
    }


def draw_sample(film: Image.Image) -> Image.Image:
    """Draw a film and what is planted of it, each with its name below."""
    draw, side = np.random.default_rng(0), max(film.size)
    shown = {"film": film, **{name: change(film, draw) for name, change in CHANGES.items() if name != "identical"}}
    sheet = Image.new("L", (len(shown) * (side + 8), side + 20), 255)
    pen = ImageDraw.Draw(sheet)
    for place, (name, image) in enumerate(shown.items()):
        sheet.paste(image, (place * (side + 8), 0))
        pen.text((place * (side + 8) + 4, side + 3), name.replace("_", " "), fill=0, font_size=13)
    return sheet


def audit(folder: Path, rows: list[dict[str, str]]) -> Audit:
    """Write a manifest of these rows and audit it."""
    names = [name for name in ("path", "label", "patient", "split") if name in rows[0]]
    with (folder / "audited.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return audit_data(folder / "audited.csv", allow_outside=True)


def list_items(found: Audit, name: str) -> list[str]:
    """Return the paths of the items of a finding, in its order; none where it was not made."""
    groups = [group for each in found.findings if each.name == name for group in each.groups]
    return [found.paths[item] for group in groups for item in group]


def score(found: set[str], wanted: set[str], name: str) -> dict[str, float]:
    """Return recall and precision."""
    hits = len(found & wanted)
    return {f"{name}_recall": hits / len(wanted), f"{name}_precision": hits / max(len(found), 1)}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a manifest."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def save(folder: Path, row: dict[str, str], change: Callable[[Image.Image, Path], Path]) -> str:
    """Write a film changed, and return its path in the manifest."""
    name = Path(row["path"]).stem
    with Image.open(folder / row["path"]) as image:
        return (
            change(image.convert("L"), folder / "images" / f"{name}-{change.__name__}.png")
            .relative_to(folder)
            .as_posix()
        )


def darken(image: Image.Image, path: Path) -> Path:
    """Write the film darker by a fifth."""
    ImageEnhance.Brightness(image).enhance(0.8).save(path)
    return path


def as_jpeg(image: Image.Image, path: Path) -> Path:
    """Write the film as a JPEG."""
    image.save(path.with_suffix(".jpg"), quality=92)
    return path.with_suffix(".jpg")


def draw_border(image: Image.Image, path: Path) -> Path:
    """Write the film with a grey rim of two pixels."""
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=128, width=2)
    image.save(path)
    return path


def write_letters(image: Image.Image, path: Path) -> Path:
    """Write the film with a word in its corner."""
    pen = ImageDraw.Draw(image)
    pen.rectangle((2, 2, 78, 16), fill=0)
    pen.text((4, 3), "PORTABLE", fill=255, font_size=12)
    image.save(path)
    return path


def draw_films(n_films: int) -> list[Image.Image]:
    """Draw one film each of so many patients."""
    with tempfile.TemporaryDirectory() as folder:
        make_phantoms(Path(folder), PhantomOptions(n_patients=n_films, size_px=SIZE_PX, views=(1, 1)))
        return [Image.open(path).convert("L") for path in sorted((Path(folder) / "images").iterdir())]


def draw_all(images: list[Image.Image]) -> Any:
    """Return the small pictures that are compared."""
    return np.stack([draw_picture(np.asarray(image)) for image in images])


def time_items(pictures: Any, size: int) -> float:
    """Return items a second for so many pictures: those of films, each with a smooth field of its own laid over it."""
    draw = np.random.default_rng(1)
    many = np.empty((size, SIDE_PX, SIDE_PX), np.uint8)
    for place in range(size):
        field = Image.fromarray(draw.normal(0, 60, (8, 8)).astype(np.float32))
        laid = np.asarray(field.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
        many[place] = np.clip(pictures[place % len(pictures)] + laid, 0, 255)
    began = time.perf_counter()
    find_duplicates(many)
    return size / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
