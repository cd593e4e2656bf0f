"""index.html in a headless Chromium, from disk: 10,000 rows, filters, pages, the confusion matrix."""

import shutil

import pytest
import torch

from stn_ext.training import report

selenium = pytest.importorskip("selenium", reason="needs selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")

COUNT = 10_000
METRICS = {"cross_entropy": 0.1234, "accuracy": 0.99, "num_images": COUNT, "scope": "stn",
           "name_data": "tiny", "net": "cnn", "transformer": "on", "num_transformers": 1,
           "transform": "affine", "num_parameters": 7, "epoch": 3, "seed": 0,
           "history": [{part: {"loss": scale / n, "accuracy": n / 4} for part, scale in
                        (("train", 1), ("validation", 2))} for n in (1, 2, 4)]}  # fmt: skip


def labels_and_predictions():
    """Labels 0, 1, 2, 0, 1, 2, ...; every hundredth image of the set is taken for the next class."""
    labels = torch.arange(COUNT) % 3
    wrong = torch.arange(COUNT) % 100 == 0
    return labels, torch.where(wrong, (labels + 1) % 3, labels)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    labels, predictions = labels_and_predictions()
    images = torch.arange(COUNT).remainder(251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    confidences = 0.5 + torch.arange(COUNT) / (4 * COUNT)
    classes = ("cat", "</script><b>dog", "eel & co")  # names that would break a careless page
    report.write(
        directory, report.Outcome(images, 255 - images, labels, predictions, confidences, classes), METRICS, 4
    )
    return directory / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1280,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, page_path):
    browser.get(page_path.as_uri())
    yield browser
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe


def rows(page):
    return page.find_elements(By.CSS_SELECTOR, "#rows li")


def text(page, name):
    return page.find_element(By.ID, name).text


def test_opens_with_the_figures_and_a_page_of_rows(page):
    assert text(page, "accuracy") == "99.00 %" and text(page, "cross-entropy") == "0.1234"
    assert text(page, "num-wrong") == "100" and text(page, "count") == "10000 images"
    assert len(rows(page)) == 100 and text(page, "pages") == "100"
    first = rows(page)[0]
    assert "cat, taken for </script><b>dog" in first.text and "50.00 % confident" in first.text
    assert rows(page)[2].text.splitlines()[2] == "eel & co"


def test_shows_the_pictures_on_disk(page):
    widths = page.execute_script(
        "return [...document.querySelectorAll('img')].slice(0, 8).map(i => i.naturalWidth)"
    )
    assert widths == [2] * 8


def test_names_nothing_on_a_network(page, page_path):
    assert "//" not in page_path.read_text().replace("// ", "")  # "// " begins a comment
    urls = page.execute_script(
        "return [...document.querySelectorAll('[src], link')].map(e => e.src || e.href)"
    )
    assert len(urls) > 200 and all(url.startswith(("file:", "data:")) for url in urls)


def test_pages(page):
    page.find_element(By.ID, "next").click()
    assert "#100" in rows(page)[0].text and text(page, "page") == "2"
    page.find_element(By.ID, "previous").click()
    assert "#0" in rows(page)[0].text
    assert not page.find_element(By.ID, "previous").is_enabled()


def test_filters(page):
    labels, predictions = labels_and_predictions()
    page.find_element(By.ID, "wrong-only").click()
    assert text(page, "count") == "100 images"
    Select(page.find_element(By.ID, "label")).select_by_visible_text("eel & co")
    expected = ((labels == 2) & (predictions != labels)).sum()
    assert text(page, "count") == f"{expected} images" and len(rows(page)) == expected
    assert all("eel & co, taken for cat" in row.text for row in rows(page))
    page.find_element(By.ID, "wrong-only").click()
    assert text(page, "count") == f"{(labels == 2).sum()} images"
    Select(page.find_element(By.ID, "predicted")).select_by_visible_text("cat")
    assert text(page, "count") == f"{expected} images"
    page.find_element(By.ID, "reset").click()
    assert text(page, "count") == "10000 images"


def test_orders_by_confidence(page):
    Select(page.find_element(By.ID, "order")).select_by_value("most")
    assert "#9999" in rows(page)[0].text
    Select(page.find_element(By.ID, "order")).select_by_value("least")
    assert "#0" in rows(page)[0].text


def test_a_cell_of_the_confusion_matrix_filters(page):
    labels, predictions = labels_and_predictions()
    cells = page.find_elements(By.CSS_SELECTOR, "#confusion button")
    expected = [
        int(((labels == row) & (predictions == column)).sum()) for row in range(3) for column in range(3)
    ]
    assert [int(cell.get_attribute("data-count")) for cell in cells] == expected
    cells[1].click()  # label 0 predicted as 1
    assert text(page, "count") == f"{expected[1]} images" and cells[1].get_attribute("aria-pressed") == "true"
    cells[1].click()
    assert text(page, "count") == "10000 images" and cells[1].get_attribute("aria-pressed") == "false"


LONG = [f"a class of pictures with a very long name, number {number}" for number in range(8)]


@pytest.fixture(scope="module")
def own_path(tmp_path_factory):
    """A report of one's own pictures: files, long classes, words and outlines, of its first hundred."""
    directory = tmp_path_factory.mktemp("own")
    labels = torch.arange(240) % 8
    predictions = torch.where(torch.arange(240) % 24 < 2, (labels + 3) % 8, labels)
    predictions[16] = 7  # label 0, once
    files = tuple(f"{LONG[label]}/picture {index}.png" for index, label in enumerate(labels.tolist()))
    images = torch.zeros(240, 1, 20, 30, dtype=torch.uint8)
    square = [[[3.0, 2.0], [27.0, 2.0], [27.0, 18.0], [3.0, 18.0]]]
    outcome = report.Outcome(
        images, images, labels, predictions, torch.full((240,), 0.9), tuple(LONG), files,
        warps=("turned by 12 degrees clockwise",) * 240, outlines=(square,) * 240,
    )  # fmt: skip
    report.write(directory, outcome, METRICS | {"num_images": 240}, 4, limit=100)
    return directory / "index.html"


@pytest.fixture(params=[1400, 400])
def own(browser, own_path, request):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": request.param < 500},
    )
    browser.get(own_path.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_files_words_and_outlines_of_the_first_images(own):
    assert "The page has the first 100 of 240 images" in own.find_element(By.TAG_NAME, "header").text
    assert text(own, "count") == "100 images" and text(own, "num-wrong") == "21"  # of all
    first = rows(own)[0]
    image = first.find_element(By.CSS_SELECTOR, "img.input")
    assert image.get_attribute("alt") == f"input {LONG[0]}/picture 0.png: {LONG[0]}"
    assert first.find_element(By.CLASS_NAME, "number").get_attribute("title") == f"{LONG[0]}/picture 0.png"
    assert "turned by 12 degrees clockwise" in first.text
    polygon = first.find_element(By.TAG_NAME, "polygon")
    assert polygon.get_attribute("points") == "3,2 27,2 27,18 3,18"
    # The outline stands over the image: its left side at a tenth of the width.
    box, left = image.rect, own.execute_script("return arguments[0].getBoundingClientRect().x", polygon)
    assert left - own.execute_script("return arguments[0].getBoundingClientRect().x", image) == pytest.approx(
        box["width"] / 10, abs=2
    )
    own.find_element(By.ID, "outlines").click()
    assert not polygon.is_displayed()


def test_nothing_is_wider_than_the_page_and_no_figure_is_cut(own):
    assert own.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    figures = "[...document.querySelectorAll('.figures dd')]"
    assert own.execute_script(f"return {figures}.filter(e => e.scrollWidth > e.clientWidth).length") == 0
    assert own.execute_script(f"return Math.min(...{figures}.map(e => e.clientWidth))") >= 120
    names = "return getComputedStyle(document.querySelector('#confusion tbody th')).textOverflow"
    assert own.execute_script(names) == "ellipsis"


def test_the_worst_confusions_come_first_and_filter(own):
    worst = own.find_elements(By.CSS_SELECTOR, "#worst button")
    counts = [int(button.text.partition(": ")[2].split()[0]) for button in worst]
    assert counts == sorted(counts, reverse=True) and len(worst) == 3 and counts[-1] == 1
    worst[0].click()
    assert worst[0].get_attribute("aria-pressed") == "true"
    assert all("taken for" in row.text for row in rows(own)) and rows(own)


def test_each_class_has_its_share_and_interval(own):
    lines = own.find_elements(By.CSS_SELECTOR, "#per-class tbody tr")
    assert len(lines) == 8
    low, high = (f"{100 * bound:.1f}" for bound in report.interval(20, 30))
    assert lines[1].text.removeprefix(LONG[1]).split() == ["30", "66.7", "%", low, "to", high]


def test_the_matrix_and_the_charts_are_reached_by_keyboard_and_named(own):
    stops = own.find_elements(By.CSS_SELECTOR, "#confusion button[tabindex='0']")
    assert len(stops) == 1
    stops[0].send_keys(Keys.ARROW_RIGHT)
    assert own.switch_to.active_element.get_attribute("data-predicted") == "1"
    own.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    own.switch_to.active_element.send_keys(Keys.ENTER)
    assert own.switch_to.active_element.get_attribute("data-label") == "1"
    assert own.switch_to.active_element.get_attribute("aria-pressed") == "true"
    charts = own.find_elements(By.CSS_SELECTOR, "#charts svg")
    assert [len(chart.find_elements(By.TAG_NAME, "polyline")) for chart in charts] == [2, 2]
    assert charts[0].get_attribute("aria-label") == "loss: train 0.2500, validation 0.5000 at the end"


def test_intervals_are_wilsons():
    """Against the roots of |p - share| = z sqrt(p (1 - p) / n), which defines them."""
    for right, count in ((0, 10), (7, 10), (10, 10), (994, 1000)):
        for bound in report.interval(right, count):
            if 1e-9 < bound < 1 - 1e-9:
                distance = 1.959964 * (bound * (1 - bound) / count) ** 0.5
                assert abs(bound - right / count) == pytest.approx(distance, rel=1e-6)
