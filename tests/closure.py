"""The modules of `pipeline` that a module needs at run time, read from the source."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"


def module_path(name: str) -> Path | None:
    """The file of a dotted name, None for what is not a module of ours."""
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports(path: Path, *, at_top: bool = False) -> set[str]:
    """The dotted names that a file imports, without those for type checkers; `at_top`: only those done at import."""
    found: set[str] = set()

    def visit(layer: ast.AST) -> None:
        for child in ast.iter_child_nodes(layer):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if at_top and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                module = child.module or ""
                for alias in child.names:
                    name = f"{module}.{alias.name}"
                    found.add(name if module.startswith("pipeline") and module_path(name) else module)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def closure(path: Path) -> set[str]:
    """The files of ours that run when `path` does, as they are written in dvc.yaml; empty files do not count."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in imports(current):
            if not name.startswith("pipeline."):
                continue
            parts = name.split(".")
            for depth in range(2, len(parts) + 1):
                found = module_path(".".join(parts[:depth]))
                if found:
                    waiting.append(found)
    return {file.relative_to(ROOT).as_posix() for file in seen if file.stat().st_size}
