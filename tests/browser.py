"""Headless Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 300_000
"""Milliseconds to wait for the browser, because the machine may be busy with other things."""

needed = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (on Debian: apt-get install chromium)"
)


@dataclass
class Visit:
    """A page that is open in the browser.

    Attributes
    ----------
    page : Page
    requests : list of str
        The addresses asked for since the page was opened, the page's own first. Playwright leaves
        out ``data:`` addresses, which ask nobody.
    complaints : list of str
        What was written to the console, and the errors of scripts that failed.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Browser]:
    """Run the browser while the block runs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, timeout=PATIENCE)
        yield browser
        browser.close()


def visit(
    browser: Browser, url: str, *, width: int, dark: bool = False, scripts: bool = True
) -> Visit:
    """Open a page in a tab that shares nothing with others, and wait until it has loaded.

    Parameters
    ----------
    width : int
        Width of the window in pixels; below 600 it is that of a phone.
    dark : bool
        Whether the user prefers dark pages.
    scripts : bool
        Whether scripts run.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        is_mobile=width < 600,
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
    )
    context.set_default_timeout(PATIENCE)
    seen = Visit(context.new_page())

    def note(message: ConsoleMessage) -> None:
        seen.complaints.append(f"{message.type}: {message.text}")

    seen.page.on("console", note)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(url)
    return seen
