"""The gallery in a real headless browser, opened from disk."""

import os
import shutil

import pytest

from u2seg.report.gallery import write_gallery

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def unavailable(reason):
    """Skip loudly, except in CI, where the browser is part of the job."""
    if os.environ.get("CI"):
        pytest.fail(f"the gallery's browser test did not run: {reason}")
    pytest.skip(f"NOT TESTED IN A BROWSER: {reason}")


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed (pip install playwright)")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        unavailable("there is no chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """A tab that fails its test on any error of the console, script error, failed or outside load."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    troubles = []
    tab.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    # Turning a page while its images still load breaks those loads off, which is no failure of the page.
    aborted = "net::ERR_ABORTED"
    tab.on(
        "requestfailed",
        lambda request: troubles.append(f"failed: {request.url}") if request.failure != aborted else None,
    )
    outside = []
    tab.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else outside.append(request.url)
    )
    yield tab
    context.close()
    assert troubles == []
    assert outside == []


def load_images(tab):
    """Make every lazy image of the page load; return how many there are and how many failed."""
    return tab.evaluate(
        """async () => {
          const shown = Array.from(document.images);
          shown.forEach((image) => { image.loading = "eager"; });
          await Promise.all(shown.map((image) => image.decode().catch(() => null)));
          return [shown.length, shown.filter((image) => image.naturalWidth === 0).length];
        }"""
    )


def visible(tab, selector):
    return tab.locator(selector).filter(visible=True).count()


def test_every_page_opens_with_every_picture(page, tiny_gallery):
    for path in sorted(tiny_gallery.glob("*.html")):
        page.goto(path.as_uri())
        count, failed = load_images(page)
        assert failed == 0, path.name
        assert (count > 0) == path.name.startswith(("index", "photos", "classes_")), path.name


def test_views_are_toggled_by_button_and_key_and_remembered(page, tiny_gallery):
    page.goto((tiny_gallery / "index.html").as_uri())
    assert visible(page, ".card figure") == 8
    page.get_by_role("button", name="Stuff", exact=True).click()
    assert visible(page, ".card figure") == visible(page, ".card figure[data-view=stuff]") == 2
    page.keyboard.press("3")
    assert visible(page, ".card figure[data-view=things]") == 2
    page.reload()
    assert visible(page, ".card figure") == visible(page, ".card figure[data-view=things]") == 2


def test_names_and_overlay_can_be_turned_off(page, tiny_gallery):
    page.goto((tiny_gallery / "index.html").as_uri())
    assert "1" in page.locator(".card figure[data-view=panoptic]").first.inner_text().split()
    assert visible(page, ".card .mark") > 4
    page.get_by_label("Names").uncheck()
    assert visible(page, ".card .mark") == 0
    page.get_by_label("Opacity of the overlay").fill("0")
    assert page.locator(".card img.over").first.evaluate("image => getComputedStyle(image).opacity") == "0"


def test_pages_turn_by_link_and_arrow(page, tiny_gallery):
    page.goto((tiny_gallery / "index.html").as_uri())
    page.locator(".pager a[rel=next]").first.click()
    page.wait_for_url("**/photos_0002.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/index.html")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/photos_0002.html")


def test_a_photo_is_enlarged_and_left_by_keys(page, tiny_gallery):
    page.goto((tiny_gallery / "index.html").as_uri())
    page.locator(".card").nth(1).locator("figure[data-view=panoptic] .open").click()
    viewer = page.get_by_role("dialog")
    assert viewer.locator("h2").inner_text() == 'sub dir/chelsea "the <b>cat</b>" & co\'s.png'
    assert viewer.locator("aside li").count() == 4
    assert load_images(page)[1] == 0
    viewer.get_by_role("button", name="Things", exact=True).click()
    assert viewer.locator("aside li").count() == 2
    page.keyboard.press("ArrowRight")
    assert viewer.locator("h2").inner_text() == "astronaut.jpg"
    page.keyboard.press("Escape")
    assert viewer.count() == 0


def test_a_crop_leads_to_its_photo_and_back_to_its_class(page, tiny_gallery):
    page.goto((tiny_gallery / "index.html").as_uri())
    page.get_by_role("link", name="Classes").click()
    page.get_by_role("button", name="photos").click()
    assert page.locator("th[aria-sort]").inner_text().startswith("photos")
    page.get_by_role("link", name="1", exact=True).click()
    page.wait_for_url("**/classes_0001.html#c1")
    page.locator("#c1 .crops a").first.click()
    page.wait_for_url("**/photos_0002.html#p2-things")
    viewer = page.get_by_role("dialog")
    assert viewer.locator("h2").inner_text() == "ünï/コーヒー #1 100%.jpg"
    viewer.locator("aside a[href$='#c1']").click()
    page.wait_for_url("**/classes_0001.html#c1")


def test_nothing_is_wider_than_a_phone(page, tiny_gallery):
    page.set_viewport_size({"width": 360, "height": 740})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for path in sorted(tiny_gallery.glob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path.name


def test_missing_photos_break_nothing(page, make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    (folder / "photos" / "astronaut.jpg").unlink()
    (folder / "panoptic" / "sub dir").rename(tmp_path / "gone")
    page.goto(write_gallery(folder, workers=1).as_uri())
    assert load_images(page)[1] == 0
    page.locator(".card .open").first.click()
    assert "not found" in page.get_by_role("dialog").locator(".stage").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("4")
    assert load_images(page)[1] == 0
