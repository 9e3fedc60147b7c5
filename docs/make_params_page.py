"""Writes docs/params.md from the models in pipeline/params.py: `python docs/make_params_page.py`."""

from pathlib import Path

from pipeline.params import Params, Section, read_params

HERE = Path(__file__).parent


def page() -> str:
    values = read_params(HERE.parent / "params.yaml")
    lines = [
        "# Parameters",
        "",
        "All of params.yaml, with the values that the built-in dataset is trained with.",
        "Made by `python docs/make_params_page.py`.",
        "",
        f"`seed: {values.seed}` — {Params.model_fields['seed'].description}.",
    ]
    for name, field in Params.model_fields.items():
        if name == "seed":
            continue
        section = getattr(values, name)
        lines += ["", f"## {name}", "", str(field.annotation.__doc__), "", "| Key | Value | Meaning |", "|---|---|---|"]
        lines += _rows(section, "")
    return "\n".join(lines) + "\n"


def _rows(section: Section, above: str) -> list[str]:
    rows = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            rows += _rows(value, f"{above}{key}.")
        else:
            rows.append(f"| `{above}{key}` | `{value}` | {field.description} |")
    return rows


if __name__ == "__main__":
    (HERE / "params.md").write_text(page(), encoding="utf-8")
