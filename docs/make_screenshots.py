"""Takes docs/images/page-*.png: run `captioner serve` on the built-in dataset's model, then this with its address."""

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
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def browser(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, *QUIET, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def view(driver: webdriver.Chrome, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1.5, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def give(driver: webdriver.Chrome, *pictures: Path) -> None:
    driver.find_element(By.ID, "files").send_keys("\n".join(map(str, pictures)))
    done = f"return document.getElementById('count').textContent.startsWith('{len(pictures)} of {len(pictures)}')"
    WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(done))


def word(driver: webdriver.Chrome, text: str) -> None:
    words = driver.find_elements(By.CSS_SELECTOR, "#words button")
    next(one for one in words if one.text == text).click()
    time.sleep(0.4)


def shoot(driver: webdriver.Chrome, name: str) -> None:
    driver.get_screenshot_as_file(str(OUT / f"{name}.png"))


def main(address: str, pictures: Path) -> None:
    one = pictures / "1104.png"
    many = sorted(pictures.glob("11*.png"))[:7]
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)
        try:
            view(driver, 1100, 760)
            driver.get(address)
            time.sleep(0.5)
            shoot(driver, "page-empty")
            give(driver, one)
            word(driver, "purple")
            shoot(driver, "page-desktop")
            view(driver, 1100, 760, dark=True)
            time.sleep(0.4)
            shoot(driver, "page-dark")
            view(driver, 390, 844, phone=True)
            driver.get(address)
            give(driver, one)
            word(driver, "blue")
            shoot(driver, "page-phone")
            view(driver, 1100, 1150)
            driver.get(address)
            give(driver, *many)
            shoot(driver, "page-many")
        finally:
            driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--pictures", type=Path, default=ROOT / "data" / "scenes" / "images")
    given = parser.parse_args()
    sys.exit(main(given.address, given.pictures))
