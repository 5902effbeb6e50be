"""The page at `/` of a running server, as a person sees it in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

import schemas
from precise_core import consume
from schemas import columns as c
from tests.browser import asked_for, console_of, is_too_wide, running_browser, show_at
from tests.serving.test_command import free_port, get, process_of, wait_until
from tests.serving.world import USERS, World

USER = USERS[1]
ODD_TITLES = {
    "item-5": "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">",
    "item-6": """a "quoted" 'title' & more &lt;""",
    "item-7": "very" + 120 * " long" + 300 * "y",
    "item-8": "ספר עם כותרת (1)",
    "item-9": "",
    "item-10": "Title\u202eturned",
}
UNKNOWN = "an item of no catalog"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One user's history and list are of the odd titles, and the list has an item that the catalog lacks."""
    world = World(tmp_path_factory.mktemp("page") / "warehouse")
    world.publish(0)
    titles = [{c.ITEM_ID: item, c.TITLE: ODD_TITLES.get(item, f"Title of {item}")} for item in world.items]
    world.write(schemas.ITEMS, titles)
    odd = [*ODD_TITLES, UNKNOWN]
    lists = consume.read_table(world.root, "recommendations").to_pylist()
    for row in lists:
        if row[c.USER_ID] == USER and row[c.LIST] == "new":
            row[c.ITEM_ID] = odd[row[c.RANK] + 1]
    world.write(schemas.RECOMMENDATIONS, lists)
    histories = consume.read_table(world.root, "user_sequences").to_pylist()
    for row in histories:
        if row[c.USER_ID] == USER and row[c.TASK] == "all":
            row[c.ITEM_INDICES][: len(ODD_TITLES)] = [2 + world.items.index(item) for item in ODD_TITLES]
    world.write(schemas.USER_SEQUENCES, histories)
    return world


@pytest.fixture(scope="module")
def address(world: World) -> Iterator[str]:
    port = free_port()
    with process_of(world.root, port):
        wait_until(lambda: get(port, "/ready"))
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def started() -> Iterator[Chrome]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def browser(started: Chrome, address: str) -> Iterator[Chrome]:
    """The page as it was just opened; afterwards nothing has gone wrong in it, or come from elsewhere."""
    show_at(started, 1280)
    started.get(address)
    wait(started, lambda: "Knows the world up to 2024-03-04 00:00 UTC" in text(started, "state"))
    yield started
    assert console_of(started) == []
    assert [url for url in asked_for(started) if not url.startswith(address)] == []


def title_of(item_id: str) -> str:
    """What is shown: its id where it has none."""
    return ODD_TITLES.get(item_id, f"Title of {item_id}") or item_id


def wait(browser: Chrome, is_so: Callable[[], object]) -> None:
    WebDriverWait(browser, 60, 0.05).until(lambda _: is_so())


def text(browser: Chrome, identity: str) -> str:
    return browser.find_element(By.ID, identity).text


def ask(browser: Chrome, user: str, source: str, task: str = "all") -> None:
    Select(browser.find_element(By.ID, "task")).select_by_visible_text(task)
    Select(browser.find_element(By.ID, "source")).select_by_visible_text(source)
    field = browser.find_element(By.ID, "user")
    field.clear()
    field.send_keys(user)
    browser.find_element(By.CSS_SELECTOR, "button").click()
    wait(browser, lambda: text(browser, "who") == user or text(browser, "error"))


def rows(browser: Chrome, identity: str) -> list[list[str]]:
    """The texts of a table's cells, as they are and not as they are folded for the eye."""
    cells = "row => [...row.cells].map(cell => cell.textContent)"
    script = f"return [...document.getElementById({identity!r}).rows].map({cells})"
    return list(browser.execute_script(script))


def test_a_user_sees_history_and_list_with_titles_and_reasons(browser: Chrome, world: World) -> None:
    user = USERS[2]
    ask(browser, user, "published list all")
    assert text(browser, "error") == "" and not browser.find_element(By.ID, "popular").is_displayed()
    had = [title_of(item) for item in world.histories[user][::-1]]
    assert [title for _, title in rows(browser, "history")] == had
    assert rows(browser, "history")[0][0] == "2024-03-03"
    listed = consume.recommendations(world.root, [user], task="all", name="all").to_pylist()
    expected = [
        [
            str(row[c.RANK]),
            ODD_TITLES.get(row[c.ITEM_ID], f"Title of {row[c.ITEM_ID]}") or row[c.ITEM_ID],
            row[c.REASON],
        ]
        for row in listed
    ]
    assert rows(browser, "items") == expected
    for seen in ("History of user-2", "Recommended", expected[0][1], expected[0][2]):
        assert seen in browser.find_element(By.TAG_NAME, "main").text


def test_candidates_that_are_searched_now_say_what_they_follow(browser: Chrome, world: World) -> None:
    user = USERS[2]
    ask(browser, user, "U2I2I, live", task="share")
    had = {title_of(item) for item in world.histories[user]}
    whys = {why for _, _, why in rows(browser, "items")}
    assert whys and whys <= {f"follows {title}" for title in had}
    ask(browser, user, "U2I, live")
    assert {why for _, _, why in rows(browser, "items")} == {"u2i"}


def test_a_stranger_sees_that_a_list_is_only_popular(browser: Chrome) -> None:
    for source, reason in (("published list all", "no such list"), ("U2I, live", "no vector of this")):
        ask(browser, "stranger", source)
        said = text(browser, "popular")
        assert said.startswith("What is popular: ") and reason in said
        assert len(rows(browser, "items")) >= 5
        assert rows(browser, "history") == [["", "nothing is known of this user"]]
    ask(browser, "stranger", "published list repeat")
    assert rows(browser, "items") == [["", "nothing on this list", ""]]
    assert not browser.find_element(By.ID, "popular").is_displayed()


def test_titles_are_shown_as_text_whatever_is_in_them(browser: Chrome) -> None:
    ask(browser, USER, "published list new")
    expected = [title_of(item) for item in ODD_TITLES]
    assert [title for _, title in rows(browser, "history")[::-1]][: len(expected)] == expected
    assert [title for _, title, _ in rows(browser, "items")] == [*expected[2:], UNKNOWN]
    assert browser.title == "PRECISE: recommendations"
    assert browser.find_elements(By.CSS_SELECTOR, "main script, main img") == []
    assert expected[0] in text(browser, "history")
    cell = browser.find_element(By.CSS_SELECTOR, "#items tr:nth-child(2) td:nth-child(2)")
    assert cell.text == ODD_TITLES["item-8"] and cell.value_of_css_property("direction") == "rtl"
    for width in (1280, 390):
        show_at(browser, width)
        assert not is_too_wide(browser)
        why = browser.find_element(By.CSS_SELECTOR, "#items td:last-child")
        assert why.size["width"] > 100  # a long title leaves the reason its room


def test_what_the_server_refuses_is_said_in_place_of_an_answer(browser: Chrome) -> None:
    ask(browser, USER, "published list all")
    browser.execute_script("document.getElementById('user').value = 'x'.repeat(513)")  # what nobody can type
    browser.find_element(By.CSS_SELECTOR, "button").click()
    wait(browser, lambda: text(browser, "error"))
    assert text(browser, "error").startswith("query.user_id ")
    assert not browser.find_element(By.ID, "found").is_displayed()
    told = console_of(browser)  # the browser itself notes every answer that is no success
    assert told and all("422" in one for one in told)
    ask(browser, USER, "published list all")
    assert text(browser, "error") == "" and rows(browser, "items")
