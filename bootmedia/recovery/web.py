# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on web servers, and JSON sent to them.

Who answers is checked before a byte is believed: by a certificate that an authority signed, or by the fingerprint of
the certificate. Plain HTTP proves nothing, and the plan says so.

References: RFC 9110 (8.8 validators, 14 range requests, 15 status codes).
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from bootmedia.recovery.errors import Unreachable
from bootmedia.recovery.fetch import WAITS, ResumingInput, Said, quietly
from imager import __version__
from imager.errors import StoreError

_SECONDS: Final = 60.0
_KEPT: Final = "/%?#[]@!$&'()*+,;=:-._~"
"""What RFC 3986 lets stand in a path and a query; all else is written as %XX."""
_MOST_REDIRECTIONS: Final = 5
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
"""Of bytes; what has more digits is no length of anything, and Python refuses to read thousands of them."""
_SKIPPED_AT_ONCE: Final = 1 << 20
_UNCHECKED: Final = "A certificate of your own is accepted by its fingerprint: certificate = in recovery.toml."


class HttpInput(ResumingInput):
    """A file on a web server."""

    def __init__(
        self,
        url: str,
        *,
        certificate: str = "",
        waits: Sequence[float] = WAITS,
        said: Said = quietly,
        silence_seconds: float = _SECONDS,
    ) -> None:
        """Open it, as ResumingInput does; silence_seconds are waited for each answer, and for each further byte."""
        self._url = url
        self._silence_seconds = silence_seconds
        self._certificate = certificate
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._version = ""
        super().__init__(url, waits, said)

    def _open(self, offset: int) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        self._connection, self._response = request(
            "GET", self._url, headers, certificate=self._certificate, timeout_seconds=self._silence_seconds
        )
        response = self._response
        if response.status == 416:
            raise self._ended()
        if response.status >= 400:
            raise _refused(self._url, response)
        self._check_version(response, offset)
        if offset and response.status != 206:
            self._skip(offset)

    def _check_version(self, response: http.client.HTTPResponse, offset: int) -> None:
        """Remember what file this is; refuse another one behind the first half of this."""
        begins, size = _extent(response)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        is_other = version != self._version or (self.size is not None and size != self.size)
        if offset and (is_other or begins != (offset if response.status == 206 else 0)):
            raise StoreError(
                f"{self._url} was changed while it was read: {offset} bytes came from another version",
                hint="Start again; leave the image as it is until the restore is done.",
                path=self._url,
            )
        self._version = version
        self.size = size if self.size is None else self.size

    def _skip(self, count_bytes: int) -> None:
        """Pass over what is there already, from a server that always begins at the start."""
        waste = memoryview(bytearray(_SKIPPED_AT_ONCE))
        while count_bytes:
            got = self._receive(waste[:count_bytes])
            if not got:
                raise self._ended()
            count_bytes -= got

    def _read(self, view: memoryview) -> int:
        got = self._receive(view)
        if not got and self.size is not None and self._offset < self.size:
            raise self._ended()
        return got

    def _receive(self, view: memoryview) -> int:
        try:
            return self._response.readinto(view) if self._response else 0
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} broke off after {self._offset} bytes: {_words(error)}") from error

    def _ended(self) -> Unreachable:
        return Unreachable(
            f"{self._url} ended after {self._offset} of {self.size} bytes",
            path=self._url,
            expected=self.size,
            found=self._offset,
        )

    def _drop(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = self._response = None


def request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    body: bytes | None = None,
    certificate: str = "",
    timeout_seconds: float = _SECONDS,
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Ask a web server; of a GET, redirections are followed, but not from HTTPS to HTTP.

    Raises:
        Unreachable: It does not answer.
        StoreError: It is not the server that it should be, or it leads in circles.
    """
    for _ in range(_MOST_REDIRECTIONS + 1):
        connection = _connect(url, certificate, timeout_seconds)
        parts = urlsplit(url)
        try:
            target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_KEPT)
            connection.request(method, target, body, {"User-Agent": f"imager/{__version__}", **headers})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            connection.close()
            raise Unreachable(f"{url} does not answer: {_words(error)}", path=url) from error
        location = response.headers.get("Location")
        if method != "GET" or response.status not in (301, 302, 303, 307, 308) or not location:
            return connection, response
        connection.close()
        url = _redirected(url, location)
    raise StoreError(f"{url}: more than {_MOST_REDIRECTIONS} redirections, one after the other", path=url)


def _redirected(url: str, location: str) -> str:
    try:
        new = urljoin(url, location)
        urlsplit(new).port  # noqa: B018 - raises ValueError when it is none
    except ValueError as error:
        raise StoreError(f"{url} leads to {location}, which is no URL: {error}", path=url) from error
    if urlsplit(new).scheme not in ("http", "https") or (url.startswith("https:") and not new.startswith("https:")):
        raise StoreError(f"{url} leads to {new}, which is not followed: it is not as safe", path=url)
    return new


def _connect(url: str, certificate: str, timeout_seconds: float) -> http.client.HTTPConnection:
    try:
        return _connected(url, certificate, timeout_seconds)
    except http.client.InvalidURL as error:
        raise StoreError(f"{url} is no URL: {error}", hint="Look at the URL.", path=url) from error


def _connected(url: str, certificate: str, timeout_seconds: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=timeout_seconds)
    context = ssl.create_default_context()
    if certificate:  # it says who the server is, better than a name in it could
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout_seconds, context=context)
    try:
        connection.connect()
        _check_certificate(connection, url, certificate)
    except ssl.SSLCertVerificationError as error:
        connection.close()
        raise StoreError(
            f"{url}: the server's certificate is not accepted: {error.verify_message}", hint=_UNCHECKED, path=url
        ) from error
    except (OSError, UnicodeError) as error:
        connection.close()
        raise Unreachable(f"{url} does not answer: {_words(error)}", path=url) from error
    return connection


def certificate_problem(url: str) -> tuple[str, str] | None:
    """Why no authority vouches for a server, and the SHA-256 of its certificate; None when one does, or without TLS.

    Raises:
        Unreachable: It does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None
    try:
        _tls(url, ssl.create_default_context()).close()
    except ssl.SSLCertVerificationError as error:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = _tls(url, context)
        with connection:
            return error.verify_message, hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
    return None


def _tls(url: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection to a server, up to the point where it has shown its certificate."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        plain = socket.create_connection((host, parts.port or 443), _SECONDS)
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{url} does not answer: {_words(error)}", path=url) from error


def _check_certificate(connection: http.client.HTTPSConnection, url: str, certificate: str) -> None:
    if not certificate or not isinstance(connection.sock, ssl.SSLSocket):
        return
    found = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()
    expected = certificate.lower().replace(":", "")
    if found != expected:
        connection.close()
        raise StoreError(
            f"{url}: the server's certificate has the fingerprint {found}, expected was {expected}",
            hint="Somebody else answers, or the certificate was renewed: ask whoever runs the server.",
            path=url,
            expected=expected,
            found=found,
        )


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the content that follows begins in the file, and how long the file is."""
    if response.status == 206:
        unit, _, words = response.headers.get("Content-Range", "").partition(" ")
        begin, _, size = words.partition("-")[0], None, words.rpartition("/")[2]
        if unit == "bytes" and _NUMBER.fullmatch(begin) and _NUMBER.fullmatch(size):
            return int(begin), int(size)
        return -1, None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if _NUMBER.fullmatch(length) else None


def _refused(url: str, response: http.client.HTTPResponse) -> StoreError:
    said = f"{url}: the server says {response.status} {response.reason}"
    # RFC 9110, 15.6: the server's own trouble, which may pass.
    return (
        Unreachable(said, path=url) if response.status >= 500 else StoreError(said, hint="Look at the URL.", path=url)
    )


def _words(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known (DNS)"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__


def get(
    url: str, most_bytes: int, *, certificate: str = "", waits: Sequence[float] = WAITS, said: Said = quietly
) -> bytes:
    """A small file from a web server.

    Raises:
        StoreError: It is not there, too long, or nobody answered.
    """
    with HttpInput(url, certificate=certificate, waits=waits, said=said) as source:
        buffer = memoryview(bytearray(most_bytes + 1))
        got = source.read_into(buffer)
    if got > most_bytes:
        raise StoreError(f"{url} has more than {most_bytes} bytes", path=url)
    return bytes(buffer[:got])


def post(url: str, body: bytes, *, certificate: str = "", waits: Sequence[float] = WAITS[:3]) -> None:
    """Send JSON to a web server.

    Raises:
        StoreError: It did not take it.
    """
    for wait in (*waits, None):
        try:
            connection, response = request(
                "POST",
                url,
                {"Content-Type": "application/json"},
                body=body,
                certificate=certificate,
                timeout_seconds=10,
            )
            connection.close()
            if response.status < 300:
                return
            raise _refused(url, response)
        except Unreachable:
            if wait is None:
                raise
            time.sleep(wait)
