"""Reads, checks and writes params.yaml.

Files are read by YAML 1.2, in which `1e-05` (what `dvc exp run -S train.lr=1e-5` writes) is a number.
"""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ParamsError
from pipeline.files import regular_file, write_text
from pipeline.params import Params
from pipeline.params_errors import error_lines, shorten

MAX_FILE_BYTES = 1 << 20


def read_params(path: Path) -> Params:
    """Read and check a params.yaml. Raises `ParamsError` with one line per mistake."""
    text = _read_text(path)
    if not text.strip():
        raise ParamsError(f"{path}: is empty; restore it, or write `{{}}` to use all defaults")
    return check_params(_parse(text, str(path)))


def check_params(content: Any) -> Params:
    """Build `Params` from plain dicts; None stands for an empty file or section. Raises `ParamsError`."""
    content = {} if content is None else content
    if isinstance(content, Mapping):
        content = {key: {} if value is None and key in Params.model_fields else value for key, value in content.items()}
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        mistakes = error_lines([dict(mistake) for mistake in error.errors(include_url=False)])
        raise ParamsError("\n".join(mistakes)) from error


def to_yaml(params: Params) -> str:
    """The text of a params.yaml that holds every parameter."""
    from ruamel.yaml import YAML

    text = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 8192
    for name, value in params.model_dump().items():
        text.write("\n" if isinstance(value, dict) else "")
        yaml.dump({name: value}, text)
    return text.getvalue()


def write_section(path: Path, name: str, values: dict[str, Any]) -> None:
    """Change `values` in section `name` of a params.yaml; comments and all other values stay.

    Nothing is written unless the result is valid. Raises `ParamsError`, `DiskError`.
    """
    from ruamel.yaml import YAML

    text = _read_text(path)
    check_params(_parse(text, str(path)))
    line_end = "\r\n" if "\r\n" in text else "\n"
    text = text.replace("\r\n", "\n")
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    content = yaml.load(text)
    comments = "" if content else "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#"))
    content = content or {}
    if content.get(name) is None:
        content[name] = {}
    content[name].update(values)
    changed = StringIO()
    changed.write(comments)  # which belong to no key, so that the parser drops them
    yaml.dump(content, changed)
    check_params(_parse(changed.getvalue(), str(path)))
    write_text(path.resolve(), changed.getvalue().replace("\n", line_end))  # a symbolic link stays one


def _read_text(path: Path) -> str:
    try:
        regular_file(path)  # a pipe could block forever
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such file; run the command in the folder that holds it") from error
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ParamsError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; is it a params file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def _parse(text: str, source: str) -> Any:
    """Parse YAML 1.2. Raises `ParamsError`, also for more nesting than any params file needs."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ParamsError(f"{source}{line}: not valid YAML: {shorten(error.problem or error.context or '')}") from error
    except (YAMLError, ValueError, OverflowError) as error:
        raise ParamsError(f"{source}: not valid YAML: {shorten(str(error))}") from error
    except RecursionError as error:
        raise ParamsError(f"{source}: nested too deeply; a params file has three levels") from error
