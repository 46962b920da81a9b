"""`thawline validate`: a finished model on data that it has never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from thawline.terminal import Json, Quiet, TerminalListener, format_validation, print_result, reported

Share = Annotated[
    float | None, typer.Option(help="Prevalence that predictive values are told for; else that of the run.")
]


@reported
def validate_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[Path, typer.Argument(help="Other data of the same classes, in any form that run reads.")],
    out: Annotated[Path | None, typer.Option(help="New folder for the results; else one of the run's own.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels of DICOM files.")] = None,
    keys: Annotated[str | None, typer.Option(help="Arrays of an .npz, HDF5 or Zarr file.")] = None,
    prevalence: Share = None,
    subgroups: Annotated[str, typer.Option(help="Columns that part the items, auto or none.")] = "auto",
    device: Annotated[str, typer.Option(help="Where the engine runs: auto, cpu or cuda.")] = "auto",
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Leave out what cannot be read.")] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Let manifest paths leave its folder.")
    ] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Go on with patients or images that the model has learnt from.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge a run's model on other data: all metrics beside the run's own, and how the data differ from its own."""
    from thawline.validating import validate

    with TerminalListener(quiet=quiet) as listener:
        found = validate(
            run,
            data,
            out,
            labels=labels,
            keys=keys,
            prevalence=prevalence,
            subgroups=subgroups,
            device=device,
            allow_outside=allow_outside,
            allow_leak=allow_leak,
            skip_unreadable=skip_unreadable,
            listener=listener,
        )
    if as_json:
        about = {"folder": str(found.folder), "page": str(found.page), "metrics": found.metrics}
        print_result(json.dumps(about, indent=1))
    else:
        print_result(format_validation(found.metrics, found.page))
