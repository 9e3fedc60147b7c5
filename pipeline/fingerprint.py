"""Fingerprints of the code behind each stage.

The fingerprint of a stage is the sha256 of all that decides what its code does: the syntax trees of the modules in the
import closure of `stages/<stage>.py`, the data files of their packages (templates, styles, scripts), and the defaults
of the stage's parameters. Comments, docstrings and formatting do not count. DVC stages depend on these fingerprints
through the stage `code`, and training checkpoints store the one of `train`.

A closure follows imports inside functions, and `"pipeline.module:name"` strings of modules named registry.py. It leaves
out imports for type checkers, `pipeline/__init__.py`, `params.py`, which only checks values, and the starter: another
one must not train models again that do not use it.
"""

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from pipeline.errors import ParamsError
from pipeline.starter import STARTER

PACKAGE = Path(__file__).parent
STAGE_PARAMS = {
    "prepare": ("seed", "data"),
    "extract": ("seed", "data.max_skipped", "encoder"),
    "vocab": ("vocab",),
    "train": ("seed", "decoder", "train"),
    "score": ("seed", "score"),
    "report": (),
}
"""The parameters that each stage of dvc.yaml depends on."""
_ROOT = PACKAGE.name
_EXCLUDED = {_ROOT, f"{_ROOT}.params"}
_REFERENCE = re.compile(rf"({_ROOT}(?:\.\w+)+)(?::\w+)?")


def fingerprint(stage: str) -> str:
    """Return the fingerprint of a stage of dvc.yaml, 64 hexadecimal digits."""
    return combined(stage_parts(stage, Sources()))


def stage_parts(stage: str, sources: "Sources") -> dict[str, str]:
    """Return the sha256 of each module, of each data file and of the default parameters of a stage, by name."""
    modules = sources.closure(f"{_ROOT}.stages.{stage}")
    parts = {module: sources.digest(module) for module in modules}
    for file in sources.data_files(modules):
        parts[file.relative_to(sources.package.parent).as_posix()] = _sha256(file.read_bytes())
    return {**parts, "defaults": _defaults(stage)}


def combined(parts: Mapping[str, str]) -> str:
    """Return the fingerprint of the code with these parts."""
    return _sha256("".join(f"{name} {digest}\n" for name, digest in sorted(parts.items())))


class Sources:
    """The modules of the package in folder `package`, each file read and parsed once."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.package = package
        self.tree = cache(self._tree)
        self.imports = cache(self._imports)
        self.digest = cache(self._digest)

    def path(self, module: str) -> Path | None:
        """The file of a dotted name; None if it is not a module of this package."""
        root, *parts = module.split(".")
        if root != _ROOT:
            return None
        base = self.package.joinpath(*parts)
        return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()), None)

    def _tree(self, module: str) -> ast.Module:
        """The syntax tree of a module. Raises `ParamsError` if it does not parse."""
        path = self.path(module)
        assert path is not None, module
        try:
            return ast.parse(path.read_bytes(), filename=str(path))
        except SyntaxError as error:
            raise ParamsError(f"{path}, line {error.lineno}: {error.msg}; correct the module") from error

    def _imports(self, module: str) -> set[str]:
        """The dotted names that a module imports at run time."""
        found: set[str] = set()
        for node in _runtime_nodes(self.tree(module)):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module, module
                assert not node.level, f"{module}: relative import"
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    found.add(name if self.path(name) else node.module)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and module.endswith(".registry"):
                reference = _REFERENCE.fullmatch(node.value)
                if reference and self.path(reference[1]):
                    found.add(reference[1])
        return found

    def closure(self, module: str) -> set[str]:
        """A module and all modules of this package that it needs at run time."""
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            current = waiting.pop()
            if current in seen or current in _EXCLUDED or self.path(current) is None:
                continue
            seen.add(current)
            waiting += self.imports(current)
            waiting.append(current.rpartition(".")[0])  # its package's __init__.py
        return seen

    def _digest(self, module: str) -> str:
        """The sha256 of a module's syntax tree without docstrings."""
        return _sha256("\n".join(_meaning(self.tree(module))))

    def data_files(self, modules: set[str]) -> list[Path]:
        """The files beside `modules` that are not Python, also in folders below that are no packages."""
        folders = {path.parent for module in modules if (path := self.path(module))} - {self.package}
        return sorted(file for folder in folders for file in _data_files(folder))


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for branch in child.orelse:
                yield branch
                yield from _runtime_nodes(branch)
            continue
        yield child
        yield from _runtime_nodes(child)


def _meaning(node: ast.AST) -> Iterator[str]:
    """A tree as lines: no positions, docstrings or empty fields, so that all versions of Python give the same ones."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        values = value if isinstance(value, list) else [value]  # None in a list keeps its place, as in {**a, "b": 1}
        kept = [one for one in values if (one is not None or values is value) and not _is_docstring(one)]
        if name in {"ctx", "kind", "type_ignores"} or not kept:
            continue
        yield f".{name} {len(kept)}"
        for one in kept:
            if isinstance(one, ast.AST):
                yield from _meaning(one)
            else:
                yield repr(one)


def _is_docstring(node: object) -> bool:
    """Whether a node is a string that nothing uses: the docstring of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _data_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith((".", "__pycache__")) or path.name.endswith("~"):
            continue
        if path.is_dir() and not (path / "__init__.py").exists():
            yield from _data_files(path)
        elif path.is_file() and path.suffix not in {".py", ".pyc", ".pyi"} and path.stem != STARTER:
            yield path


def _defaults(stage: str) -> str:
    """The sha256 of the default values of a stage's parameters."""
    from pipeline.params import Params

    values = []
    for key in STAGE_PARAMS[stage]:
        value: object = Params()
        for name in key.split("."):
            value = getattr(value, name)
        values.append(f"{key} {value!r}")
    return _sha256("\n".join(values))


def _sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
