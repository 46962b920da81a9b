"""The pages that people read say what is there: links lead somewhere, numbers come from the benchmarks' files."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_results_page_is_what_the_benchmarks_wrote():
    spec = importlib.util.spec_from_file_location("write_results", ROOT / "benchmarks" / "write_results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_results"] = module
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "RESULTS.md").read_text("utf-8") == module.format_page()
    wrote = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert wrote <= {section.name for section in module.SECTIONS}


def test_numbers_of_the_readme_are_on_the_results_page():
    text = (ROOT / "README.md").read_text("utf-8")
    table = text[text.index("## How it compares") : text.index("## Install")]
    page = (ROOT / "docs" / "RESULTS.md").read_text("utf-8")
    numbers = re.findall(r"\d+\.\d+", table)
    assert len(numbers) >= 6
    assert [number for number in numbers if number not in page] == []


def test_every_environment_variable_is_in_the_guide():
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    used = set(re.findall(r"THAWLINE_[A-Z_]+", source))
    guide = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "guide").glob("*.md"))
    assert used == set(re.findall(r"THAWLINE_[A-Z_]+", guide))


def list_options(command):
    """All options of a command and of the commands below it."""
    found = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return found.union(*(list_options(each) for each in getattr(command, "commands", {}).values()))


def test_every_option_the_guide_names_exists():
    from typer.main import get_command

    from thawline.cli import app

    known = list_options(get_command(app)) | {"--help", "--no-index", "--find-links"}
    for page in (ROOT / "docs" / "guide").glob("*.md"):
        assert set(re.findall(r"--[a-z][a-z0-9-]+", page.read_text("utf-8"))) <= known, page.name


def test_every_term_of_the_guides_table_of_strategies_is_taken():
    from thawline.options import STRATEGIES, resolve_strategy

    guide = (ROOT / "docs" / "guide" / "README.md").read_text("utf-8")
    table = guide[guide.index("| strategy | also |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]
    assert [name for name, _ in rows] == list(STRATEGIES)
    for name, terms in rows:
        assert {resolve_strategy(term) for term in terms.split(",")} == {name}


def test_the_architecture_has_the_layers_that_imports_are_held_to():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"][0]
    layers = [layer for layer in contract["layers"] if not layer.startswith("(")]  # those may be left out
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    drawn = page[page.index("Imports point one way") :].split("Heavy libraries")[0]
    for layer in layers:
        names = [name for name in layer.split(" | ") if not name.startswith("(")]
        assert f"`{' | '.join(names)}`" in drawn, layer


@pytest.mark.slow
def test_a_benchmark_writes_its_figures(tmp_path):
    out = tmp_path / "startup.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "startup.py"), "--quick", "--json", str(out)]
    assert "help_seconds" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert '"figures"' in out.read_text("utf-8")
