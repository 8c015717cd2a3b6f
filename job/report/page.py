"""The page of a run: one HTML file without any request, in which nothing that came from the network can run."""

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

_PAGE = files("job.report")


def render(view: Mapping[str, object]) -> bytes:
    """Return a page. Every text of the view is escaped, whatever it holds.

    The security policy in the page allows only the style and the script that are part of it, by their digests, and
    pictures that are part of it. So even what would escape the escaping could not run.
    """
    style = _text("page.css")
    script = _text("page.js")
    own = {"style": Markup(style), "script": Markup(script)}  # noqa: S704  (our own files, the only text not escaped)
    page = _template().render({**view, **own}, style_hash=_digest(style), script_hash=_digest(script))
    return page.encode("utf-8", "backslashreplace")


@cache
def _text(name: str) -> str:
    return (_PAGE / name).read_text("utf-8")


def _digest(text: str) -> str:
    """Return what a security policy calls an inline style or script by (Content Security Policy 3, 2.3.1)."""
    return b64encode(sha256(text.encode()).digest()).decode()


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("page.html"))
