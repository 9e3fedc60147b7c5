"""/docs: the interface for programs as one page that stands alone, written from the OpenAPI document."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Captioner for programs</title>
<link rel="stylesheet" href="/static/page.css">
<header class="top"><a class="name" href="/">Captioner</a><nav><a href="/">The page</a></nav></header>
<main class="reference">
<h1>Captioner for programs</h1>
<p>The OpenAPI document is <a href="/openapi.json">/openapi.json</a>.</p>
<pre><code>curl --data-binary @photo.jpg -H 'content-type: image/jpeg' 'http://127.0.0.1:8000/v1/captions?captions=3'
curl -F image=@photo.jpg http://127.0.0.1:8000/v1/captions</code></pre>
"""


def reference_page(document: Mapping[str, Any]) -> str:
    """An HTML page with each operation's parameters, bodies and answers."""
    schemas = document["components"]["schemas"]
    operations = (
        _operation(method.upper(), path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return _HEAD + "".join(operations) + "</main></html>\n"


def _operation(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    parameters = [
        (f"<code>{escape(one['name'])}</code>", _kind(one["schema"]), escape(one.get("description", "")))
        for one in operation.get("parameters", ())
    ]
    bodies = operation.get("requestBody", {}).get("content", {})
    answers = [
        (f"<code>{escape(code)}</code>", _with_code(answer["description"]), _answer(answer, schemas))
        for code, answer in operation["responses"].items()
    ]
    return (
        f"<section><h2><code>{method} {escape(path)}</code></h2><p>{_with_code(operation.get('description', ''))}</p>"
        + (f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in bodies)}</p>" if bodies else "")
        + (_table(("Parameter", "Value", "Meaning"), parameters) if parameters else "")
        + _table(("Answer", "When", "JSON"), answers)
        + "</section>"
    )


def _with_code(text: str) -> str:
    """Text with `code` in it, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _kind(schema: Mapping[str, Any]) -> str:
    one = next((kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"), schema)
    span = f" {one['minimum']} to {one['maximum']}" if "minimum" in one else ""
    default = f", {str(schema['default']).lower()} if left out" if "default" in schema else ""
    return escape(f"{one.get('type', '')}{span}{default}")


def _answer(answer: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    reference = answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    return _fields(reference, schemas)


def _fields(reference: str, schemas: Mapping[str, Any]) -> str:
    """`{captions: [{caption, ...}], width}` of a schema that is referred to."""
    properties = schemas.get(reference.rpartition("/")[2], {}).get("properties", {})
    shown = []
    for name, schema in properties.items():
        inner = schema.get("items", {}).get("$ref")
        shown.append(f"{name}: [{_fields(inner, schemas)}]" if inner else escape(name))
    return "{" + ", ".join(shown) + "}" if shown else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{name}' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>'
