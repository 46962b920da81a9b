"""The commands about public data sets: which there are, and one fetched and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from thawline.terminal import Json, print_result, reported

datasets_app = typer.Typer(help="Public data sets of MedMNIST: list, get.", no_args_is_help=True)


@datasets_app.command("list")
@reported
def list_command(as_json: Json = False) -> None:
    """List the sets: images in train, val and test, classes, sizes, task and licence."""
    from thawline.datasets import list_sets

    sets = list_sets()
    lines = [
        f"{each.name:<16} {sum(each.counts.values()):>7} {'volumes' if each.is_volumes else 'images':<8} "
        f"{len(each.classes):>3} classes  {each.task}; {', '.join(map(str, each.sizes_px))} px; {each.licence}"
        for each in sets
    ]
    print_result(json.dumps([each.to_json() for each in sets], indent=1) if as_json else "\n".join(lines))


@datasets_app.command("get")
@reported
def get_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A set of MedMNIST, such as PneumoniaMNIST.")],
    size: Annotated[int, typer.Option(help="Side of its images or volumes, px.")] = 28,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    as_json: Json = False,
) -> None:
    """Fetch a set, verify it, and say what it is and under which licence."""
    from thawline.datasets import fetch_set, find_set

    found = find_set(name)
    path = fetch_set(found, out, size)
    if as_json:
        print_result(json.dumps({"file": str(path), **found.to_json()}, indent=1))
        return
    lines = {
        "file": path,
        "licence": found.licence,
        "task": found.task,
        "classes": ", ".join(f"{number} {label}" for number, label in found.classes.items()),
        "parts": ", ".join(f"{part} {count}" for part, count in found.counts.items()),
        "about": found.about,
        "next": f"thawline run {path} --out RUN",
    }
    print_result("\n".join(f"{key:<8} {value}" for key, value in lines.items()))
