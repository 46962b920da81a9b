"""The command about backbones: the table, filtered and measured; one of them, with its lines; the survey's table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thawline.errors import OptionError
from thawline.terminal import Json, print_result, reported

if TYPE_CHECKING:
    from thawline.learn.backbones import Backbone
    from thawline.learn.networks import Architecture
    from thawline.learn.speed import Speed
    from thawline.types import Line

backbones_app = typer.Typer(
    help="The pretrained networks that have a name: a table, filtered; one of them; their speed on this machine."
)
WIDTH = 120
FACTS = (  # of a row, as `show` lists them
    "family",
    "year",
    "citation",
    "parameters",
    "published",
    "feature_parameters",
    "layers",
    "licence",
    "pretrained_on",
)


@backbones_app.callback(invoke_without_command=True)
@reported
def list_command(
    context: typer.Context,
    family: Annotated[str | None, typer.Option(help="Only this family, such as ResNet.")] = None,
    largest: Annotated[float | None, typer.Option(help="Only those of at most so many million parameters.")] = None,
    slowest: Annotated[
        float | None, typer.Option(help="Only those measured at so many images a second or more.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Only those whose weights' licence has this in it.")] = None,
    free: Annotated[bool, typer.Option("--free", help="Only those whose licence forbids no use.")] = False,
    present: Annotated[bool, typer.Option("--present", help="Only those whose weights are on this machine.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure speed and memory of those present.")] = False,
    table1: Annotated[bool, typer.Option("--table1", help="Show the survey's table 1, computed anew.")] = False,
    as_json: Json = False,
) -> None:
    """List the backbones of the table: what they are, their licence, where their weights are, how fast they run here."""
    if context.invoked_subcommand is not None:
        return
    if table1:
        _print_table1(as_json)
        return
    from thawline.learn.backbones import BACKBONES

    rows = [row for row in BACKBONES if _is_wanted(row, family, largest, licence, free, present or measure)]
    if measure:
        _measure(rows)
    speeds = _recall_speeds()
    if slowest is not None:
        rows = [row for row in rows if row.name in speeds and speeds[row.name].prefix_items_s >= slowest]
    if not rows:
        raise OptionError(
            "no backbone is left by these options; thawline backbones lists all, weights list where they are"
        )
    print_result(_to_json(rows, speeds) if as_json else _to_table(rows, speeds))


@backbones_app.command("show")
@reported
def show_command(
    name: Annotated[str, typer.Argument(help="A name or an alias of the table, timm/NAME or torchvision/NAME.")],
    as_json: Json = False,
) -> None:
    """Show one backbone: names, source, input, licence, and its thaw lines with what lies above each."""
    from thawline.learn.backbones import find_architecture, find_row

    row, architecture = find_row(name), find_architecture(name)
    facts = _describe_row(row) if row else {"name": architecture.name, **_count(architecture)}
    lines = _list_lines(architecture)
    if as_json:
        listed = [{**_share(line), "shape": list(line.shape)} for line in lines]
        print_result(json.dumps({**facts, **architecture.to_json(), "lines": listed}, indent=1))
        return
    print_result("\n".join([*_write_facts(facts), *_write_input(architecture), "", *_write_lines(lines)]))


def _is_wanted(
    row: Backbone, family: str | None, largest: float | None, licence: str | None, free: bool, present: bool
) -> bool:
    from thawline.audit.pretraining import describe_licence
    from thawline.learn.weights import place_weights

    return (
        (family is None or family.lower() == row.family.lower())
        and (largest is None or row.parameters <= largest * 1e6)
        and (licence is None or licence.lower() in row.licence.lower())
        and (not free or describe_licence(row.licence) is None)
        and (not present or place_weights(row) is not None)
    )


def _measure(rows: Sequence[Backbone]) -> None:
    """Measure each in a process of its own; a failure of one is said and leaves the others."""
    from thawline.errors import ThawlineError
    from thawline.learn.speed import measure_apart
    from thawline.terminal import TerminalListener

    with TerminalListener() as listener:
        for row in rows:
            listener.begin(row.name)
            try:
                speed = measure_apart(row.name)
            except ThawlineError as error:
                listener.warn(str(error))
            else:
                listener.end(f"{speed.prefix_items_s:.0f} images a second")


def _recall_speeds() -> dict[str, Speed]:
    """Return what was measured on hardware like this, by name."""
    from thawline.learn.speed import read_speeds

    found = read_speeds()
    if not found:
        return {}
    from thawline.learn.engine import detect_hardware
    from thawline.learn.speed import name_hardware

    here = name_hardware(detect_hardware())
    return {speed.name: speed for speed in found if speed.hardware == here}


def _to_json(rows: Sequence[Backbone], speeds: dict[str, Speed]) -> str:
    import dataclasses

    found = []
    for row in rows:
        speed = speeds.get(row.name)
        measured = {"speed": dataclasses.asdict(speed) if speed else None}
        found.append({**row.to_json(), **_describe_row(row), **measured})
    return json.dumps(found, indent=1)


def _to_table(rows: Sequence[Backbone], speeds: dict[str, Speed]) -> str:
    from thawline.learn.weights import name_place

    lines = [
        f"{'name':<28} {'family':<17} {'year':>4} {'layers':>6} {'million':>8} {'px':>4} {'weights':<8} "
        f"{'images/s':>8} {'train/s':>8}  licence"
    ]
    for row in rows:
        speed = speeds.get(row.name)
        rate = f"{speed.prefix_items_s:.1f}" if speed else "-"
        training = f"{speed.training_items_s:.1f}" if speed and speed.training_items_s else "-"
        lines.append(
            f"{row.name:<28} {row.family:<17} {row.year:>4} {row.layers:>6} {row.parameters / 1e6:>8.2f} "
            f"{row.architecture.size_px:>4} {name_place(row):<8} {rate:>8} {training:>8}  "
            f"{textwrap.shorten(row.licence, 30, placeholder='…')}"
        )
    return "\n".join([*lines, "", *textwrap.wrap(LEGEND, WIDTH)])


LEGEND = (
    "million: parameters with the classifier. weights: folder, package or cache on this machine; else from a hub, with "
    "pip, or to bring (thawline weights import). images/s: through the frozen network, train/s: training steps above its "
    "middle line, both on this machine once measured (--measure)."
)


def _describe_row(row: Backbone) -> dict[str, Any]:
    from thawline.learn.weights import name_default, name_place

    source, digest = name_default(row)
    facts = {key: getattr(row, key) for key in FACTS}
    aliases = [name for name in dict.fromkeys(row.names()[1:]) if name != row.name]
    more = {"weights": name_place(row), "source": source, "sha256": digest, "note": row.note}
    return {"name": row.name, "aliases": aliases, **facts, **more}


def _count(architecture: Architecture) -> dict[str, Any]:
    """Count the parameters and layers of a network without a row, on no memory."""
    import torch

    from thawline.learn.networks import build_network, classifier_keys, count_layers, count_parameters

    with torch.device("meta"):
        network = build_network(architecture)
        cut = classifier_keys(network, architecture)
        classifier = sum(each.numel() for name, each in network.named_parameters() if name in cut)
        return {
            "parameters": count_parameters(network),
            "feature_parameters": count_parameters(network) - classifier,
            "layers": count_layers(network, architecture.size_px),
        }


def _list_lines(architecture: Architecture) -> tuple[Line, ...]:
    """Find the lines of a network with random weights. Raises ModelError where it cannot be traced."""
    from thawline.learn.networks import build_network, cut_classifier
    from thawline.learn.stages import find_stages, list_lines

    return list_lines(find_stages(cut_classifier(build_network(architecture), architecture)), architecture.size_px)


def _share(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "thawed_fraction": round(line.thawed_fraction, 6),
        "compute_fraction": round(line.compute_fraction, 6),
    }


def _write_facts(facts: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        if key.endswith("parameters"):
            text = f"{value:,}"
        for number, part in enumerate(textwrap.wrap(text, WIDTH - 20)):
            lines.append(f"{'' if number else key.replace('_', ' '):<19} {part}")
    return lines


def _write_input(about: Architecture) -> list[str]:
    mean, std = (", ".join(f"{value:.3g}" for value in triple) for triple in (about.mean, about.std))
    options = f", {dict(about.options)}" if about.options else ""
    return [
        f"{'built by':<19} {about.builder}: {about.model}{options}",
        f"{'input':<19} {about.size_px} px, {about.interpolation}, mean {mean}, std {std}",
    ]


def _write_lines(lines: Sequence[Line]) -> list[str]:
    rows = [f"{'thaw line':<36} {'parameters above':>16} {'compute above':>14}  activations"]
    for line in lines:
        shape = " x ".join(map(str, line.shape))
        rows.append(f"{line.name:<36} {line.thawed_fraction:>16.2%} {line.compute_fraction:>14.2%}  {shape}")
    return rows


def _print_table1(as_json: bool) -> None:
    from thawline.learn.survey import recompute

    found = list(recompute())
    if as_json:
        print_result(json.dumps([each.to_json() | {"agrees": each.agrees()} for each in found], indent=1))
        return
    lines = ["Kim et al. 2022, BMC Medical Imaging 22:69, table 1: a·b·c + 1 parameters a filter", ""]
    for each in found:
        row = each.printed
        counts = (
            ("parameters", row.parameters, each.parameters, each.reading),
            ("of the features", row.feature_parameters, each.feature_parameters, each.feature_reading),
            ("layers", row.layers, each.layers, each.layer_reading),
            ("of the features", row.feature_layers, each.feature_layers, each.feature_layer_reading),
        )
        lines += [
            f"{row.model + f' ({row.year})':<18} {'printed':>13} {'here':>13} {'as meant':>13}",
            *(f"  {name:<16} {printed:>13,.0f} {here:>13,} {meant:>13,}" for name, printed, here, meant in counts),
            *textwrap.wrap(row.reason, WIDTH, initial_indent="  ", subsequent_indent="  "),
            "",
        ]
    print_result("\n".join(lines))
