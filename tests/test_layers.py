"""Which part of the package may import which, as docs/how-it-works.md draws it."""

import ast
import subprocess
import sys

import pytest

from pipeline.fingerprint import PACKAGE, Sources

BOTTOM = {
    "errors",
    "progress",
    "paths",
    "tokens",
    "options",
    "files",
    "device",
    "archives",
    "file_signatures",
    "starter",
    "weight_rounding",
    "wording",
}
MIDDLE = {"text", "datasets", "encoders", "features", "decoders", "metrics"}
UPPER = BOTTOM | MIDDLE | {"accel", "fingerprint", "params", "params_file"}
MAY_IMPORT = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    "params": BOTTOM,
    "params_errors": {"params"},
    "params_file": {"params", "params_errors", "errors", "files"},
    "fingerprint": {"params", "errors", "starter"},
    "text": BOTTOM,
    "metrics": BOTTOM | {"text"},
    "decoders": {"tokens", "options", "errors"},
    "encoders": BOTTOM | {"accel"},
    "accel": {"decoders", "encoders"},
    "features": BOTTOM | {"encoders", "accel"},
    "datasets": BOTTOM | {"text", "encoders"},
    "training": UPPER,
    "inference": UPPER | {"training"},
    "report": UPPER | {"training"},
    "stages": UPPER | {"training", "inference", "report"},
    "web": UPPER | {"inference"},
    "commands": UPPER | {"training", "inference", "report", "stages", "web"},
    "cli": {"commands", "errors"},
    "__main__": {"cli"},
    "__init__": {"inference"},
}
"""Registries may be imported from everywhere: they hold names only."""
HEAVY = {"torch", "torchvision", "pandas", "sacrebleu", "numpy", "h5py", "pydantic", "rich", "ray", "pyarrow"}
ONLY_IN = {
    "h5py": {"features"},
    "PIL": {"encoders", "inference"},
    "ruamel": {"params_file"},
    "pyarrow": {"features"},
    "ray": {"features"},
    "fsspec": {"features"},
    "jinja2": {"report", "inference"},
}
"""Where a library of one purpose may be imported."""


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = Sources()
MODULES = sorted(module_name(path) for path in PACKAGE.rglob("*.py"))


def part(module):
    """The folder or top-level module that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def own_imports(module):
    return {name for name in SOURCES.imports(module) if name.startswith("pipeline.")}


def imports_at_start(module):
    """The dotted names that a module imports outside its functions and `if TYPE_CHECKING:`."""
    found = set()
    for node in SOURCES.tree(module).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module):
    allowed = MAY_IMPORT[part(module)] | {part(module)}
    wrong = {name for name in own_imports(module) if part(name) not in allowed and not name.endswith(".registry")}
    assert not wrong


@pytest.mark.parametrize("module", [name for name in MODULES if name.endswith(".registry")])
def test_a_registry_imports_nothing_heavy(module):
    imports = imports_at_start(module)
    assert {name.split(".")[0] for name in imports} & HEAVY <= {"pydantic"}
    assert {name for name in imports if name.startswith("pipeline.")} <= {"pipeline.options", "pipeline.errors"}


def test_the_graph_in_the_documentation_shows_the_imports():
    page = (PACKAGE.parent / "docs" / "how-it-works.md").read_text()
    lines = [line.split(" --> ") for line in page.split("flowchart TD")[1].split("```")[0].split("\n") if "-->" in line]
    drawn = {upper.strip(): set(lower.split(" & ")) for upper, lower in lines}
    packages = set(drawn).union(*drawn.values())
    real = {(part(module), part(name)) for module in MODULES for name in own_imports(module)}

    def below(package):
        return set().union(*({lower} | below(lower) for lower in drawn.get(package, ())))

    assert {(upper, lower) for upper, lowers in drawn.items() for lower in lowers} <= real
    for upper, lower in real:
        if upper in packages and lower in packages - {upper}:
            assert lower in below(upper), (upper, lower)


def test_no_modules_import_each_other():
    waiting = {module: imports_at_start(module) & set(MODULES) - {module} for module in MODULES}
    while ready := {module for module, needed in waiting.items() if not needed & set(waiting)}:
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
    assert not waiting


def test_a_library_of_one_purpose_is_imported_in_one_place():
    for library, allowed in ONLY_IN.items():
        users = {
            part(module) for module in MODULES if library in {name.split(".")[0] for name in SOURCES.imports(module)}
        }
        assert users <= allowed, library


@pytest.mark.parametrize(
    ("statement", "libraries"),
    [
        ("from pipeline.cli import app; app(['--help'], standalone_mode=False)", " ".join(sorted(HEAVY - {"rich"}))),
        *((f"import pipeline.stages.{stage}", "torch") for stage in ("code", "prepare", "vocab", "report")),
        ("import pipeline.metrics.evaluation", "torch pandas sacrebleu"),
        ("import pipeline.decoders.registry, pipeline.decoders.search", "torch"),
        ("import pipeline.features.decode_pool", "torch h5py pandas"),
    ],
)
def test_what_needs_no_heavy_library_loads_none(statement, libraries):
    program = f"import sys; {statement}; sys.exit(' '.join(set({libraries.split()}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_packages_do_nothing_at_import():
    for path in PACKAGE.rglob("__init__.py"):
        assert path.parent == PACKAGE or not path.read_text(), path


def test_no_module_has_a_name_for_everything():
    assert not {"utils", "helpers", "common", "base", "manager", "misc"} & {name.split(".")[-1] for name in MODULES}
