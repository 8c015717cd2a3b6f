"""Debian's Chromium without a window: opens a page from a file, and records what it says and asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]

CHROMIUM = "/usr/bin/chromium"
DESKTOP = (1280, 860)
PHONE = (390, 780)


@dataclass
class Watched:
    """A page, with all that a reader should not have to see."""

    page: "Page"
    complaints: list[str] = field(default_factory=list)
    """Console messages, errors of scripts, violations of the policy, and requests beside the page itself."""

    def violations(self) -> list[str]:
        """Return what axe-core finds, by rule and element."""
        from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  (other tests are collected without it)

        found = Axe().run(self.page).response["violations"]
        return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Yield a browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  (as above)

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has no other
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: "Browser", file: Path, size: tuple[int, int] = DESKTOP, scheme: Scheme = "light"
) -> Iterator[Watched]:
    """Yield a page at a size of the window and a colour scheme."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    watched = Watched(page)
    page.on("console", lambda message: watched.complaints.append(message.text))
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("request", lambda request: watched.complaints.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_load_state("load")
    watched.complaints = [said for said in watched.complaints if said != file.as_uri() and not said.startswith("data:")]
    yield watched
    context.close()
