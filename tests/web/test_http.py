"""The HTTP interface: image uploads, limits, concurrent clients, and hostile requests."""

import http.client
import io
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, suppress

import numpy as np
import pytest
from PIL import Image
from support import ROOT, run_command
from web_server import Server

from pipeline.web.security import without_port

CAPTIONS = "/v1/captions"


def send(server, path=CAPTIONS, body=None, method="POST", **headers):
    """Status, headers and JSON of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        content = response.read()
        is_json = content and response.headers.get("content-type") == "application/json"
        return response.status, response.headers, json.loads(content) if is_json else content
    finally:
        connection.close()


def form(content, field="image", name="photo.png"):
    body = (
        f'--edge\r\ncontent-disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "content-type: image/png\r\n\r\n"
    ).encode() + content
    return body + b"\r\n--edge--\r\n", {"content_type": "multipart/form-data; boundary=edge"}


@pytest.fixture
def start():
    """A function that starts a server with an application of its own; it stops after the test."""
    from pipeline.web.app import make_app

    started = []

    def start_server(captioner, **options):
        started.append(Server(make_app(captioner, **options)))
        return started[-1]

    yield start_server
    for one in started:
        one.stop()


def test_raw_bytes_and_a_form_get_the_same_response(server, captioner, images):
    content = images[0].read_bytes()
    status, _, raw = send(server, f"{CAPTIONS}?captions=2", content, content_type="image/png")
    body, headers = form(content)
    assert (status, raw) == send(server, f"{CAPTIONS}?captions=2", body, **headers)[::2]
    expected = captioner.captions([content], captions=2)[0]
    assert [one["caption"] for one in raw["captions"]] == [caption.text for caption in expected]
    assert raw["captions"][0]["score"] == pytest.approx(expected[0].score, abs=1e-3)
    assert (raw["width"], raw["height"], raw["grid"]) == (50, 40, 3)


def test_attention_weights_are_optional(server, images):
    _, _, response = send(server, f"{CAPTIONS}?attention=true", images[0].read_bytes(), content_type="image/png")
    (caption,) = response["captions"]
    assert len(caption["attention"]) == len(caption["tokens"])
    assert all(len(step) == 9 and sum(step) == pytest.approx(1, abs=0.01) for step in caption["attention"])


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/png", 422, "the file is empty"),
        (b"nothing", "image/png", 422, "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "image/png", 422, "the image cannot be used"),
        (b"text", "text/plain", 415, "must be an image"),
        (b"text", "", 415, "must be an image"),
        (b"no form", "multipart/form-data; boundary=edge", 400, "the form"),
        (b"no form", "multipart/form-data", 400, "the form"),
        (b"no form", "multipart/form-data; boundary=edge; charset=hex", 400, "the form"),
        (b"--edge--\r\n", "multipart/form-data; boundary=edge", 400, "the file image"),
    ],
)
def test_a_body_that_is_not_an_image_is_refused_with_the_reason(server, body, kind, status, words):
    found, headers, response = send(server, body=body, content_type=kind)
    assert found == status
    assert words in response["error"]
    assert headers["content-type"] == "application/json"


def test_a_body_of_two_images_is_refused(server, images):
    body = images[0].read_bytes() + images[1].read_bytes()
    status, _, response = send(server, body=body, content_type="image/png")
    problem = "the image cannot be used: holds more than one image; give one at a time"
    assert (status, response["error"]) == (422, problem)


def test_a_form_with_another_field_or_two_images_is_refused(server, images):
    content = images[0].read_bytes()
    body, headers = form(content, field="photo")
    assert send(server, body=body, **headers)[0] == 400
    twice = form(content)[0].replace(b"--edge--\r\n", b"") + form(content)[0]
    assert send(server, body=twice, **headers)[0] == 400


def test_an_image_of_too_many_pixels_is_refused(server, images, monkeypatch):
    monkeypatch.setattr("pipeline.encoders.images.MAX_PIXELS", 1000)
    status, _, response = send(server, body=images[0].read_bytes(), content_type="image/png")
    assert status == 422
    assert "50 x 40 pixels, more than the limit of 1000" in response["error"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("captions=0", "captions: Input should be greater"),
        ("captions=11", "captions: Input should be less"),
        ("captions=x", "captions: Input should be a valid integer"),
        ("beam_size=0", "beam_size: "),
        ("max_length=1000", "max_length: "),
        ("beam=5", "beam: unknown parameter; known: captions, beam_size, max_length, attention"),
        ("captions=2&captions=3", "captions: given more than once"),
    ],
)
def test_a_wrong_parameter_is_named(server, images, query, words):
    status, _, response = send(server, f"{CAPTIONS}?{query}", images[0].read_bytes(), content_type="image/png")
    assert status == 422
    assert response["error"].startswith(words)


def test_a_body_is_counted_while_it_arrives(server):
    large = bytes(1_500_000)
    status, _, response = send(server, body=large, content_type="image/png")
    assert (status, response) == (413, {"error": "the image is larger than the limit of 1000000 bytes"})
    status, _, _ = send(server, body=iter([large[:500_000]] * 3), content_type="image/png")  # chunked: no length given
    assert status == 413
    for content in (large, bytes(1_000_001)):
        body, headers = form(content)
        assert send(server, body=body, **headers)[0] == 413


def test_an_endless_body_is_cut_off(server):
    head = "POST /v1/captions HTTP/1.1", "host: localhost", "content-type: image/png", "transfer-encoding: chunked"
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        with suppress(OSError):
            while sent < 100_000_000:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                sent += 0x10000
                time.sleep(0.001)
    assert sent < 20_000_000
    assert send(server, "/healthz", method="GET")[2] == {"status": "ok"}


def test_every_response_has_the_security_headers(server):
    for path in ("/", "/openapi.json", "/healthz", "/static/page.js", "/nowhere", "/docs", "/static/..%2fapp.py"):
        status, headers, _ = send(server, path, method="GET")
        assert status == (404 if path in {"/nowhere", "/docs", "/static/..%2fapp.py"} else 200), path
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/healthz"])
def test_a_head_request_gets_the_headers(server, path):
    status, headers, content = send(server, path, method="HEAD")
    assert (status, content) == (200, b"")
    assert headers["content-length"] == send(server, path, method="GET")[1]["content-length"]


FOREIGN = {"origin": "https://evil.example"}
LINK = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/healthz", {"host": "evil.example"}, 403),
        ("GET", "/healthz", {"host": "localhost:1"}, 200),
        ("GET", "/", LINK, 200),
        ("POST", CAPTIONS, LINK, 403),
        ("POST", CAPTIONS, {"origin": "null"}, 403),
        ("POST", CAPTIONS, {"origin": "null", **LINK}, 403),
        ("POST", CAPTIONS, FOREIGN, 403),  # an older browser
        ("POST", CAPTIONS, {**FOREIGN, "sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ("POST", CAPTIONS, {"origin": "http://localhost:1", "sec_fetch_site": "same-site"}, 403),
        ("POST", CAPTIONS, {"origin": "http://localhost:1", "host": "localhost:1"}, 200),
        ("OPTIONS", CAPTIONS, {**FOREIGN, "access_control_request_method": "POST"}, 403),
    ],
)
def test_other_hosts_and_other_sites_are_refused(server, images, method, path, headers, status):
    body, kind = form(images[0].read_bytes()) if method == "POST" else (None, {})
    found, answered, _ = send(server, path, body, method, **headers, **kind)
    assert found == status
    assert "access-control-allow-origin" not in answered


def test_a_large_upload_for_another_host_gets_its_reason(server):
    body = bytes(1_500_000)
    status, _, content = send(server, CAPTIONS, body, host="photos.lan", content_type="image/png")
    assert (status, content["error"]) == (403, "requests for this host are refused; see --allow-host")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Photos.lan:8080", "photos.lan"),
        ("photos.lan", "photos.lan"),
        ("[fe80::1]:80", "fe80::1"),
        ("fe80::1", "fe80::1"),
        ("", ""),
    ],
)
def test_a_host_is_compared_without_its_port(value, name):
    assert without_port(value) == name


def receive_all(connection):
    """Everything until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def test_a_request_with_two_lengths_gets_one_answer_and_a_closed_connection(server):
    hidden = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST /v1/captions HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 5\r\n"
    with connect(server) as connection:
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
        received = receive_all(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"both Content-Length and Transfer-Encoding" in received


@pytest.fixture
def logged():
    """The messages of the server that are warnings or errors."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("uvicorn.error").addHandler(handler)
    yield messages
    logging.getLogger("uvicorn.error").removeHandler(handler)


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=edge"])
def test_a_client_that_leaves_while_it_sends_causes_no_traceback(server, logged, kind):
    with connect(server) as connection:
        head = f"POST /v1/captions HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 5000\r\n\r\n"
        connection.sendall(head.encode() + b"--edge\r\n")
        time.sleep(0.2)
    time.sleep(0.5)
    assert send(server, "/healthz", method="GET")[0] == 200
    assert logged == []


def test_a_client_that_leaves_before_its_captions_causes_no_traceback(server, logged, images):
    content = images[0].read_bytes()
    with connect(server) as connection:
        head = f"POST {CAPTIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    assert send(server, body=content, content_type="image/png")[0] == 200
    assert logged == []


def test_a_body_that_takes_too_long_is_answered_and_ends_the_connection(server, monkeypatch):
    monkeypatch.setattr("pipeline.web.uploads.TIMEOUT", 0.5)
    with connect(server) as connection:
        head = b"POST /v1/captions HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 9\r\n\r\n"
        connection.sendall(head + b"x")
        received = receive_all(connection)
    assert received.startswith(b"HTTP/1.1 408 ")


def test_fifty_concurrent_clients_get_correct_captions_in_batches(server, captioner, images, monkeypatch):
    contents = [path.read_bytes() for path in images]
    expected = [captioner(content) for content in contents]
    original, sizes = captioner.caption_pixels, []

    def caption_pixels(pixels, *arguments, **options):
        sizes.append(len(pixels))
        return original(pixels, *arguments, **options)

    monkeypatch.setattr(captioner, "caption_pixels", caption_pixels)

    def client(number):
        found = []
        for place in range(4):
            which = (number * 7 + place * 5) % len(contents)
            status, _, response = send(server, body=contents[which], content_type="image/png")
            found.append((status, response["captions"][0]["caption"] == expected[which]))
        return found

    with ThreadPoolExecutor(50) as pool:
        answers = list(itertools.chain.from_iterable(pool.map(client, range(50))))
    assert answers == [(200, True)] * 200
    assert max(sizes) > 1


def test_different_requests_do_not_share_a_batch(server, images):
    content = images[0].read_bytes()

    def count(number):
        return len(send(server, f"{CAPTIONS}?captions={number}", content, content_type="image/png")[2]["captions"])

    with ThreadPoolExecutor(12) as pool:
        wanted = [1 + number % 4 for number in range(12)]
        assert list(pool.map(count, wanted)) == wanted


def test_too_many_concurrent_requests_get_503(start, captioner, images, monkeypatch):
    from pipeline.web.uploads import Limits

    content, original, go_on = images[0].read_bytes(), captioner.caption_pixels, threading.Event()
    own = start(captioner, limits=Limits(max_requests=2))

    def caption_pixels(*arguments, **options):
        assert go_on.wait(30)
        return original(*arguments, **options)

    monkeypatch.setattr(captioner, "caption_pixels", caption_pixels)
    with ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(send, own, body=content, content_type="image/png") for _ in range(3)]
        refused, captioned = wait(sent, 30, FIRST_COMPLETED)
        go_on.set()
        assert [one.result()[0] for one in captioned] == [200, 200]
        ((status, headers, _),) = (one.result() for one in refused)
        assert (status, headers["retry-after"]) == (503, "1")
    assert send(own, body=content, content_type="image/png")[0] == 200


def test_a_defect_in_one_batch_does_not_stop_the_server(start, captioner, images, monkeypatch):
    own, content = start(captioner), images[0].read_bytes()
    with monkeypatch.context() as patch:
        patch.delattr(captioner, "reranker")
        assert send(own, body=content, content_type="image/png")[0] == 500
    assert send(own, body=content, content_type="image/png")[0] == 200


def test_no_file_is_written_while_images_are_received(server, images, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (900, 900), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    assert 500_000 < len(buffer.getvalue()) < 1_000_000
    body, headers = form(buffer.getvalue(), name="../../etc/passwd")
    assert send(server, body=body, **headers)[0] == 200


def serve(project, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "serve", *arguments]
    return subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True)


def test_the_command_prints_its_address_and_stops_on_ctrl_c(trained_project, images):
    running = serve(trained_project, "--port", "0")
    try:
        assert running.stderr.readline().startswith("model: models/captioner.safetensors, trained on 12 images")
        line = running.stderr.readline()
        assert line.startswith("serve: http://127.0.0.1:")
        port = int(line.split(":")[3].split("/")[0])
        found = type("Found", (), {"port": port})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                status, _, _ = send(found, body=images[0].read_bytes(), content_type="image/png")
                break
            except OSError:
                time.sleep(0.2)
        assert status == 200
    finally:
        running.send_signal(signal.SIGINT)
        _, rest = running.communicate(timeout=30)
    assert (running.returncode, rest) == (0, "")


@pytest.mark.slow
def test_ctrl_c_ends_the_server_during_an_upload_without_a_traceback(trained_project):
    running = serve(trained_project, "--port", "0")
    running.stderr.readline()
    port = int(running.stderr.readline().split(":")[3].split("/")[0])
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n")
        client.sendall(b"Content-Length: 50000\r\n\r\n\xff\xd8\xff")
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, rest = running.communicate(timeout=30)
    assert running.returncode == 0
    assert "Traceback" not in rest


def test_a_port_that_is_taken_is_a_usage_error(trained_project, server):
    code, _, message = run_command("serve", "--port", str(server.port), cwd=trained_project)
    assert code == 2
    assert f"--port {server.port}: cannot listen" in message
    assert message.endswith("; try --port 0\n")


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "ä" * 70])
def test_a_host_that_is_not_this_computer_is_a_usage_error(tmp_path, host):
    code, _, message = run_command("serve", "--host", host, cwd=tmp_path)
    assert code == 2
    assert message.startswith(f"error: --host {host}: cannot listen: ")
    assert "; give an address of this computer" in message
    assert "--port" not in message


def test_an_empty_host_is_not_all_networks(tmp_path):
    code, _, message = run_command("serve", "--host", "", cwd=tmp_path)
    assert (code, message.split(";")[0]) == (2, "error: --host: empty")


def test_the_response_states_the_familiarity_and_warns_where_it_is_low(server, unfamiliar_server, images):
    content = images[0].read_bytes()
    _, _, unknown = send(server, CAPTIONS, content, content_type="image/png")
    assert (unknown["familiarity"], unknown["warning"]) == (None, None)
    _, _, low = send(unfamiliar_server, CAPTIONS, content, content_type="image/png")
    assert low["familiarity"] == 0
    assert low["warning"] == "unlike the training images (familiarity 0.0%): the caption is probably wrong"
