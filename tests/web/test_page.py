"""The page in a real browser, with pointer, keyboard and narrow windows."""

import base64
import csv
import io
import time

import pytest
from PIL import Image

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
pytestmark = pytest.mark.slow


class Page:
    """The page as a user sees it."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1100, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.get(address)

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script, *values):
        return self.driver.execute_script(script, *values)

    def until(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"timed out; the page shows: {self.driver.find_element(By.TAG_NAME, 'body').text}")

    def choose(self, *paths):
        self["files"].send_keys("\n".join(map(str, paths)))

    def done(self, total):
        self.until(lambda: self.run("return count.textContent").startswith(f"{total} of {total}"))

    def captions(self):
        return [one.text for one in self.all("#candidates label span:not(.certainty)")]

    def send_by_event(self, kind, path):
        """Send a file with a drop or paste event of the window."""
        content = base64.b64encode(path.read_bytes()).decode()
        self.run(
            """const [kind, name, content] = arguments;
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const event = kind === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: data })
                : new DragEvent("drop", { ...options, dataTransfer: data });
            document.body.dispatchEvent(event);""",
            kind,
            path.name,
            content,
        )


@pytest.fixture
def page(chromium, server):
    opened = Page(chromium, server.address)
    yield opened
    log = chromium.get_log("browser")  # failed requests are not script errors
    assert [entry for entry in log if entry["level"] == "SEVERE" and entry["source"] != "network"] == []


def test_a_chosen_image_gets_the_captions_of_the_model(page, captioner, images):
    page.choose(images[0])
    page.done(1)
    (expected,) = captioner.captions(images[:1], captions=3)
    assert page.captions() == [caption.text for caption in expected]
    assert page["text"].get_attribute("value") == expected[0].text
    assert page["image"].get_attribute("alt") == expected[0].text
    assert expected[0].text in page["status"].get_attribute("textContent")


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_can_be_pasted_and_dropped(page, captioner, images, way):
    page.send_by_event(way, images[1])
    page.done(1)
    assert page["one-name"].text == images[1].name
    assert page.captions()[0]


def test_the_words_are_stepped_through_with_the_keyboard(page, images):
    page.choose(images[0])
    page.done(1)
    words = page.all("#tokens button")
    assert " ".join(word.text for word in words) == page.captions()[0]
    words[0].send_keys(Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element == words[1]
    assert [word.get_attribute("aria-pressed") for word in words[:3]] == ["false", "true", "false"][: len(words)]
    overlay = page.run(
        "const pixels = overlay.getContext('2d').getImageData(0, 0, overlay.width, overlay.height).data;"
        "const alphas = [...pixels].filter((_, place) => place % 4 === 3);"
        "return [overlay.classList.contains('on'), Math.min(...alphas), Math.max(...alphas)]"
    )
    assert overlay[0]
    assert overlay[1] < overlay[2] <= 210
    words[1].send_keys(Keys.ESCAPE)
    assert not page.run("return overlay.classList.contains('on')")
    page["play"].click()
    page.until(lambda: page.all("#tokens button[aria-pressed=true]"))


def test_the_alt_text_is_another_caption_or_edited(page, images):
    page.choose(images[0])
    page.done(1)
    page.all("#candidates input")[1].click()
    assert page["text"].get_attribute("value") == page.captions()[1]
    page["text"].clear()
    page["text"].send_keys('red & "nothing"')
    assert page["image"].get_attribute("alt") == 'red & "nothing"'
    page["copy-html"].click()
    page.until(lambda: page["copy-html"].text == "Copied")
    page.run("const field = document.createElement('textarea'); field.id = 'pasted'; document.body.append(field)")
    page["pasted"].send_keys(Keys.CONTROL, "v")
    assert page["pasted"].get_attribute("value") == '<img alt="red &amp; &quot;nothing&quot;" src="000.png">'


def test_html_for_an_odd_file_name_names_that_file_and_loads_nothing(page, images, tmp_path):
    odd = tmp_path / "photo #1 100%.png"
    odd.write_bytes(images[0].read_bytes())
    page.choose(odd)
    page.done(1)
    page["copy-html"].click()
    page.until(lambda: page["copy-html"].text == "Copied")
    page.run("const field = document.createElement('textarea'); field.id = 'pasted'; document.body.append(field)")
    page["pasted"].send_keys(Keys.CONTROL, "v")
    assert page["pasted"].get_attribute("value").endswith('src="photo%20%231%20100%25.png">')
    assert not page.run("return performance.getEntriesByType('resource').some((one) => one.name.includes('photo'))")


def test_text_pasted_beside_its_picture_goes_into_the_field(page, images):
    page.choose(images[0])
    page.done(1)
    prevented = page.run(
        """const data = new DataTransfer();
        data.setData("text/plain", "a cell of a spreadsheet");
        data.items.add(new File([new Uint8Array(8)], "cell.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true, clipboardData: data };
        const event = new ClipboardEvent("paste", options);
        document.getElementById("text").dispatchEvent(event);
        return event.defaultPrevented;"""
    )
    assert not prevented
    assert not page["many"].is_displayed()


def test_an_image_that_the_browser_cannot_show_has_no_attention(page, images, tmp_path):
    tiff = tmp_path / "scan.tif"
    Image.open(images[0]).save(tiff)
    page.choose(tiff, images[1])
    page.done(2)
    for number in (1, 0, 1, 0):
        page.all(".thumb")[number].click()
        page.until(lambda number=number: page["attention"].is_displayed() == (number == 1))
    assert page["no-preview"].is_displayed()


def test_captions_that_arrive_after_clearing_are_not_announced(page, images):
    page.run(
        """const fetched = window.fetch;
        window.fetch = async (...given) => {
            await new Promise((done) => (window.answer = done));
            return fetched(...given).finally(() => (window.answered = true));
        };"""
    )
    page.choose(images[0])
    page.until(lambda: page.run("return Boolean(window.answer)"))
    page["clear"].click() if page["clear"].is_displayed() else page.run("document.getElementById('clear').click()")
    page.run("window.answer()")
    page.until(lambda: page.run("return window.answered"))
    time.sleep(0.3)
    assert page["status"].get_attribute("textContent") == ""


def test_several_images_become_a_table_to_download(page, captioner, images, tmp_path):
    odd = tmp_path / 'a "quoted", name.png'
    odd.write_bytes(images[5].read_bytes())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    page.choose(*images[:4], odd, broken)
    page.done(6)
    assert page["count"].text == "6 of 6, 1 could not be captioned"
    assert page["status"].get_attribute("textContent") == "5 of 6 images captioned, 1 could not be captioned"
    page["save"].click()
    table = page.driver.downloads / "captions.csv"
    page.until(table.exists)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    table.unlink()
    assert [row["image"] for row in rows] == [*(path.name for path in images[:4]), odd.name, "broken.png"]
    assert rows[0]["caption"]
    assert float(rows[0]["score"]) < 0
    assert (rows[5]["caption"], rows[5]["score"]) == ("", "")
    assert "not an image" in rows[5]["error"]
    page.all(".thumb")[3].click()
    assert page["one-name"].text == images[3].name
    page["clear"].click()
    assert not page["many"].is_displayed()
    assert page.driver.switch_to.active_element == page["choose"]


def test_unfamiliar_images_are_marked_in_words(chromium, unfamiliar_server, images):
    page = Page(chromium, unfamiliar_server.address)
    words = "Unlike the training images (familiarity 0.0%): the caption is probably wrong."
    page.choose(images[0])
    page.until(lambda: page["unfamiliar"].text == words)
    assert words in page.run("return document.getElementById('status').textContent")
    page.choose(images[1])
    page.done(2)
    assert [one.text for one in page.all("#rows .small")] == [words] * 2


def test_a_broken_file_shows_the_reason_and_the_next_one_works(page, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xffbroken")
    page.choose(broken)
    page.done(1)
    assert page["reason"].text.startswith("The image cannot be used: ")
    assert not page["again"].is_displayed()
    page.choose(images[0])
    page.done(2)
    assert page.captions()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(page, tmp_path):
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(1_000_001))
    page.choose(large)
    page.done(1)
    assert page["reason"].text == "The file is larger than 1 MB."


def test_requests_to_an_unreachable_server_can_be_repeated(page, images):
    page.until(lambda: page["model"].text)
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.enable", {})
    try:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **offline})
        page.choose(images[0])
        page.done(1)
        assert page["reason"].text == "The server does not answer. Is it still running?"
    finally:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **offline})
    page["again"].click()
    page.until(page.captions)
    assert not page["failed"].is_displayed()


@pytest.mark.parametrize(("status", "again"), [(408, True), (500, True), (422, False)])
def test_what_may_succeed_later_can_be_repeated(page, images, status, again):
    page.run(
        "const status = arguments[0];"
        "window.fetch = async () => new Response(JSON.stringify({ error: 'it did not work' }), { status })",
        status,
    )
    page.choose(images[0])
    page.done(1)
    assert page["reason"].text == "It did not work."
    assert page["again"].is_displayed() == again


def test_files_of_a_dropped_folder_that_are_not_images_are_counted(page, images):
    content = base64.b64encode(images[0].read_bytes()).decode()
    page.run(
        """const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));
        const entry = (name, type) => ({
            name, isFile: true, isDirectory: false, file: (done) => done(new File([bytes], name, { type })),
        });
        const unreadable = { name: "b.png", isFile: true, isDirectory: false, file: (_, failed) => failed() };
        const others = [entry("notes.txt", "text/plain"), entry(".DS_Store", ""), unreadable];
        const batches = [[entry("a.heic", ""), ...others], []];
        const folder = {
            name: "photos", isFile: false, isDirectory: true,
            createReader: () => ({ readEntries: (done) => done(batches.shift()) }),
        };
        const event = new Event("drop", { bubbles: true, cancelable: true });
        const transfer = { types: ["Files"], files: [], items: [{ webkitGetAsEntry: () => folder }] };
        Object.defineProperty(event, "dataTransfer", { value: transfer });
        document.body.dispatchEvent(event);""",
        content,
    )
    page.done(1)
    assert page["one-name"].text == "a.heic"
    assert page["notice"].text == "2 files in the folder cannot be read as images."


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_narrow_window(page, images, width):
    metrics = {"width": width, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.choose(*images[:3])
    page.done(3)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return [...document.querySelectorAll('button')].filter((b) => b.checkVisibility()"
                    " && b.getBoundingClientRect().right > innerWidth).length") == 0  # fmt: skip


def test_every_control_has_a_name_for_screen_readers(page, images):
    page.choose(*images[:2])
    page.done(2)
    controls = [one for one in page.all("button, input, textarea, progress") if one.is_displayed()]
    assert len(controls) > 15
    assert [one.get_attribute("outerHTML") for one in controls if not one.accessible_name] == []


def test_the_page_follows_the_dark_color_scheme(page):
    shades = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        color = page.run("return getComputedStyle(document.body).backgroundColor")
        shades.append(int(color.split("(")[1].split(",")[0]))
    assert shades[0] > 200 > 60 > shades[1]


def test_nothing_is_loaded_from_other_hosts(page, server, images):
    page.choose(images[0])
    page.done(1)
    loaded = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(loaded) > 5
    assert [one for one in loaded if not one.startswith((server.address, "blob:", "data:"))] == []
