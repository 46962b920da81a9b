"""The command line: every command says what it does in one line and imports what it needs when it runs."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

import thawline
from thawline.cli_backbones import backbones_app
from thawline.cli_datasets import datasets_app
from thawline.cli_validate import validate_command
from thawline.cli_weights import weights_app
from thawline.errors import OptionError
from thawline.options import NEVER, RunOptions
from thawline.terminal import REFUSED, WRONG, Json, Quiet, TerminalListener, format_summary, print_result, reported

app = typer.Typer(
    help="Self-configuring medical image classification by transfer learning, with an honest report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the start-up time
)
app.add_typer(backbones_app, name="backbones")
app.add_typer(weights_app, name="weights")
app.add_typer(datasets_app, name="datasets")
app.command("validate")(validate_command)
DEMO_BUDGET, DEMO_SIZE_PX = "100s", 224  # a larger input would take the time for the first thaw line

Data = Annotated[
    Path, typer.Argument(help="Folder with a manifest or a subfolder a class, a manifest file, or an .npz.")
]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="Let manifest paths leave its folder.")]
Run = Annotated[Path, typer.Argument(help="Run folder, or a model folder.")]
StudyFile = Annotated[
    Path | None,
    typer.Option(
        "--study", help="File that states what only people know: purpose, reference standard, ethics, prices."
    ),
]


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add one command-line option for each field of RunOptions, and hand them over as ``options``."""
    hints = get_type_hints(RunOptions)
    own = get_type_hints(command, include_extras=True)
    added = []
    for field in dataclasses.fields(RunOptions):
        among = field.metadata["among"]
        text = field.metadata["meaning"] + (f" One of {', '.join(among)}." if among else "")
        declared: Any = Annotated.__class_getitem__(  # type: ignore[attr-defined]
            (hints[field.name], typer.Option(f"--{field.name.replace('_', '-')}", help=text))
        )
        added.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=declared)
        )
    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "options"
    ]

    def run_with_options(**arguments: Any) -> None:
        options = RunOptions(**{parameter.name: arguments.pop(parameter.name) for parameter in added})
        command(options=options, **arguments)

    run_with_options.__name__, run_with_options.__doc__ = command.__name__, command.__doc__
    run_with_options.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
    run_with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *added]}
    return run_with_options


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Self-configuring medical image classification by transfer learning, with an honest report."""
    if version:
        print_result(f"thawline {thawline.__version__}")
        raise typer.Exit


@app.command("run")
@with_run_options
@reported
def run_command(
    data: Data,
    options: RunOptions,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; needed unless --plan-only.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan file, edited or not, to follow.")] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Print the plan and stop.")] = False,
    study: StudyFile = None,
    resume: Annotated[bool, typer.Option(help="Go on from the journal of a run that was stopped.")] = True,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the main job: read, split by patient, climb from the frozen network to thawed ones, choose, judge, report."""
    from thawline import job

    with TerminalListener(quiet=quiet) as listener:
        if plan_only:
            found = job.plan_only(data, options, listener=listener)
            print_result(json.dumps(found.to_json(), indent=1) if as_json else str(found))
            return
        if out is None:
            raise OptionError("expected --out RUN, the folder to write the run to; found none")
        result = job.run(data, out, options, plan=plan, study=study, resume=resume, listener=listener)
    _print_run(result, as_json)


@app.command("demo")
@reported
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the phantoms and their run.")] = Path("thawline-demo"),
    contrast: Annotated[float | None, typer.Option(help="Lesion contrast; 0 leaves nothing to find.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the phantoms and of the run.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the main job on made-up chest films: real network, real weights, no data needed."""
    from thawline import job
    from thawline.data.phantoms import MANIFEST, PhantomOptions, make_phantoms

    wanted = PhantomOptions(seed=seed) if contrast is None else PhantomOptions(seed=seed, contrast=contrast)
    name = f"seed{seed}" if contrast is None else f"seed{seed}-contrast{contrast:g}"
    with TerminalListener(quiet=quiet) as listener:
        if not (out / f"films-{name}" / MANIFEST).is_file():
            listener.begin("phantoms")
            make_phantoms(out / f"films-{name}", wanted)
            listener.end(f"films of {wanted.n_patients} made-up patients")
        options = RunOptions(seed=seed, budget=DEMO_BUDGET, size_px=DEMO_SIZE_PX, nested=NEVER)
        result = job.run(out / f"films-{name}", out / f"run-{name}", options, listener=listener)
    _print_run(result, as_json)


@app.command("audit")
@reported
def audit_command(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="New folder for a page with pictures, and audit.json.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels of DICOM files.")] = None,
    keys: Annotated[str | None, typer.Option(help="Arrays of an .npz, HDF5 or Zarr file.")] = None,
    multilabel: Annotated[bool, typer.Option("--multilabel", help="Labels are several, joined by |.")] = False,
    allow_outside: AllowOutside = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Look for what would fool a model or its judges: copies, leaks, shortcuts, doubtful labels, odd images, identities."""
    from thawline.auditing import audit_data, format_audit, write_audit
    from thawline.files import require_empty

    if out is not None:
        require_empty(out, "the audit")  # before minutes of work, not after
    with TerminalListener(quiet=quiet) as listener:
        found = audit_data(
            data, labels=labels, keys=keys, allow_outside=allow_outside, multilabel=multilabel, listener=listener
        )
        page = write_audit(found, out) if out is not None else None
    print_result(json.dumps(found.to_json(), indent=1) if as_json else format_audit(found))
    if page is not None and not as_json:
        print_result(f"page: {page}")
    if found.is_fatal:
        raise typer.Exit(REFUSED)


@app.command("deidentify")
@reported
def deidentify_command(
    data: Annotated[Path, typer.Argument(help="Folder of DICOM files.")],
    out: Annotated[Path, typer.Argument(help="Folder of the copy, new or empty.")],
    labels: Annotated[Path | None, typer.Option(help="Table of labels, where it lies elsewhere.")] = None,
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Copy images that seem to have text burned in as well.")
    ] = False,
    allow_outside: AllowOutside = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Copy DICOM images without identities: the basic profile of the standard, keys of this site, and a log."""
    from thawline.deidentify import deidentify

    with TerminalListener(quiet=quiet) as listener:
        done = deidentify(data, out, labels=labels, keep_text=keep_text, allow_outside=allow_outside, listener=listener)
    print_result(json.dumps(done.to_json(), indent=1) if as_json else str(done))


@app.command("predict")
@reported
def predict_command(
    run: Run,
    files: Annotated[list[Path], typer.Argument(help="Images, folders of images, or manifests.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write; without it, standard output.")] = None,
    heat_maps: Annotated[
        Path | None, typer.Option(help="New folder for pictures and tables of the tiles of whole slides that count.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the engine runs: auto, cpu or cuda.")] = "auto",
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Leave out what cannot be read.")] = False,
    allow_outside: AllowOutside = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Predict images with a run's model; CSV, or with --json one JSON object a line."""
    from thawline.predict import predict_files

    with TerminalListener(quiet=quiet) as listener:
        text = predict_files(
            run,
            files,
            device=device,
            skip_unreadable=skip_unreadable,
            allow_outside=allow_outside,
            as_json=as_json,
            heat_maps=heat_maps,
            listener=listener,
        )
    if out is None:
        print_result(text)
    else:
        from thawline.files import write_atomic

        write_atomic(out, text)


def print_template(wanted: bool) -> None:
    """Print an empty study file and stop."""
    if wanted:
        from thawline.share.study import write_template

        print_result(write_template())
        raise typer.Exit


@app.command("report")
@reported
def report_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    form: Annotated[str, typer.Option("--format", help="One of html, pdf (by Chromium), md, json.")] = "html",
    out: Annotated[Path | None, typer.Option(help="File to write; else report.FORMAT in the run folder.")] = None,
    figures: Annotated[Path | None, typer.Option(help="New folder for the figures, as SVG and PDF.")] = None,
    tables: Annotated[Path | None, typer.Option(help="New folder for the numbers, as CSV.")] = None,
    study: StudyFile = None,
    template: Annotated[  # noqa: ARG001 print_template has done all
        bool,
        typer.Option("--study-template", help="Print an empty study file.", is_eager=True, callback=print_template),
    ] = False,
) -> None:
    """Write a run's report anew from its numbers, as a page, PDF, Markdown or JSON; figures and numbers as files."""
    from thawline.share.card import restate_card
    from thawline.share.exports import export_report, write_figures, write_tables
    from thawline.share.study import keep_study

    if study is not None:
        keep_study(run, study)
        restate_card(run)
    print_result(str(export_report(run, form, out)))
    for folder, write in ((figures, write_figures), (tables, write_tables)):
        if folder is not None:
            write(run, folder)
            print_result(str(folder))


@app.command("cache")
@reported
def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything the cache holds.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the cache holds, or clear it."""
    from thawline import cache

    freed = cache.clear() if clear else 0
    spaces = cache.list_spaces()
    facts: dict[str, Any] = {
        "folder": str(cache.cache_path()),
        "limit_mib": cache.limit_bytes() // 2**20,
        "freed_mib": round(freed / 2**20, 1),
        "spaces": [
            {"kind": space["kind"], "name": space["folder"].name, "mib": round(space["bytes"] / 2**20, 1)}
            for space in spaces
        ],
    }
    if as_json:
        print_result(json.dumps(facts, indent=1))
        return
    lines = [f"{space['kind']:<10} {space['name']:<26} {space['mib']:9.1f} MiB" for space in facts["spaces"]]
    held = sum(space["bytes"] for space in spaces) / 2**20
    lines.append(f"{facts['folder']}: {held:.1f} MiB of at most {facts['limit_mib']} MiB")
    print_result("\n".join([*lines, f"freed {facts['freed_mib']} MiB"] if clear else lines))


@app.command("doctor")
@reported
def doctor_command(
    online: Annotated[
        bool, typer.Option("--online", help="Also ask whether the hubs of weights can be reached.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine can do, and what is missing; exit code 2 where a run would not work."""
    from thawline.doctor import examine

    found = examine(online=online)
    print_result(json.dumps(found.to_json(), indent=1) if as_json else str(found))
    if not found.works:
        raise typer.Exit(WRONG)


def _print_run(result: Any, as_json: bool) -> None:
    if as_json:
        print_result(
            json.dumps({"run": str(result.folder), "report": str(result.report), "metrics": result.metrics}, indent=1)
        )
    else:
        print_result(format_summary(result.metrics, result.report))


def main() -> None:
    """Start the command line."""
    app()


if __name__ == "__main__":
    main()
