"""The playground: what it is told, and the page in a real browser."""

import contextlib
import json
import re
import shutil

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.serve.app import create_app
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready


@pytest.fixture(scope="module")
def reranker():
    data = toys.taste_dataset()
    reranker = Reranker(toys.config()).fit(data, PopularityGenerator().fit(data.interactions))
    reranker.fusion_model = toys.served(reranker.fusion_model, "fused", from_known=2)
    return reranker


@pytest.fixture
def url(reranker):
    with serving(create_app(reranker)) as url:
        yield url


def test_it_is_told_what_first_stage_proposes(url, reranker):
    told = httpx.get(f"{url}/playground/users").json()
    assert told["of"] == 48 and told["users"][:3] == ["u0", "u1", "u2"]
    shown = httpx.get(f"{url}/playground/list", params={"user": "u3", "n": 7}).json()
    expected = reranker.generator.recommend(["u3"], 7)
    assert [one["id"] for one in shown["candidates"]] == expected["item_id"].tolist()
    assert shown["first_stage_scores"] == expected["score"].tolist() and not shown["new_user"]
    assert [one["id"] for one in shown["history"]] == reranker.history("u3")
    new_user = httpx.get(f"{url}/playground/list", params={"user": ""}).json()
    assert new_user["new_user"] and new_user["history"] == [] and len(new_user["candidates"]) == 20
    assert httpx.get(f"{url}/playground/list", params={"n": 0}).json()["error"]["param"] == "n"


def test_it_is_told_what_users_did_since(reranker, tmp_path):
    with serving(create_app(reranker, store=SqliteUserStore(tmp_path / "users.db"))) as url:
        for user in ("u3", "new"):
            rows = {"interactions": [{"item_id": "g3i2"}]}
            assert httpx.post(f"{url}/v1/users/{user}/interactions", json=rows).status_code == 200
        known, new = (httpx.get(f"{url}/playground/list", params={"user": user}).json() for user in ("u3", "new"))
    assert [one["id"] for one in known["history"]] == [*reranker.history("u3"), "g3i2"]
    assert [one["id"] for one in new["history"]] == ["g3i2"] and not new["new_user"]


BEYOND = 1_300_000_000_000_000_000


def numbered(shift):
    """Fitted on users and items whose ids are numbers from this one on, every second one below 0."""
    data = toys.taste_dataset()
    items, users = list(data.items["item_id"]), list(dict.fromkeys(data.interactions["user_id"]))

    def number(names, name):
        at = shift + names.index(name)
        return -at if at % 2 else at

    tables = []
    for table in (data.interactions, data.items):
        table = table.assign(item_id=[number(items, name) for name in table["item_id"]])
        if "user_id" in table:
            table["user_id"] = [number(users, name) for name in table["user_id"]]
        tables.append(table)
    data = Dataset(interactions=tables[0], items=tables[1], domain="toy")
    fitted = Reranker(toys.config()).fit(data, PopularityGenerator().fit(data.interactions))
    fitted.fusion_model = toys.served(fitted.fusion_model, "fused", from_known=2)
    return fitted


@pytest.fixture(scope="module")
def large():
    return numbered(BEYOND)


def as_javascript(answer):
    """Every number is a float64."""
    return json.loads(answer.text, parse_int=lambda digits: int(float(digits)))


@pytest.mark.parametrize("shift", [1, BEYOND])
def test_numbers_come_back_whole_from_a_page(shift, large):
    fitted = large if shift == BEYOND else numbered(shift)
    with serving(create_app(fitted)) as url:
        wait_until_ready(url)
        users = as_javascript(httpx.get(f"{url}/playground/users"))["users"]
        assert set(map(int, users)) == set(fitted.user_ids)
        for user in users[:2]:
            shown = as_javascript(httpx.get(f"{url}/playground/list", params={"user": user, "n": 12}))
            assert not shown["new_user"] and int(shown["user"]) == int(user)
            history = [one["id"] for one in shown["history"]]
            assert list(map(int, history)) == fitted.history(int(user))
            asked = {
                "item_ids": [one["id"] for one in shown["candidates"]],
                "first_stage_scores": shown["first_stage_scores"],
            }
            asked |= {"order": "fused", "raw_scores": True}
            by_id, by_items = (
                httpx.post(f"{url}/v1/rerank", json={**asked, **more}).json()
                for more in ({"user": shown["user"]}, {"history": history})
            )
            assert by_id["meta"]["known_user"] and by_id["meta"]["unknown_items"] == 0
            assert by_id["results"] == by_items["results"]  # so the items of the history are known, too
            nobody = httpx.post(f"{url}/v1/rerank", json=asked).json()
            assert by_id["results"] != nobody["results"]
        kind = str if shift == BEYOND else int
        assert {type(one["id"]) for one in shown["candidates"]} == {type(users[0])} == {kind}


def test_the_page_asks_no_other_machine(url):
    page = httpx.get(url)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page.text)


@contextlib.contextmanager
def opened(url, allowed="about:blank"):
    """The page in Chromium once its first list is ranked."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt install chromium")
    with playwright.sync_playwright() as api:
        playwright.expect.set_options(timeout=60_000)  # a busy machine is no failure
        browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.on(
            "request",
            lambda one: page.failures.append(one.url) if not one.url.startswith((url, allowed, "data:")) else None,
        )
        page.goto(url)
        playwright.expect(page.locator("#after li")).to_have_count(20)
        yield page
        assert page.failures == []
        browser.close()


@pytest.fixture
def page(url):
    with opened(url) as page:
        yield page


def titles(page, listing):
    return page.locator(f"#{listing} .title").all_inner_texts()


def says(page, place, words):
    from playwright.sync_api import expect

    expect(page.locator(f"#{place}")).to_contain_text(words)


@pytest.mark.slow
def test_liking_items_changes_the_list_by_keyboard_on_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing runs off a phone
    page.fill("#user", "")
    page.keyboard.press("Enter")
    says(page, "status", "a new user, 0 liked")
    before = titles(page, "after")
    assert sorted(before) == sorted(titles(page, "before"))
    for number, like in enumerate(["quxard quxley 1", "quxard quxley 2"], start=1):
        page.get_by_role("button", name=f"like {like}", exact=True).focus()
        page.keyboard.press("Enter")
        other = " (the guard would serve first_stage)" if number < 2 else ""  # too little is known of a new user
        says(page, "status", f", {number} liked; shown: fused{other};")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"like {like}"
        says(page, "change", f"You like “{like}”: ")
        pressed, said = (page.locator(at).bounding_box() for at in ("button:focus", "#change"))
        assert 0 <= said["y"] - pressed["y"] <= 120  # right under the button
        assert page.locator("li.changed").count() > 0
    after = titles(page, "after")
    assert sum(title.startswith("quxard") for title in after[:4]) > sum(
        title.startswith("quxard") for title in before[:4]
    )
    assert titles(page, "history")[0] == "quxard quxley 2"
    page.get_by_role("button", name=f"why {after[0]}", exact=True).click()
    says(page, "why", "above the list's mean")
    lines = page.inner_text("#why").replace("−", "-").splitlines()
    total = next(at for at, line in enumerate(lines) if line.startswith("= "))
    parts = [float(line.split()[0]) for line in lines[1:total]]
    assert abs(sum(parts) - float(lines[total].split()[1])) <= 0.005 * (len(parts) + 1)  # of two digits each
    assert any("quxard quxley" in line for line in lines[total:])
    page.click("#forget")
    says(page, "status", ", 0 liked")
    assert titles(page, "after") == before and page.inner_text("#change") == ""


@pytest.mark.slow
def test_a_known_user_is_ranked_by_id_until_something_is_liked(page, reranker):
    asked = []
    page.on("request", lambda one: asked.append(one.post_data_json) if one.url.endswith("/rerank") else None)
    page.fill("#user", "u3")
    page.keyboard.press("Enter")
    says(page, "status", "user u3, 0 liked; shown: fused;")
    page.locator("#after button").first.click()
    says(page, "status", "user u3, 1 liked; shown: fused;")
    by_id, by_items = asked
    assert by_id["user"] == "u3" and "history" not in by_id
    assert by_items["history"][:-1] == reranker.history("u3") and "user" not in by_items
    assert by_items["history"][-1] in by_items["item_ids"]


@pytest.mark.slow
def test_large_numbers_are_shown_and_sent_whole(large):
    user = large.user_ids[3]
    with serving(create_app(large)) as url, opened(url) as page:
        asked = []
        page.on("request", lambda one: asked.append(one.post_data_json) if one.url.endswith("/rerank") else None)
        page.fill("#user", str(user))
        page.keyboard.press("Enter")
        says(page, "status", f"user {user}, 0 liked; shown: fused;")
        page.locator("#after button").first.click()
        says(page, "status", f"user {user}, 1 liked; shown: fused;")
        by_id, by_items = asked
        assert by_id["user"] == str(user) and {*map(int, by_id["item_ids"])} <= {*large.item_ids}
        assert [*map(int, by_items["history"][:-1])] == large.history(user)


@pytest.mark.slow
def test_any_order_can_be_looked_at(page):
    page.fill("#user", "")
    page.keyboard.press("Enter")
    says(page, "status", "a new user, 0 liked; shown: fused (the guard would serve first_stage);")
    page.select_option("#order", "baseline")
    says(page, "status", "shown: baseline (the guard would serve first_stage);")
    for order in ("first_stage", ""):
        page.select_option("#order", order)
        says(page, "status", "shown: first_stage;")
        assert titles(page, "after") == titles(page, "before")
    page.get_by_role("button", name=re.compile("^why ")).first.click()
    says(page, "why", "first stage")


@pytest.mark.slow
def test_an_error_is_shown(page):
    page.route("**/v1/rerank", lambda route: route.fulfill(status=503, json={"error": {"message": "too busy"}}))
    page.click("text=show")
    says(page, "status", "error: too busy")


@pytest.mark.slow
def until(page, seen, seconds=30):
    """The browser's events reach the test when they do."""
    for _ in range(100 * seconds):
        if seen():
            return
        page.wait_for_timeout(10)


def test_a_like_ends_what_the_page_asked_before(page):
    given_up = []
    page.on("requestfailed", lambda request: given_up.append(request.url.rsplit("/", 1)[1]))
    held = []
    page.route("**/v1/rerank", lambda route: held.append(route))
    page.get_by_role("button", name=re.compile("^why ")).first.click()
    says(page, "why", "asking why")
    until(page, lambda: held)
    page.wait_for_timeout(100)
    assert len(held) == 1 and given_up == []  # one list at a time
    page.unroute("**/v1/rerank")
    page.locator("#after button").first.click()
    says(page, "status", ", 1 liked; shown")
    until(page, lambda: given_up)
    assert given_up == ["rerank"] and page.inner_text("#why") == ""


@pytest.fixture(scope="module")
def pictured():
    """A catalogue with pictures, prices and categories; one address is none."""
    data = toys.taste_dataset()
    pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    images = [pixel, "https://pictures.example/a b.png", "javascript:alert(1)", "https://x; script-src *", None]
    items = data.items.assign(
        category="Tools",
        price=[float(number) + 0.5 for number in range(len(data.items))],
        currency="EUR",
        image=[images[number % len(images)] for number in range(len(data.items))],
    )
    data = Dataset(interactions=data.interactions, items=items, domain="toy")
    return Reranker(toys.config()).fit(data, PopularityGenerator().fit(data.interactions))


def test_pictures_prices_and_categories_stand_beside_the_titles(pictured):
    with serving(create_app(pictured)) as url:
        shown = httpx.get(f"{url}/playground/list", params={"n": 20}).json()["candidates"]
        policy = httpx.get(url).headers["content-security-policy"]
    place = {item: number for number, item in enumerate(pictured.item_ids)}
    for one in shown:
        number = place[one["id"]]
        assert one["category"] == "Tools" and one["price"] == f"{number}.50 EUR"
        assert one.get("image", "").split(":")[0] == ["data", "https", "", "", ""][number % 5]
    assert policy.split(";")[-1].split() == ["img-src", "data:", "https://pictures.example"]
    assert "script-src *" not in policy


@pytest.mark.slow
def test_a_picture_is_shown(pictured):
    with serving(create_app(pictured)) as url, opened(url, allowed="https://pictures.example") as page:
        assert page.locator("#after img[src^='data:']").count() > 0
        assert "Tools · " in page.inner_text("#after")
