"""Takes the screenshots docs/images/page-*.png.

Run `captioner serve` on the built-in dataset's model, then this script with the address that it prints.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "images"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars")
NO_REQUESTS = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def browser(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, *NO_REQUESTS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def set_view(driver: webdriver.Chrome, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1.5, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def add(driver: webdriver.Chrome, *images: Path) -> None:
    driver.find_element(By.ID, "files").send_keys("\n".join(map(str, images)))
    done = f"return document.getElementById('count').textContent.startsWith('{len(images)} of {len(images)}')"
    WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(done))


def choose_token(driver: webdriver.Chrome, text: str) -> None:
    """Show the attention weights of the word `text`, or of the third word of a caption without it."""
    tokens = driver.find_elements(By.CSS_SELECTOR, "#tokens button")
    next((one for one in tokens if one.text == text), tokens[2]).click()
    time.sleep(0.4)


def save(driver: webdriver.Chrome, name: str) -> None:
    driver.get_screenshot_as_file(str(OUT / f"{name}.png"))


def main(address: str, images: Path) -> None:
    one = images / "1104.png"
    many = sorted(images.glob("11*.png"))[:7]
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)
        try:
            set_view(driver, 1100, 760)
            driver.get(address)
            time.sleep(0.5)
            add(driver, one)
            choose_token(driver, "purple")
            save(driver, "page-desktop")
            set_view(driver, 1100, 760, dark=True)
            time.sleep(0.4)
            save(driver, "page-dark")
            set_view(driver, 390, 844, phone=True)
            driver.get(address)
            add(driver, one)
            choose_token(driver, "blue")
            save(driver, "page-phone")
            set_view(driver, 1100, 1150)
            driver.get(address)
            add(driver, *many)
            save(driver, "page-many")
        finally:
            driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "scenes" / "images")
    given = parser.parse_args()
    sys.exit(main(given.address, given.images))
