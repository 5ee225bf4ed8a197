"""What may import what, as docs/architecture.md has it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOMAIN = {"arguments", "errors", "types", "voting", "stopping", "compare", "reading", "registry", "lazy"}
FOLDERS = {
    "answers": "a1_sgl/answers",
    "conformal": "a1_sgl/conformal", "engine": "a1_sgl/engine", "session": "a1_sgl/session",
    "records": "a1_sgl/records", "telemetry": "a1_sgl/telemetry",
    "serve": "a1_sgl/serve", "cli": "a1_sgl/cli", "programs": "programs", "evals": "evals", "launch": "launch",
}  # fmt: skip
EVERYTHING = DOMAIN | FOLDERS.keys() | {"testing", "__version__"}
ALLOWED = {
    "conformal": DOMAIN - {"types", "voting"},
    "answers": DOMAIN,
    "engine": DOMAIN,
    "session": DOMAIN | {"answers", "conformal", "engine", "launch.cpu_engine"},
    "programs": DOMAIN | {"answers", "conformal", "engine", "session"},
    "records": DOMAIN,
    "telemetry": DOMAIN,
    "evals": EVERYTHING - {"cli", "launch", "serve", "testing"},
    "evals/benchmarks": EVERYTHING - {"cli"},
    "serve": EVERYTHING - {"cli", "launch", "testing"},
    "launch": DOMAIN,
    "launch/pocket": EVERYTHING - {"cli"},
    "launch/real": EVERYTHING - {"cli"},
    "cli": EVERYTHING,
    "domain": DOMAIN | {"conformal"},
    "testing": {"engine"},
}


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, without the first name; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "a1_sgl":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").removeprefix("a1_sgl.") if (node.module or "").startswith("a1_sgl.") else "")
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("a1_sgl.") for alias in node.names if alias.name.startswith("a1_sgl.")}
    return found - {""}


def files() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {name: [] for name in ALLOWED}
    for name, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inner = next(
                (one for one in ("evals/benchmarks", "launch/pocket", "launch/real") if one in path.as_posix()), name
            )
            found[inner].append(path)
    found["domain"] = [ROOT / "a1_sgl" / f"{name}.py" for name in DOMAIN]
    found["testing"] = [ROOT / "a1_sgl/testing.py"]
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_it_may(room):
    paths = files()[room]
    assert paths
    own = room.split("/")[0]
    for path in paths:
        for module in imported(path):
            allowed = any(module == one or module.startswith(f"{one}.") for one in ALLOWED[room] | {own})
            assert allowed, f"{path.relative_to(ROOT)} imports a1_sgl.{module}"


def test_only_the_branch_knows_sglangs_executors():
    for path in (ROOT / "a1_sgl").rglob("*.py"):
        if path.name == "branch.py":
            continue
        for line in path.read_text().splitlines():
            assert "stream_executor." not in line.replace("stream_executor.backend", ""), f"{path}: {line}"


def test_the_rooms_are_those_of_the_page():
    page = (ROOT / "docs/architecture.md").read_text()
    for folder in FOLDERS.values():
        assert f"| `{folder}` |" in page
