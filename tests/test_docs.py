"""The documents are true: their commands parse, and what they name exists."""

import functools
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "faceshifter"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(faceshifter(?:\.\w+)+)`")
SOURCE = re.compile(r"(?<![\w/])src/faceshifter/[\w./]+\w")
IMAGE = re.compile(r"!\[[^]]+\]\(([^)]+)\)")
EQUATION = re.compile(r"^\| Eq\. (\(\d+\).*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
ANCHOR = re.compile(r"docs/([\w-]+)\.md#([\w-]+)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MOST_LINES = {"README.md": 180, "docs/log.md": 300}
MACHINE_PATH = re.compile(r"(?<![\w.:/}-])/(?:home|root|Users|mnt|work|workspace)/\w")


def shell_lines(document: Path) -> Iterator[str]:
    """Command lines in fenced blocks without a language, continued lines joined."""
    for language, block in FENCE.findall(document.read_text()):
        if not language:
            yield from block.replace("\\\n", " ").splitlines()


def commands(program: str) -> list[str]:
    return [
        line
        for document in DOCUMENTS
        for line in shell_lines(document)
        if line.startswith(f"{program} ")
    ]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    return set(map(to_anchor, HEADING.findall(document.read_text())))


def to_anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def resolve(name: str) -> Any:
    """The object of a dotted name."""
    *parts, last = name.split(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(resolve(".".join(parts)), last)


def equations(text: str) -> Iterator[int]:
    """Numbers of the equations in a cell such as ``(2)-(5), Fig. 3(c)`` or ``(6), (12)``."""
    for first, last in re.findall(r"(?:^|, )\((\d+)\)(?:-\((\d+)\))?", text):
        yield from range(int(first), int(last or first) + 1)


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Give a command line to the real parser, with commands that only say their name."""
    from faceshifter.cli import main as cli

    called: list[str] = []

    def stub(name: str, command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def record(*_: Any, **__: Any) -> None:
            called.append(name)

        return record

    stubs = {name: stub(name, command) for name, command in cli.COMMANDS.items()}
    monkeypatch.setattr(cli, "COMMANDS", stubs)

    def run(line: str) -> list[str]:
        called.clear()
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code != 0:  # --help stops too
                pytest.fail(f"the command line refuses: {line}")
            called.append("help")
        return called

    return run


def test_every_command_line_in_the_documents_parses(parse: Callable[[str], list[str]]) -> None:
    lines = commands("faceshifter")
    assert len(lines) > 10
    for line in lines:
        assert len(parse(line)) == 1, line


def test_a_command_line_with_a_wrong_flag_is_refused(parse: Callable[[str], list[str]]) -> None:
    with pytest.raises(pytest.fail.Exception):
        parse("faceshifter demo --fps 25")


def test_torchrun_passes_on_what_the_documents_give_it(parse: Callable[[str], list[str]]) -> None:
    from torch.distributed.run import get_args_parser

    lines = commands("torchrun")
    assert lines
    for line in lines:
        parsed = get_args_parser().parse_args(shlex.split(line)[1:])
        assert parsed.module
        assert parsed.training_script == "faceshifter"
        assert parse(shlex.join(["faceshifter", *parsed.training_script_args])) == ["train"]


def test_the_documents_show_every_command() -> None:
    from faceshifter.cli import main as cli

    assert {shlex.split(line)[1] for line in commands("faceshifter")} == set(cli.COMMANDS)


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = commands("make")
    assert lines
    assert {line.split()[1] for line in lines} <= targets


def test_everything_that_the_documents_name_in_the_package_exists() -> None:
    names = {name for document in DOCUMENTS for name in NAME.findall(document.read_text())}
    assert len(names) > 20
    for name in sorted(names):
        assert resolve(name) is not None, name


def test_every_source_file_that_the_documents_name_exists() -> None:
    names = {name for document in DOCUMENTS for name in SOURCE.findall(document.read_text())}
    assert len(names) > 5
    for name in sorted(names):
        assert (ROOT / name).exists(), name


def test_every_equation_of_the_paper_is_in_its_table() -> None:
    table = (ROOT / "docs" / "paper.md").read_text()
    spans = re.findall(r"^\| \((\d+)\)(?:-\((\d+)\))?", table, re.MULTILINE)
    numbers = [n for a, b in spans for n in range(int(a), int(b or a) + 1)]
    assert numbers == list(range(1, 16))


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for path, anchor in LINK.findall(document.read_text()):
            target = (document.parent / path) if path else document
            assert target.exists(), f"{document.name}: {path}"
            assert not anchor or anchor[1:] in anchors(target), f"{document.name}: {path}{anchor}"


def test_every_document_that_the_code_points_to_has_that_paragraph() -> None:
    found = [match for path in PACKAGE.rglob("*.py") for match in ANCHOR.findall(path.read_text())]
    assert found
    for name, anchor in found:
        assert anchor in anchors(ROOT / "docs" / f"{name}.md"), f"docs/{name}.md#{anchor}"


def test_every_dependency_has_a_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    names = set(re.findall(r'^ +"([\w-]+)>=[\d.]+",?$', project, re.MULTILINE))
    names |= set(re.findall(r'"([\w-]+)>=[\d.]+"', project.split("optional-dependencies")[1]))
    reasons = (ROOT / "docs" / "decisions.md").read_text()
    assert len(names) > 10
    assert not {name for name in names if f"| `{name}` |" not in reasons}


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_document_stays_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= MOST_LINES[name]


def test_the_readme_begins_with_a_picture() -> None:
    (name, *_) = IMAGE.findall((ROOT / "README.md").read_text())
    assert name == "docs/demo.webp"
    with Image.open(ROOT / name) as picture:
        assert picture.width > picture.height


def test_the_readme_shows_each_equation_in_the_code() -> None:
    text = (ROOT / "README.md").read_text()
    numbers = []
    for row in EQUATION.findall(text):
        paper, _, code = row.split(" | ")
        numbers += equations(paper)
        file, name = re.findall(r"`([\w/.]+)`", code)
        module = file.removesuffix(".py").replace("/", ".")
        assert resolve(f"faceshifter.{module}.{name}") is not None, row
    assert sorted(numbers) == list(range(1, 16))


def test_the_packages_in_the_readme_are_the_packages() -> None:
    blocks = [block for _, block in FENCE.findall((ROOT / "README.md").read_text())]
    (tree,) = (block for block in blocks if block.startswith("src/faceshifter/\n"))
    listed = [line.split()[0] for line in tree.splitlines()[1:]]
    packages = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.name for path in PACKAGE.glob("[!_]*.py")}
    assert len(listed) == len(set(listed))
    assert set(listed) == packages | modules | {"portraits/", "weights/"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    _, nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")
    pages = re.findall(r": ([\w-]+\.md)$", nav, re.MULTILINE)
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_log_has_the_newest_first_and_lists_every_entry() -> None:
    log = ROOT / "docs" / "log.md"
    text = log.read_text()
    days = re.findall(r"^## (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    rows = re.findall(r"^\| (\d{4}-\d\d-\d\d) \|.*\]\(#([\w-]+)\) \|$", text, re.MULTILINE)
    assert days == sorted(set(days), reverse=True)
    entries = [
        (day, anchor)
        for day, part in zip(days, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True)
        for anchor in re.findall(r"^### (.+)$", part, re.MULTILINE)
    ]
    assert [(day, to_anchor(heading)) for day, heading in entries] == rows


def test_the_python_example_of_the_readme_swaps_a_face(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    astronaut: np.ndarray,
    grace_hopper: np.ndarray,
) -> None:
    (example,) = (
        block
        for language, block in FENCE.findall((ROOT / "README.md").read_text())
        if language == "python"
    )
    Image.fromarray(astronaut).save(tmp_path / "source.jpg")
    Image.fromarray(grace_hopper).save(tmp_path / "target.jpg")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    with Image.open("target.jpg") as target, Image.open("result.png") as result:
        assert result.size == target.size
        difference = np.asarray(result, np.int16) - np.asarray(target.convert("RGB"), np.int16)
    # The face, not the photo around it, where only the watermark is.
    assert 0 < (np.abs(difference) > 12).any(axis=2).mean() < 0.6


def test_no_file_names_a_folder_of_one_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.suffix == ".safetensors" or not path.is_file():
            continue
        found = MACHINE_PATH.search(path.read_text(errors="replace"))
        assert found is None, f"{name}: {found and found.group()}"
