"""Open a file in a folder, at an https address or in an s3 bucket, from any byte on.

Plain http needs leave, a redirect to another scheme is refused, and no message shows a password,
token or query string.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from rosita.errors import RositaError
from rosita.files import check_kind

CHUNK = 1 << 17  # bytes
TIMEOUT = 30  # seconds without a byte, after which a connection counts as cut


class Absent(RositaError):
    """The source answers, but has no such file or does not show it to us."""


class Cut(Exception):
    """A fault that may pass: worth another try, after `wait` seconds if the server says so."""

    def __init__(self, reason: str, wait: float = 0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Access:
    """How sources may be reached; `retries` counts tries in a row that brought no new byte."""

    allow_http: bool = False
    endpoint_url: str | None = None
    retries: int = 5


@dataclass
class Opened:
    """A source read from byte `start` on; `total` bytes in all, `version` names their state."""

    chunks: Iterator[bytes]
    start: int
    total: int | None
    version: str | None


def redact(source: str) -> str:
    """`source` as it may be shown: without user, password, query and fragment."""
    if ":/" not in source:
        return source
    shown = re.sub(r":/+.*@", "://***@", source, flags=re.DOTALL)
    return re.sub(r"[?#].*", "?***", shown, flags=re.DOTALL)


def join(base: str, name: str) -> str:
    """Address of the file `name` in the folder, https address or s3 prefix `base`."""
    if "://" not in base:
        return str(Path(base) / name)
    address, mark, query = base.partition("?")
    return f"{address.rstrip('/')}/{name}{mark}{query}"


def check_source(source: str, access: Access) -> None:
    """Refuse a source of another kind, before anything is fetched."""
    scheme = _scheme(source)
    shown = redact(source)
    if scheme not in _OPENERS:
        raise RositaError(f"{shown} is no folder, https:// or s3:// address")
    if scheme == "http" and not access.allow_http:
        raise RositaError(f"{shown} is not https; add --allow_http if you trust the way there")
    if scheme == "s3":
        if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+(/.*)?", source, re.DOTALL):
            raise RositaError(f"{shown} is not of the form s3://bucket/prefix")
        check_endpoint(_s3_endpoint(access), access)


def check_heeded(access: Access, source: str, flag: str) -> None:
    """Refuse flags that decide nothing about this source; `flag` is the one that names it."""
    scheme = _scheme(source)
    if access.endpoint_url and scheme != "s3":
        raise RositaError(f"--endpoint_url is for s3:// alone: give {flag} such an address")
    if access.allow_http and scheme not in ("http", "s3"):
        raise RositaError(f"--allow_http is for http:// and s3:// alone: give {flag} such a one")


def check_publish(target: str, access: Access) -> None:
    """Refuse what is no place in a bucket, before anything is made to be uploaded there."""
    if _scheme(target) != "s3":
        raise RositaError(f"--publish {redact(target)} is not of the form s3://bucket/prefix")
    check_source(target, access)
    s3_client(access)  # boto3 and what it is configured by are there


def check_endpoint(endpoint: str | None, access: Access, name: str = "--endpoint_url") -> None:
    """Refuse a service address that is not https; http to this very machine needs no leave."""
    if not endpoint:
        return
    try:
        host = urlsplit(endpoint).hostname
    except ValueError:
        host = None
    if _scheme(endpoint) not in ("http", "https") or not host:
        raise RositaError(f"{name} {redact(endpoint)} is no https:// address")
    is_local = host in ("localhost", "127.0.0.1", "::1")
    if _scheme(endpoint) == "http" and not (is_local or access.allow_http):
        raise RositaError(f"{name} {redact(endpoint)} is not https; add --allow_http to use it")


def open_source(source: str, offset: int, version: str | None, access: Access) -> Opened:
    """Open `source` at byte `offset` if it still is that `version` (None: unknown), else at 0.

    Raises `Cut` for a fault that may pass, `Absent` or `RositaError` for one that will not.
    """
    return _OPENERS[_scheme(source)](source, offset, version, access)


def _scheme(source: str) -> str:
    """`https`, `s3`, ...; an empty string for a path."""
    return source.partition("://")[0].lower() if "://" in source else ""


def _open_path(source: str, offset: int, version: str | None, access: Access) -> Opened:
    path = Path(source)
    check_kind(path)
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise Absent(_what_is_there(path)) from None
    except OSError as error:
        raise RositaError(f"cannot read {path}: {error.strerror}") from None
    state = os.fstat(file.fileno())
    now = f"{state.st_size}-{state.st_mtime_ns}"
    start = offset if version == now else 0
    file.seek(start)
    return Opened(_chunks(file, OSError), start, state.st_size, now)


def _what_is_there(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path.parent} is no folder"
    there = sorted(entry.name for entry in path.parent.iterdir())
    shown = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "")
    return f"{path.parent} has no {path.name}; it has {shown or 'nothing'}"


def _chunks(stream: Any, faults: type[Exception] | tuple[type[Exception], ...]) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)  # what is there, not waiting for all of a chunk
    try:
        while chunk := read(CHUNK):
            yield chunk
    except faults as error:
        raise Cut(_reason(error)) from None
    finally:
        stream.close()


def _reason(error: Exception) -> str:
    """Why a connection failed, from the error's kind alone: its text may quote an address."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT} s"
    return getattr(cause, "strerror", None) or f"connection failed ({type(cause).__name__})"


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only within its scheme, or from http up to https."""

    def http_error_302(self, req, fp, code, msg, headers):
        place = headers.get("Location") or headers.get("URI") or ""
        new = urljoin(req.full_url, place)
        if _scheme(new) not in (_scheme(req.full_url), "https") or "@" in urlsplit(new).netloc:
            raise RositaError(
                f"{redact(req.full_url)} redirects to {redact(new)}, which is not followed: only"
                " https to https is; use another mirror"
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows http and https and nothing else (urllib's own adds file: and ftp:)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameScheme(),
    ):
        opener.add_handler(handler)
    return opener


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    bare = parts._replace(netloc=host, path=path, fragment="").geturl()
    headers = {"User-Agent": "rosita-download", "Accept-Encoding": "identity"}
    request = urllib.request.Request(bare, headers=headers)
    if user:
        # Unredirected: the password is for this host and not for where it may send us.
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {word}")
    return request


def _open_http(url: str, offset: int, version: str | None, access: Access) -> Opened:
    try:
        request = _request(url)
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        if offset and version:
            request.add_header("If-Range", version)
        answer = _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and offset:  # nothing there at that byte: another version
                return _open_http(url, 0, None, access)
            raise _http_fault(url, error) from None
    except (ValueError, http.client.InvalidURL):
        raise RositaError(f"{redact(url)} is no address that can be read") from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise RositaError(f"{redact(url)}: the certificate of the host is not valid") from None
        raise Cut(_reason(error)) from None
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range") or "")
    start, total = 0, answer.headers.get("Content-Length")
    if answer.status == 206 and span:
        start, total = int(span[1]), span[2]
    etag = answer.headers.get("ETag") or ""
    strong = etag if etag.startswith('"') else answer.headers.get("Last-Modified")
    size = int(total) if total and total.isdecimal() else None
    return Opened(_chunks(answer, (OSError, http.client.HTTPException)), start, size, strong)


def _http_fault(url: str, error: urllib.error.HTTPError) -> Exception:
    said = http.client.responses.get(error.code, "")
    if error.code in (401, 403, 404, 410):
        return Absent(f"{redact(url)}: the server answers {error.code} {said}")
    if error.code in (408, 425, 429) or error.code >= 500:
        wait = error.headers.get("Retry-After") or ""
        return Cut(f"the server answers {error.code} {said}", int(wait) if wait.isdecimal() else 0)
    return RositaError(f"{redact(url)}: the server answers {error.code} {said}")


def _s3_endpoint(access: Access) -> str | None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return access.endpoint_url or next(filter(None, map(os.environ.get, names)), None)


def s3_client(access: Access) -> Any:
    """boto3's client for Amazon or another store; unsigned where there are no credentials."""
    import boto3  # slow to import, and only s3 needs it
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.Session()
    endpoint = _s3_endpoint(access)
    settings: dict[str, Any] = {"read_timeout": TIMEOUT, "connect_timeout": TIMEOUT}
    settings["retries"] = {"total_max_attempts": 1}  # `fetch` counts the tries
    if endpoint:
        settings["s3"] = {"addressing_style": "path"}  # a private store has no host per bucket
    if session.get_credentials() is None:
        settings["signature_version"] = UNSIGNED  # a public bucket
    return session.client("s3", endpoint_url=endpoint, config=Config(**settings))


def _open_s3(url: str, offset: int, version: str | None, access: Access) -> Opened:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    bucket, _, key = url.removeprefix("s3://").partition("/")
    wanted = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and version:
        wanted["IfMatch"] = version
    try:
        answer = s3_client(access).get_object(Bucket=bucket, Key=key, **wanted)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in (412, 416) and offset:  # another version stands there now
            return _open_s3(url, 0, None, access)
        said = f"the store answers {status} {error.response['Error'].get('Code', '')[:60]}"
        if status == 429 or status >= 500:
            raise Cut(said) from None
        raise (Absent if status in (403, 404) else RositaError)(f"{url}: {said}") from None
    except (ParamValidationError, ValueError):
        raise RositaError(f"{url} or its --endpoint_url is no valid s3 address") from None
    except (BotoCoreError, OSError) as error:
        raise Cut(f"the store does not answer ({type(error).__name__})") from None
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange") or "")
    start, total = (int(span[1]), int(span[2])) if span else (0, answer.get("ContentLength"))
    faults = (BotoCoreError, OSError, http.client.HTTPException)
    return Opened(_chunks(answer["Body"], faults), start, total, answer.get("ETag"))


_OPENERS: dict[str, Callable[[str, int, str | None, Access], Opened]] = {
    "": _open_path,
    "https": _open_http,
    "http": _open_http,
    "s3": _open_s3,
}
