"""What the READMEs name exists: links, paths, modules, commands, parameters, artefacts, figures, numbers."""

import ast
import json
import re
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from lib.artefacts import ARTEFACTS, NOTEBOOKS
from lib.config import ROOT, Config
from lib.explore.notebook_runs import question
from lib.network import architectures, compare, models

PAGES = sorted(
    path
    for pattern in ("*.md", "*/README.md", "data/reference/README.md", "data/reference/demo/README.md")
    for path in ROOT.glob(pattern)
    if not path.parts[len(ROOT.parts)].startswith(".")
)
ROOMS = sorted(path.name for path in (ROOT / "lib").iterdir() if (path / "__init__.py").is_file())
# Made by a run or by the user, so not in a fresh clone.
MADE = re.compile(r"^(data/(raw|derived)|figures/(<|demo|gtex))|^\.venv|<|…|\.\.\.")
MOST_COLUMNS = 150  # of a line outside tables and code


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=page_id)
def page(request) -> Path:
    return request.param


def without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def anchors(markdown: str) -> set[str]:
    """Anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(markdown), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def rows(markdown: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = markdown.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"^\|.*?(?=^[^|]|\Z)", section, re.MULTILINE | re.DOTALL)[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(markdown: str) -> list[str]:
    """Code spans and the lines of code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", without_code(markdown))
    return spans + [line for block in blocks for line in block.splitlines()]


def test_every_folder_has_a_readme():
    for folder in ("", "notebooks", "lib", "data", "data/reference", "figures", "tests"):
        assert (ROOT / folder / "README.md").is_file(), folder


def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = unquote(target).partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def test_lines_are_short(page):
    for line in without_code(page.read_text(encoding="utf-8")).splitlines():
        if not line.startswith("|") and "](" not in line:
            assert len(line) <= MOST_COLUMNS, line


def test_paths_exist(page):
    """Whatever is written as code and looks like a path of the repository."""
    top = "lib|tests|data|notebooks|figures|run_all|pyproject|requirements|environment"
    suffixes = "py|md|toml|csv|yml|lock|ipynb"
    for span in code(page.read_text(encoding="utf-8")):
        for path in re.findall(rf"(?<![\w/.:-])((?:{top})[\w./<>-]*\.(?:{suffixes}))", span):
            if not MADE.search(path) and "mine" not in path and "NN_" not in path:
                assert (ROOT / path).exists() or (page.parent / path).exists(), f"{path} in {span!r}"


def test_modules_exist(page):
    """`lib.x.y` names a module, or something defined in one; `python -m lib.x` can be run."""
    if page.name == "CHANGELOG.md":
        return  # it names what was
    for span in code(page.read_text(encoding="utf-8")):
        for name in re.findall(r"-m (lib[\w.]+)", span):
            main = ROOT.joinpath(*name.split("."), "__main__.py")
            assert main.is_file() or "__main__" in module_file(name).read_text(encoding="utf-8"), name
        for name in re.findall(r"(?<![\w/])lib(?:\.[a-z_0-9]+)+", span):
            if "<" not in span:
                assert module_file(name) or name_in(*name.rpartition(".")[::2]), name
        for room, name in re.findall(r"from lib\.(\w+) import (\w+)", span):
            assert module_file(f"lib.{room}.{name}"), span


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None


def name_in(module: str, name: str) -> bool:
    path = module_file(module)
    return path is not None and re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) is not None


def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    for span in code(page.read_text(encoding="utf-8")):
        for target in re.findall(r"(?:^|\s)make ([a-z]+)\b", span):
            assert target in targets, span


def test_cohorts_and_options_of_the_driver_exist(page):
    cohorts = {path.stem for path in (ROOT / "data" / "cohorts").glob("*.toml")} | {"mine"}
    files = {"run_all": "run_all.py", "-m lib.gtex": "lib/gtex.py", "-m lib.train": "lib/train.py"}
    files |= {"-m lib.benchmarks": "lib/benchmarks/run.py", "-m lib.export": "lib/export.py"}
    joined = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for span in code(joined):
        span = span.partition("#")[0]
        for cohort in re.findall(r"--cohort ([\w-]+)", span):
            assert cohort in cohorts, span
        for command, file in files.items():
            options = span.partition(command)[2]
            for option in re.findall(r"\s(--[a-z-]+)", options):
                assert f'"{option}"' in text(file), f"{option} of {span!r}"


def test_parameters_exist(page):
    """`key = value` and --set key=value name fields of the configuration."""
    if page.name == "CHANGELOG.md":
        return
    markdown = page.read_text(encoding="utf-8")
    for span in re.findall(r"`([^`\n]+)`", without_code(markdown)):
        for key in re.findall(r"^([a-z_0-9]+) = ", span):
            assert key in Config.model_fields, span
    for span in code(markdown):
        for settings in re.findall(r"--set ((?:[a-z_0-9]+=\S+ ?)+)", span):
            for key in re.findall(r"([a-z_0-9]+)=", settings):
                assert key in Config.model_fields, span
    for block in re.findall(r"^```toml\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        Config.checked({"cohort": "mine"} | tomllib.loads(block))


# -- the front page ---------------------------------------------------------------------------------------


def test_front_page_is_short():
    assert len(text("README.md").splitlines()) <= 130


def test_room_tree_is_the_tree_on_disk():
    tree = text("README.md").split("## Where is what", 1)[1]
    assert sorted(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == ROOMS
    for name in re.findall(r"^([\w./]+) ", re.search(r"```\n(.*?)```", tree, re.DOTALL)[1], re.MULTILINE):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["README.md", "notebooks/README.md"])
def test_tour_asks_the_notebooks_questions(name):
    tour = {cells[0].strip("`"): cells[1] for cells in rows(text(name), "## The tour")}
    assert tour == {notebook: question(notebook) for notebook in NOTEBOOKS}


def test_pictures_of_the_front_page_are_there():
    pictures = re.findall(r"!\[[^\]]+\]\((figures/readme_\w+\.png)\)", text("README.md"))
    assert sorted(pictures) == sorted(f"figures/{p.name}" for p in (ROOT / "figures").glob("*.png"))


# -- the library --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_every_module_has_its_line(room):
    page = text("lib/README.md")
    heading = re.search(rf"^## {room}/.*$" if room else r"^## At the door$", page, re.MULTILINE)[0]
    listed = {cells[0].strip("`"): cells[1] for cells in rows(page, heading)}
    files = [path for path in (ROOT / "lib" / room).iterdir() if path.suffix in (".py", ".js", ".css", ".j2")]
    files = [path for path in files if path.name not in ("__init__.py", "__main__.py")]
    assert sorted(listed) == sorted(path.stem if path.suffix == ".py" else path.name for path in files)
    assert all(listed.values())


def test_direction_is_the_contract():
    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    section = text("lib/README.md").split("## The direction of imports", 1)[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)[1]
    drawn = [sorted(line.replace(" ", "").split("|")) for line in block.strip().splitlines()]
    assert drawn == [sorted(layer.replace(" ", "").split("|")) for layer in layers]


# -- data and figures ---------------------------------------------------------------------------------------


def test_every_artefact_is_described():
    described = set(re.findall(r"`(?:<\w+>/)*([\w.]+\.(?:parquet|npy|pt))`", text("data/README.md")))
    expected = {artefact.path.rpartition("/")[2] for artefact in ARTEFACTS.values()} - {"source.json"}
    assert expected <= described


def test_columns_of_the_samples_table_are_described():
    from lib.cohort.samples import REGION, REQUIRED

    described = " ".join(cells[0] for cells in rows(text("data/README.md"), "### The samples table"))
    for column in (*REQUIRED, *REGION, "split", "mpp"):
        assert f"`{column}`" in described


@cache
def saved_stems() -> tuple[set[str], set[str]]:
    """Stems of the tables and figures saved by the notebooks, and the constant starts of those put together.

    The figures of notebook 10 have their stems in `visualize.card_figures`, the tables of the scorecard in
    `simulated.scorecard`.
    """
    tables = next(
        node
        for node in ast.parse(text("lib/simulated/scorecard.py")).body
        if isinstance(node, ast.FunctionDef) and node.name == "tables"
    )
    returned = next(node.value for node in ast.walk(tables) if isinstance(node, ast.Return))
    whole, starts = {key.value for key in returned.keys}, set()
    notebooks = [json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("notebooks/*.ipynb")]
    cells = [cell for notebook in notebooks for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells] + [text("lib/visualize/card_figures.py")]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in calls:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in ("save_table", "save_figure", "Captioned"):
            stem = call.args[0]
            if isinstance(stem, ast.Constant):
                whole.add(stem.value)
            elif isinstance(stem, ast.JoinedStr) and isinstance(stem.values[0], ast.Constant):
                starts.add(stem.values[0].value)
    return whole, starts


def test_every_figure_and_table_is_listed():
    listed = set()
    for cells in rows(text("figures/README.md"), "## What is what"):
        listed |= {stem.strip() for stem in re.sub(r"\(.*?\)", "", cells[0]).split(",")} - {"..."}
    whole, starts = saved_stems()
    assert whole - listed == set(), "saved by a notebook, not listed in figures/README.md"
    unknown = {stem for stem in listed - whole if not any(stem.startswith(start) for start in starts)}
    assert unknown == set(), "listed in figures/README.md, saved by no notebook"
    for start in starts:
        assert any(stem.startswith(start) for stem in listed), f"{start}… is saved and not listed"


# -- the method --------------------------------------------------------------------------------------------


def test_method_has_its_numbered_sections():
    titles = ["Cohort", "Tiles", "Networks", "Training", "Features", "Correlation", "Permutation tests"]
    titles += ["Conditional independence", "Reproducibility", "Visualisation", "Null networks"]
    found = re.findall(r"^## (\d+ .+)$", text("notebooks/README.md"), re.MULTILINE)
    assert found == [f"{number} {title}" for number, title in enumerate(titles, 1)]


def test_method_is_cited_by_its_sections():
    """Whatever cites the method names a section that exists, and nothing cites a text that is not here."""
    cited = [*ROOT.glob("lib/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    for path in [*cited, *ROOT.glob("data/cohorts/*.toml"), ROOT / "run_all.py"]:
        content = path.read_text(encoding="utf-8")
        assert path == Path(__file__) or not re.search(r"\bMETHOD\b", content), path
        for number in re.findall(r"notebooks/README\.md, section\s+(\d+)", content):
            assert 1 <= int(number) <= 11, path


def test_table_of_networks_is_right():
    """Parameters, features and their kinds in section 3, against the networks themselves."""
    kinds = {"Conv2d": 3, "BatchNorm2d": 4, "ReLU": 5, "MaxPool2d": 6, "AvgPool2d": 6, "AdaptiveAvgPool2d": 6}
    size_df = compare.size_table().set_index("architecture")
    found = {cells[0].strip("`"): cells for cells in rows(text("notebooks/README.md"), "## 3 Networks")}
    assert list(found) == list(architectures.ARCHITECTURES)
    for name, cells in found.items():
        given = [int(cell.replace(",", "") or 0) for cell in cells[1:]]
        column = models.feature_table(name)["layer_kind"].map(kinds).fillna(7).astype(int)
        counts = column.value_counts().reindex(range(3, 8), fill_value=0).tolist()
        assert given == [*size_df.loc[name, ["n_parameters", "n_features"]], *counts], name


def test_numbers_of_conditional_independence_are_right():
    from lib.statistics.partial_correlation import ci_test

    for printed, low, high, *p in rows(text("notebooks/README.md"), "## 8 Conditional independence"):
        for k, cell in zip((1, 38), p, strict=True):
            ends = [float(value) for value in cell.split(" to ")]
            for r, value in zip((float(low), float(high)), ends, strict=True):
                assert f"{ci_test(r, 334, k):.3g}" == f"{value:.3g}", cell
            assert (ends[1] <= float(printed) <= ends[0]) == (k == 1)


def test_citation_is_readable():
    citation = yaml.safe_load(text("CITATION.cff"))
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    paper = citation["references"][0]["doi"]
    assert paper in text("README.md")
    assert paper in text("notebooks/README.md")


def test_reference_tables_are_listed():
    listed = set(re.findall(r"^\| (\w+\.csv) \|", text("data/reference/README.md"), re.MULTILINE))
    assert {path.name for path in (ROOT / "data" / "reference").glob("*.csv")} == listed
