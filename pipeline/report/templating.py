"""Renders the templates of this package. HTML templates escape every value."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent


def render(template: str, **context: object) -> str:
    """The text of a template in `templates/` with the variables of `context`."""
    return _environment().get_template(template).render(context)


def static_file(name: str) -> Markup:
    """A style sheet or script in `static/`, to be inlined into a page as it is."""
    return Markup((FOLDER / "static" / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=lambda name: name is None or name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
