"""Takes the screenshots in docs/images from a demo of its own: `make screenshots`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from pixtide.streams.demo.run import pictures, publish
from pixtide.streams.settings import load_settings

IMAGES = Path(__file__).parent / "images"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}
START_S = 300


def main() -> None:
    """Run a demo in a new home, look at it, and end it."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ["PIXTIDE_HOME"] = str(home)
        demo = subprocess.Popen([sys.executable, "-m", "pixtide.streams.cli.main", "up"])
        try:
            take_all(page_of(home, demo))
        finally:
            demo.terminate()
            demo.wait()


def page_of(home: Path, stack: subprocess.Popen[bytes]) -> str:
    """The page's address, once the demo's pictures are indexed."""
    deadline = time.monotonic() + START_S
    while not (home / "run" / "web.ready").exists():
        if stack.poll() is not None or time.monotonic() > deadline:
            sys.exit("the stack did not start")
        time.sleep(0.2)
    with pictures(None) as (sources, shows):
        publish(load_settings(), sources, shows, tag="demo")
    return str(json.loads((home / "stack.json").read_text())["web"])


def take_all(url: str) -> None:
    """Every screenshot of the documentation."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or sys.exit("there is no chromium to take them with")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        take(browser, f"{url}/?q=an+animal+in+the+wild&all=1", "light")
        take(browser, f"{url}/?q=a+building+by+the+water&all=1", "dark", scheme="dark")
        take(browser, f"{url}/?q=something+to+eat&all=1", "phone", phone=True)
        take(browser, f"{url}/?q=medieval+fortress&compare=1", "compare")
        take(
            browser,
            f"{url}/?q=a+castle&image=demo%2Fplaces%2Fcastle-neuschwanstein.jpg",
            "lightbox",
        )
        browser.close()


def take(
    browser: Browser, address: str, name: str, *, scheme: str = "light", phone: bool = False
) -> None:
    """One screenshot, with every picture in sight loaded."""
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]  # one of its literals
        viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]  # a typed dict of these
        device_scale_factor=2 if phone else 1,
        is_mobile=phone,
        has_touch=phone,
        bypass_csp=True,  # what waits for the page is evaluated in it
    )
    page = context.new_page()
    for _ in range(2):  # what is shown is how it is from the second time on
        page.goto(address)
        settle(page)
    if not phone and "image=" not in address:
        card = page.locator(".grid a").nth(1)
        card.hover()
        page.wait_for_function(
            "card => getComputedStyle(card.querySelector('.score')).opacity === '1'",
            arg=card.element_handle(),
        )
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=84)
    context.close()


def settle(page: Page) -> None:
    """Wait until everything in sight stands still."""
    page.wait_for_selector("#meaning .grid a")
    page.wait_for_function(
        """() => [...document.querySelectorAll("#lightbox img, .grid img")]
            .filter((image) => image.getBoundingClientRect().top < innerHeight && image.src)
            .every((image) => image.complete)"""
    )


if __name__ == "__main__":
    main()
