"""How long the playground takes from a click on "like" to the new list, in a real browser."""

import shutil
import time

_SERVED = "n => document.querySelector('#status').textContent.includes(`, ${n} liked; served`)"


def seconds_a_like(url: str, likes: int) -> list[float]:
    """Seconds from each click to the list that knows of it, of a new user who likes one item after another.

    Returns:
        Nothing where Playwright or a Chromium is missing.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    if chromium is None:
        return []
    seconds = []
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.fill("#user", "")
        page.keyboard.press("Enter")
        page.wait_for_function(_SERVED, arg=0)
        for number in range(likes):
            button = page.locator("#before button").nth(number)
            started = time.perf_counter()
            button.click()
            page.wait_for_function(_SERVED, arg=number + 1)
            seconds.append(time.perf_counter() - started)
        browser.close()
    return seconds
