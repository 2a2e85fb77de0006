"""The page in a real browser, over a real stack."""

import base64
import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, JSHandle, Page, expect

from pixtide.streams.publish.publisher import Description, Publisher
from pixtide.streams.publish.sources import Source
from tests.browser.axe import complaints
from tests.browser.conftest import MARKUP, UPLOADED, Site

#: From the press of the button to the first thumbnail's last pixel, in ms.
FIRST_PICTURE = """async () => {
    const began = performance.now();
    document.querySelector("#search").requestSubmit();
    const columns = document.querySelector("#columns");
    for (;;) {
        await new Promise(requestAnimationFrame);
        const image = columns.querySelector(".grid img");
        if (!columns.ariaBusy && image?.complete) return performance.now() - began;
    }
}"""


VIEWS = ("", "view=publish", "view=letters", "view=status")


def search(page: Page, site: Site, query: str) -> None:
    """Go to a search, and wait for what comes of it."""
    page.goto(f"{site.url}/?{query}")
    expect(page.locator("#said")).to_contain_text("generation v1")


def settled(page: Page) -> None:
    """Wait until a search that was begun in the page is answered."""
    expect(page.locator("#said")).to_contain_text("generation v1")


def ids(page: Page, column: str = "#meaning") -> list[str]:
    cards = page.locator(f"{column} .grid a")
    return [card.get_attribute("data-id") or "" for card in cards.all()]


def dragged(page: Page, file: Path) -> JSHandle:
    """What a browser hands over when a file is dragged into it."""
    return page.evaluate_handle(
        """([name, data]) => {
            const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
            const dragged = new DataTransfer();
            dragged.items.add(new File([bytes], name, {type: "image/jpeg"}));
            return dragged;
        }""",
        [file.name, base64.b64encode(file.read_bytes()).decode()],
    )


def drop(page: Page, file: Path, zone: str) -> None:
    data = {"dataTransfer": dragged(page, file)}
    page.dispatch_event("body", "dragenter", data)
    page.dispatch_event(f"[data-drop={zone}]", "drop", data)


def test_words_find_the_right_picture_soon(
    page: Page, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    page.goto(site.url)
    expect(page.locator("#welcome-count")).to_contain_text("pictures to search")
    expect(page.locator("#text")).to_be_focused()
    for query, found in (("a castle", "places/castle"), ("coffee", "food/cup-of-coffee.jpg")):
        page.fill("#text", query)
        took_ms = page.evaluate(FIRST_PICTURE)
        with capsys.disabled():
            sys.stdout.write(f"\n{query}: the first picture stands after {took_ms:.0f} ms\n")
        settled(page)
        assert ids(page)[0].startswith(found)
    page.go_back()
    settled(page)
    expect(page.locator("#text")).to_have_value("a castle")
    assert ids(page)[0].startswith("places/castle")


def test_filters_negative_terms_and_no_good_match(page: Page, site: Site) -> None:
    search(page, site, "q=a+castle")
    page.click("#filters summary")
    page.fill("[name=tag]", "animals")
    page.click("#filters .primary")
    page.wait_for_url("**tag=animals**")
    expect(page.locator("#chips")).to_contain_text("tagged animals")
    expect(page.locator("#meaning")).to_contain_text("No good match")
    page.click("text=Show the nearest anyway")
    settled(page)
    expect(page.locator("#meaning .grid a").first).to_be_visible()
    assert all(each.startswith("animals/") for each in ids(page))
    search(page, site, "q=a+pet&all=1&shape=portrait")
    taller_by = page.locator("#meaning .grid img").evaluate_all(
        "all => all.map((i) => i.getAttribute('height') - i.getAttribute('width'))"
    )
    assert taller_by and all(each > 0 for each in taller_by)
    search(page, site, "q=a+pet&all=1")
    usual = ids(page)
    search(page, site, "q=a+pet&all=1&not=cat")
    assert ids(page).index("animals/kitten.jpg") > usual.index("animals/kitten.jpg")


def test_more_leads_on_and_the_keyboard_stays_where_it_was(page: Page, site: Site) -> None:
    search(page, site, "q=picture&all=1")
    first = ids(page)
    assert len(first) == 30
    page.locator("#meaning .more button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#meaning .more")).to_be_hidden()
    everything = ids(page)
    assert everything[:30] == first
    assert len(set(everything)) == len(everything) > 30
    card = page.locator("#meaning .grid a").nth(30)
    expect(card).to_be_focused()
    expect(card.locator(".score")).to_have_css("opacity", "1")  # as under the pointer
    expect(card.locator(".score")).to_have_text(re.compile(r"similarity\s+-?\d\.\d\d"))


def test_the_lightbox_by_keyboard_and_more_like_this(page: Page, site: Site) -> None:
    search(page, site, "q=a+castle")
    first, second = ids(page)[:2]
    page.locator(".grid a").first.focus()
    page.keyboard.press("Enter")
    box = page.locator("#lightbox")
    expect(box).to_be_visible()
    expect(box.locator("#lightbox-facts")).to_contain_text("images.uploaded, partition")
    expect(box.locator("#lightbox-facts")).to_contain_text("starter")
    expect(box.locator("#lightbox-picture")).not_to_have_js_property("naturalWidth", 0)
    page.keyboard.press("ArrowRight")
    expect(box.locator("#lightbox-facts")).to_contain_text(second)
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    expect(page.locator(f'.grid a[data-id="{second}"]')).to_be_focused()
    page.locator(".grid a").first.click()
    with page.context.expect_page() as opened:
        box.locator("#lightbox-original").click()
    assert opened.value.evaluate("document.contentType") == "image/jpeg"
    box.locator("#lightbox-like").click()
    expect(box).to_be_hidden()
    expect(page.locator("#chips")).to_contain_text(f"like {first.split('/')[1]}")
    settled(page)
    assert first not in ids(page)
    assert ids(page)[0].startswith("places/castle")


def test_a_dropped_picture_is_searched_by_or_published(page: Page, site: Site) -> None:
    page.goto(site.url)
    drop(page, site.pictures / "animals/goldfish.jpg", "search")
    expect(page.locator("#example img")).to_be_visible()
    settled(page)
    assert ids(page)[0] == "animals/goldfish.jpg"
    drop(page, site.pictures / UPLOADED, "publish")
    expect(page.locator("#uploads .file")).to_have_text("sunflower.jpg")
    expect(page.locator("#uploads .state")).to_have_text("searchable")
    search(page, site, "q=a+yellow+flower&all=1")
    assert "web/sunflower.jpg" in ids(page)[:3]
    page.locator('[data-id="web/sunflower.jpg"]').click()
    page.click("#lightbox-delete")
    page.click("text=Really delete?")
    expect(page.locator("#said")).to_contain_text("Deleted")
    assert "web/sunflower.jpg" not in ids(page)


def test_what_is_no_picture_is_refused_with_a_reason(
    page: Page, site: Site, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    page.goto(f"{site.url}/?view=publish")
    page.set_input_files("#publish-files", str(bad))
    expect(page.locator("#uploads .state")).to_contain_text("no known picture format")


def test_the_status_tells_how_far_the_index_is_behind(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?view=status")
    generation = page.locator(".generation")
    expect(generation).to_contain_text("up to date with the log")
    expect(generation.locator("dd", has_text="starter, 384")).to_be_visible()
    with site.frozen("ingest-v1"):
        publisher = Publisher(site.stack.settings())
        for number in range(3):
            again = Source("things/late.jpg", site.pictures / "things" / "chair.jpg")
            publisher.upload(again, Description(caption=f"chair {number}"))
        publisher.flush()
        expect(generation).to_contain_text("3 events behind")
    expect(generation).to_contain_text("up to date with the log")


@pytest.mark.slow
def test_a_dead_letter_tells_why_and_is_tried_again(page: Page, site: Site) -> None:
    late = site.stack.folder / "late.jpg"
    publisher = Publisher(site.stack.settings())
    publisher.upload(Source("late/late.jpg", late.as_uri()), Description())
    publisher.flush()
    page.goto(f"{site.url}/?view=letters")
    row = page.locator("#letters li", has_text="late/late.jpg")
    expect(row).to_contain_text("not indexed")
    late.write_bytes((site.pictures / "things" / "stethoscope.jpg").read_bytes())
    row.get_by_role("button").click()
    expect(row).to_contain_text("indexed since")
    search(page, site, "q=a+stethoscope")
    assert ids(page)[0] == "late/late.jpg"


def test_words_find_names_and_meaning_what_nobody_wrote(page: Page, site: Site) -> None:
    search(page, site, "q=Neuschwanstein&compare=1")
    expect(page.locator("#words .grid a")).to_have_count(1)
    assert ids(page, "#words") == ["places/castle-neuschwanstein.jpg"]
    search(page, site, "q=medieval+fortress&compare=1")
    expect(page.locator("#meaning .grid a").first).to_be_visible()
    assert ids(page)[0].startswith("places/castle")
    expect(page.locator("#words")).to_contain_text("No caption and no tag has these words")


def test_word_search_beside_and_markup_stays_text(page: Page, site: Site) -> None:
    search(page, site, "q=scissors+bold")
    page.check("#compare")
    expect(page.locator("#words .grid a")).to_have_count(1)
    assert ids(page, "#words") == ["odd/odd.jpg"]
    card = page.locator("#words .grid a")
    assert card.locator("img").get_attribute("alt") == MARKUP
    assert card.locator(".name").text_content() == MARKUP
    card.click()
    expect(page.locator("#lightbox-title")).to_have_text(MARKUP)
    expect(page.locator("#lightbox-tags")).to_have_text(MARKUP)
    assert page.locator("#lightbox b, .grid b").count() == 0


def test_a_silent_service_is_told_and_recovered_from(page: Page, site: Site) -> None:
    search(page, site, "q=a+castle")
    with site.frozen("query"):
        page.fill("#text", "a panda bear")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("is a query consumer running?")
    expect(page.locator("#notice")).to_be_hidden()
    settled(page)
    assert ids(page)[0] == "animals/giant-panda.jpg"


def test_the_server_away_is_told_and_recovered_from(page: Page, site: Site) -> None:
    search(page, site, "q=a+castle")
    page.context.set_offline(True)
    page.fill("#text", "coffee")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("pixtide does not answer")
    page.context.set_offline(False)
    expect(page.locator("#notice")).to_be_hidden()
    settled(page)
    assert ids(page)[0] == "food/cup-of-coffee.jpg"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, site: Site, scheme: str) -> None:
    # Playwright's own scripts, of which axe is one here, aren't the page's.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    found = []
    for query in (*VIEWS, "q=a+castle&compare=1&not=people"):
        page.goto(f"{site.url}/?{query}")
        page.wait_for_load_state("networkidle")
        found += complaints(page)
    page.click("#filters summary")
    found += complaints(page)
    page.keyboard.press("Escape")
    page.locator(".grid a").first.click()
    expect(page.locator("#lightbox-facts")).to_contain_text("partition")
    found += complaints(page)
    context.close()
    assert found == []


def test_a_phone_scrolls_in_one_direction_only(browser: Browser, site: Site) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    page = context.new_page()
    for query in (*VIEWS, "q=picture&all=1&compare=1"):
        page.goto(f"{site.url}/?{query}")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, query
    search(page, site, "q=a+castle")
    page.locator(".grid a").first.tap()
    expect(page.locator("#lightbox")).to_be_visible()
    assert page.evaluate("document.querySelector('.about').scrollWidth") <= 360
    context.close()
