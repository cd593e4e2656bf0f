"""index.html in a headless Chromium, from disk: 10,000 rows, filters, pages, the confusion matrix."""

import shutil

import pytest
import torch

from stn_ext.training import report

selenium = pytest.importorskip("selenium", reason="needs selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
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
