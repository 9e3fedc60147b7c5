"""Images are read from servers: a real S3 and HTTP server on this machine, also one that fails now and then."""

import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import ParamsError
from pipeline.features.ray import sources
from pipeline.features.ray.sources import check_schemes, read_source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:.*(botocore|moto|aiobotocore|werkzeug).*")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(sources, "FIRST_PAUSE", 0.001)


def a_tar(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def bucket(s3_server):
    s3_server.put("a b/é.png", b"an image!")
    s3_server.put("photos.tar", a_tar({"in/1.png": b"one", "in/2.png": b"two"}))
    s3_server.put("more.tar", a_tar({"1.png": b"three"}))
    s3_server.put("third.tar", a_tar({"1.png": b"four"}))
    return s3_server


class Flaky:
    """An HTTP server that gives `codes` one after the other, and then the image."""

    def __init__(self):
        self.codes = []
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                code = outer.codes.pop(0) if outer.codes else 200
                if code == 0:
                    self.connection.close()
                    return
                self.send_response(code)
                self.send_header("Content-Length", "9")
                self.end_headers()
                self.wfile.write(b"an image!")

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/a.png"


@pytest.fixture
def flaky():
    pytest.importorskip("aiohttp", reason="http:// needs the extra `remote`")
    server = Flaky()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_an_object_on_s3_is_read(bucket):
    assert read_source(bucket.url("a b/é.png")) == b"an image!"


def test_members_of_tar_files_on_s3_are_read(bucket):
    assert read_source(bucket.url("photos.tar::in/2.png")) == b"two"
    assert read_source(bucket.url("more.tar::1.png")) == b"three"
    assert read_source(bucket.url("third.tar::1.png")) == b"four"
    assert read_source(bucket.url("photos.tar::in/1.png")) == b"one"


def test_archives_leave_no_files(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("photos.tar::in/2.png", "more.tar::1.png", "third.tar::1.png"):
        read_source(bucket.url(name))
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_does_not_exist_is_reported(bucket):
    for name, reason in {
        "nothing.png": "no such object",
        "nothing.tar::a.png": "no such object",
        "photos.tar::x.png": "no such image in s3://",
    }.items():
        with pytest.raises(FileNotFoundError) as caught:
            read_source(bucket.url(name))
        assert reason in caught.value.strerror


def test_a_failed_request_is_repeated(flaky):
    flaky.codes = [500, 0, 503]
    assert read_source(flaky.url) == b"an image!"
    assert flaky.requests == 4


def test_a_server_that_keeps_failing_is_reported_with_its_error(flaky):
    flaky.codes = [500] * 100
    with pytest.raises(OSError, match=r"no answer from the server in 5 attempts: .*500"):
        read_source(flaky.url)
    assert flaky.requests == sources.ATTEMPTS


@pytest.mark.parametrize("status", [401, 403, 410])
def test_a_refused_request_is_not_repeated(flaky, status):
    flaky.codes = [status] * 100
    with pytest.raises(OSError, match=rf"the server refuses it \(HTTP {status}\)"):
        read_source(flaky.url)
    assert flaky.requests == 1


def test_a_request_for_a_missing_object_is_not_repeated(flaky):
    flaky.codes = [404] * 100
    with pytest.raises(FileNotFoundError):
        read_source(flaky.url)
    assert flaky.requests == 1


def test_local_files_and_archives_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"here")
    (tmp_path / "x.tar").write_bytes(a_tar({"a.png": b"inside"}))
    assert read_source(f"{tmp_path}/a.png") == b"here"
    assert read_source(f"{tmp_path}/x.tar::a.png") == b"inside"


def test_without_the_library_of_a_url_the_extra_is_named(monkeypatch):
    def fail(scheme):
        raise ImportError(f"Install {scheme}fs")

    monkeypatch.setattr("fsspec.get_filesystem_class", fail)
    check_schemes(["photos/a.png"])
    with pytest.raises(ParamsError, match=r"Install s3fs; `pip install -e '\.\[remote\]'"):
        check_schemes(["s3://bucket/a.png"])
