"""Fixtures with the small trained model: its captioner, a web server with it, and a browser if one is installed."""

import os
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest


class Server:
    """The application behind uvicorn, on a free port of the loopback interface."""

    def __init__(self, app):
        from pipeline.commands.serve import make_server

        listening = socket.create_server(("127.0.0.1", 0))
        self.app = app
        self.port = listening.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._server = make_server(app)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self):
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture(scope="session")
def captioner(trained_project):
    from pipeline import Captioner, paths

    return Captioner.load(trained_project / paths.MODEL, device="cpu")


@pytest.fixture(scope="session")
def images(trained_project):
    return sorted((trained_project / "data/tiny/images").glob("*.png"))


@pytest.fixture(scope="session")
def server(captioner):
    pytest.importorskip("fastapi", reason="needs the extra: pip install -e '.[serve]'")
    from pipeline.web.app import make_app
    from pipeline.web.security import LOOPBACK
    from pipeline.web.uploads import Limits

    running = Server(make_app(captioner, limits=Limits(max_bytes=1_000_000), hosts=LOOPBACK))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium for all tests that makes no requests of its own."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    downloads = tmp_path_factory.mktemp("downloads")
    flags = ["headless", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('profile')}"]
    if os.geteuid() == 0:
        flags.append("no-sandbox")  # Chromium's sandbox does not work for root, often the user of a container
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    running.downloads = Path(downloads)
    yield running
    running.quit()


@pytest.fixture(scope="session")
def unfamiliar_server(captioner):
    """A server for which every image is unlike the training images."""
    pytest.importorskip("fastapi", reason="needs the extra: pip install -e '.[serve]'")
    from pipeline.inference.familiarity import Familiarity
    from pipeline.web.app import make_app

    known = np.random.default_rng(0).random((100, 9, captioner.model.channels)).astype(np.float16)
    model = replace(captioner.model, familiarity=Familiarity.fit([known], [known]))
    running = Server(make_app(type(captioner)(model, captioner.encoder, captioner.device)))
    yield running
    running.stop()
