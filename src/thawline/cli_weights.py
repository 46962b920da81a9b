"""The commands about weights: which there are, fetched, verified, packed for a machine without internet, brought in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thawline.errors import OptionError
from thawline.terminal import WRONG, Json, print_result, reported

if TYPE_CHECKING:
    from thawline.learn.weight_files import Weights

weights_app = typer.Typer(
    help="Weights of pretrained networks: list, get, verify, pack for a machine without internet, import.",
    no_args_is_help=True,
)

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Networks of the table, or timm/NAME.")]


@weights_app.command("list")
@reported
def list_command(as_json: Json = False) -> None:
    """List the networks of the table: where their weights lie or come from, licence, what they were trained on."""
    from thawline.learn.backbones import BACKBONES
    from thawline.learn.weights import name_place

    rows = [
        {"name": row.name, "weights": name_place(row), "licence": row.licence, "pretrained_on": row.pretrained_on}
        for row in BACKBONES
    ]
    lines = [f"{row['name']:<28} {row['weights']:<8} {row['licence']}; {row['pretrained_on']}" for row in rows]
    print_result(json.dumps(rows, indent=1) if as_json else "\n".join(lines))


@weights_app.command("get")
@reported
def get_command(names: Names, as_json: Json = False) -> None:
    """Find the weights of networks, fetching those that are not here, and say what they are."""
    from thawline.learn.weights import find_weights

    _print_weights((find_weights(name) for name in names), as_json)


@weights_app.command("pack")
@reported
def pack_command(
    folder: Annotated[Path, typer.Argument(help="Folder to write; what it holds stays.")],
    names: Names,
    as_json: Json = False,
) -> None:
    """Put weights into a folder to carry to a machine without internet, where THAWLINE_WEIGHTS names it."""
    from thawline.learn.air_gap import pack_weights

    _print_weights(pack_weights(folder, names), as_json)


@weights_app.command("verify")
@reported
def verify_command(
    folder: Annotated[Path | None, typer.Argument(help="Folder of weights; without it all on this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Check weights against their descriptions, digests and the manifest; exit code 2 where one is wrong."""
    from thawline.learn.air_gap import verify_weights

    found = list(verify_weights(folder))
    rows = [{"name": each.name, "place": each.place, "problem": each.problem} for each in found]
    lines = [f"{'wrong' if each.problem else 'ok':<6} {each.name:<36} {each.problem or each.place}" for each in found]
    wrong = sum(bool(each.problem) for each in found)
    print_result(json.dumps(rows, indent=1) if as_json else "\n".join([*lines, f"{len(found)} checked, {wrong} wrong"]))
    if wrong:
        raise typer.Exit(WRONG)


@weights_app.command("import")
@reported
def import_command(
    file: Annotated[Path, typer.Argument(help="A file of PyTorch (.pth, .pt, .safetensors) or Keras (.h5).")],
    name: Annotated[str, typer.Option("--as", help="Network that they are of: a name of the table, or timm/NAME.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; else the one of THAWLINE_WEIGHTS.")] = None,
    preprocessing: Annotated[
        str | None, typer.Option(help="How images were prepared, in Keras' words: caffe, tf or torch.")
    ] = None,
    size_px: Annotated[int | None, typer.Option(min=32, max=1024, help="Side of the images in their training.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights; the report states it.")] = "not stated",
    pretrained_on: Annotated[str, typer.Option(help="The data that they were trained on.")] = "",
    as_json: Json = False,
) -> None:
    """Bring a weight file of other makers to a network's own names, and describe it; nothing that it holds is run."""
    from thawline.learn.air_gap import import_weights
    from thawline.learn.weights import weight_folders

    folder = out or next(weight_folders(), None)
    if folder is None:
        raise OptionError("expected --out FOLDER or THAWLINE_WEIGHTS, the folder to write to; found neither")
    weights, match = import_weights(
        file,
        name,
        folder,
        preprocessing=preprocessing,
        size_px=size_px,
        licence=licence,
        pretrained_on=pretrained_on,
    )
    typer.echo(match.describe(), err=True)
    _print_weights([weights], as_json)


def _print_weights(found: Any, as_json: bool) -> None:
    """Print each as it is found, with what its licence asks for on standard error; as JSON all in the end."""
    from thawline.audit.pretraining import describe_licence

    rows = []
    for weights in found:
        name = weights.architecture.name
        if (said := describe_licence(weights.licence)) is not None:
            typer.echo(f"warning: {name}: {said}", err=True)
        rows.append({**weights.describe(), "path": str(weights.path)})
        if not as_json:
            print_result(_describe(weights))
    if as_json:
        print_result(json.dumps(rows, indent=1))


def _describe(weights: Weights) -> str:
    return "\n".join(
        [
            weights.architecture.name,
            f"  source         {weights.source}",
            f"  licence        {weights.licence}",
            f"  pretrained on  {weights.pretrained_on}",
            f"  SHA-256        {weights.sha256}",
            f"  file           {weights.path}",
        ]
    )
