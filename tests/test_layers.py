"""Who may import whom, as docs/architecture.md draws it."""

import ast

import pytest
from closure import PACKAGE, imports

LAYERS = [
    {"errors", "progress", "paths", "allocator"},
    {"files", "device", "archives", "revisions"},
    {"params"},
    {"features", "captions", "decoders", "metrics", "consensus"},
    {"training", "model", "evaluation", "exploration", "startup", "captioning"},
    {"report"},
    {"stages", "predict", "overlay"},
    {"onnx", "web"},
    {"commands"},
    {"cli", "__init__"},
    {"__main__"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))
ONLY_IN = {
    "h5py": {"features/cache.py"},
    "PIL": {"features/images.py", "overlay.py"},
    "ruamel": {"params.py"},
    "pydantic": {"params.py"},
    "pyarrow": {
        "features/cluster/encoding.py",
        "features/cluster/steps.py",
        "features/cluster/jobs.py",
        "features/cluster/manifest.py",
        "features/shards.py",
    },
    "ray": {"features/cluster/joining.py", "features/cluster/encoding.py", "features/cluster/steps.py"},
    "fsspec": {"features/cluster/sources.py"},
}


def part_of(path: "str | object") -> str:
    return str(path).removesuffix(".py").split("/")[0]


def level(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_its_own_part_or_from_below(path):
    part = part_of(path.relative_to(PACKAGE).as_posix())
    for name in imports(path):
        if name.startswith("pipeline."):
            other = name.split(".")[1]
            assert other == part or level(other) < level(part), f"{path.name} imports {name}"


def test_a_boundary_library_is_imported_where_it_belongs_alone():
    for library, allowed in ONLY_IN.items():
        users = {
            path.relative_to(PACKAGE).as_posix()
            for path in MODULES
            if any(name.split(".")[0] == library for name in imports(path))
        }
        assert users == allowed, library


def test_decoders_know_tensors_only():
    for path in (PACKAGE / "decoders").glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("pipeline")}
        assert all(name.startswith("pipeline.decoders") for name in ours), path.name


def test_the_command_line_starts_without_the_heavy_libraries():
    at_import = set()
    files = [PACKAGE / f"{name}.py" for name in ("cli", "__init__", "__main__", "paths", "errors")]
    for path in [*files, *(PACKAGE / "commands").glob("*.py")]:
        at_import |= {imported.split(".")[0] for imported in imports(path, at_top=True)}
    assert not at_import & {
        "torch",
        "torchvision",
        "pandas",
        "sacrebleu",
        "numpy",
        "h5py",
        "pydantic",
        "rich",
        "ray",
        "pyarrow",
    }


def test_only_the_command_line_prints_or_exits():
    for path in MODULES:
        if path.name in {"cli.py", "__main__.py"} or path.parent.name == "commands":
            continue
        calls = {
            layer.func.id
            for layer in ast.walk(ast.parse(path.read_text()))
            if isinstance(layer, ast.Call) and isinstance(layer.func, ast.Name)
        }
        assert not calls & {"print", "exit", "quit", "input"}, path.name


def test_no_module_is_a_drawer_for_everything():
    vague = {"utils", "helpers", "common", "base", "manager", "misc"}
    assert not vague & {path.stem for path in MODULES}
