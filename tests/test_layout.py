"""The layout holds: imports go up the layers, PyTorch has its place, packages list their files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "faceshifter"

LAYERS = """
errors config media
recipes files models
formats
marks tensors
images downloads
face sheets
encoders
networks
data
swap train
video
evaluate
batch analyses checks
apps
cli
"""
"""Each line imports only from the lines above it; a name is a file or package of the root."""

TORCH = ("models", "encoders", "networks", "data", "train")
"""All that may import PyTorch; ``networks`` is its edge to everything else."""
MOST_IN_ROOT = 12
LISTED = re.compile(r"^([\w.]+/?)  +\S", re.MULTILINE)


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    """The file or package of the root that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem[0] != "_"]


def test_each_layer_imports_only_from_those_above_it() -> None:
    layers = [line.split() for line in LAYERS.strip().splitlines()]
    level = {name: number for number, names in enumerate(layers) for name in names}
    assert {place(path) for path in sources()} == set(level)
    wrong = []
    for path in sources():
        here = place(path)
        for module in imports(path):
            there = module.split(".")[1] if module.startswith("faceshifter.") else here
            if there in level and there != here and level[there] >= level[here]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(["faceshifter", *path.relative_to(PACKAGE).with_suffix("").parts]): path
        for path in sources()
    }
    graph = {
        name: {found for module in imports(path) for found in (module, module.rpartition(".")[0])}
        & files.keys() - {name}
        for name, path in files.items()
    }
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"a circle among {', '.join(sorted(graph))}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_pytorch_is_imported_in_its_place_alone() -> None:
    found = {
        place(path)
        for path in sources()
        for module in imports(path)
        if module.split(".")[0] == "torch" or module == "safetensors.torch"
    }
    assert found <= set(TORCH)


def test_the_root_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_IN_ROOT


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in PACKAGE.rglob("__init__.py")),
    ids=lambda folder: folder.name,
)
def test_a_package_s_docstring_lists_what_is_in_it(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    files = {path.name for path in folder.iterdir() if path.suffix in (".py", ".html", ".svg")}
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    listed = LISTED.findall(docstring)
    assert len(listed) == len(set(listed))
    assert set(listed) == files - {"__init__.py", "__main__.py"} | packages
