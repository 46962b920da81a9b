"""What a person sees of a command: a progress bar with an estimate on a terminal, one line a step elsewhere; its errors."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from thawline.errors import ThawlineError
from thawline.share.headline import WHERE, list_parts
from thawline.share.words import count_things, name_rung, write_estimate, write_percent

INTERRUPTED, WRONG, REFUSED = 130, 2, 3
Quiet = Annotated[bool, typer.Option("--quiet", help="Show warnings and results only.")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors raised on purpose into a message and an exit code; a traceback is for our own faults."""

    @functools.wraps(command)
    def run_reported(**arguments: Any) -> None:
        try:
            command(**arguments)
        except ThawlineError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: finished work is kept; the same command goes on from there", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
            raise typer.Exit(0) from None

    return run_reported


class TerminalListener:
    """Writes to standard error, so that standard output stays for results; ``quiet`` leaves warnings only."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._progress: Any = None
        self._task: Any = None
        self._step, self._began = "", 0.0

    def __enter__(self) -> TerminalListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def begin(self, step: str, total: int | None = None) -> None:
        """Start a bar for a step."""
        self._stop()
        self._step, self._began = step, time.perf_counter()
        if not self._quiet and self._console.is_terminal:
            self._progress = _make_progress(self._console)
            self._task = self._progress.add_task(step, total=total)
            self._progress.start()

    def advance(self, units: int = 1) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.advance(self._task, units)

    def end(self, note: str = "") -> None:
        """Replace the bar by a line that says what came of the step."""
        self._stop()
        if not self._quiet:
            seconds = time.perf_counter() - self._began
            self._console.print(f"{self._step:<22} {seconds:6.1f} s  {note}", markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Write a warning; also when quiet."""
        self._console.print(f"warning: {message}", markup=False, soft_wrap=True, style="yellow")

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def format_summary(metrics: Mapping[str, Any], report: Path) -> str:
    """Return the lines that end a run."""
    chosen, cost = metrics["chosen"], metrics["cost"]
    seconds = cost["seconds"]
    parts = ", ".join(
        f"{name} {seconds[name]:.1f}" for name in ("read", "features", "heads", "training", "nested") if name in seconds
    )
    return "\n".join(
        [
            *_describe_parts(metrics),
            f"Chosen: {_describe_chosen(chosen)}, of {count_things(len(metrics['ladder']), 'rung')} tried",
            f"Cost: {seconds['total']:.1f} s ({parts}), peak memory {cost['peak_rss_mib']} MiB"
            f"{_describe_use(cost['inference'])}",
            f"Report: {report}",
        ]
    )


def _describe_parts(metrics: Mapping[str, Any]) -> list[str]:
    """Return a line for each part, the headline's with its accuracy."""
    names = {"nested": "Nested cross-validated", "test": "Test", "validation": "Cross-validated"}
    lines: list[str] = []
    for part in list_parts(metrics):
        section, is_first = metrics[part], not lines
        closed = " (test part closed)" if is_first and metrics["test"] is None else ""
        right = f", accuracy {write_estimate(section['accuracy'])}" if is_first else ""
        counts = f"{section['n_items']} items of {section['n_patients']} patients"
        lines.append(f"{names[part]}{closed} AUC {write_estimate(section['auc'])}{right}: {counts}")
    return lines


def format_validation(metrics: Mapping[str, Any], page: Path) -> str:
    """Return the lines that end a validation: what was reached, beside the run, and what of the data is notable."""
    section, compared = metrics["external"], metrics["compared"]
    auc = section.get("auc_present", section["auc"])
    lines = [
        f"External AUC {write_estimate(auc)}, accuracy {write_estimate(section['accuracy'])}: "
        f"{section['n_items']} items of {section['n_patients']} patients"
    ]
    if compared is not None:
        against = WHERE[compared["with"]]
        lines.append(
            f"AUC less that of the run's {against}: {write_estimate(compared['metrics']['auc']['difference'])}"
        )
    if (familiarity := metrics["drift"]["familiarity"]) is not None:
        lines.append(f"Unfamiliar images: {familiarity['n_unfamiliar']} of {familiarity['n_items']}")
    lines += [f"Drift: {sentence}" for sentence in metrics["drift"]["notable"] or ["nothing notable"]]
    return "\n".join([*lines, f"Page: {page}"])


def _describe_use(inference: Mapping[str, Any]) -> str:
    """Return what predicting costs, nothing where that was not measured."""
    seconds, per_items = inference["seconds"], inference["per_items"]
    return "" if seconds is None else f"; predicting {per_items} items {seconds:.1f} s"


def _describe_chosen(chosen: Mapping[str, Any]) -> str:
    """Return backbone, strategy and thaw line, with the fine-tuning ratio of a thawed one."""
    name = name_rung(chosen["strategy"], chosen["thaw_line"], chosen["head"])
    ratio = f" (fine-tuning ratio {write_percent(chosen['thawed_fraction'])})" if chosen["thaw_line"] else ""
    return name if chosen["strategy"] == "handcrafted" else f"{chosen['backbone']}, {name}{ratio}"


def print_result(text: str) -> None:
    """Write a result to standard output, ended by one line break; nothing where there is none."""
    sys.stdout.write(text.rstrip("\n") + "\n" if text else "")


def _make_progress(console: Any) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
