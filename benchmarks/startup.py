"""How long `import thawline` and `thawline --help` take, beside bare Python, as whole processes in turn.

python benchmarks/startup.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from environment import write_json

COMMANDS = {
    "python_seconds": ["-c", "pass"],
    "import_seconds": ["-c", "import thawline"],
    "help_seconds": ["-m", "thawline.cli", "--help"],
}


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(5 if options.quick else 21):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    figures = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in figures.items():
        print(f"{name:<16} {value:6.3f} (fastest {min(seconds[name]):.3f})")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
