# SPDX-License-Identifier: GPL-3.0-or-later
"""Files over HTTP and HTTPS from a server that breaks off, lies, changes its mind, or is somebody else."""

from __future__ import annotations

import random
import subprocess
from typing import Any
from urllib.parse import urlsplit

import pytest

from bootmedia.recovery.errors import Unreachable
from bootmedia.recovery.web import HttpInput, get, post
from imager.errors import StoreError
from tests.harness.cutting import Cut, cable
from tests.harness.programs import missing_tools
from tests.harness.secure_shell import kept_port
from tests.harness.web import serving

CONTENT = random.Random(1).randbytes(300_000)
needs_openssl = pytest.mark.skipif(bool(missing_tools("openssl")), reason="openssl is not installed")


@pytest.fixture
def web():
    with serving() as server:
        server.files["/a"] = CONTENT
        yield server


def read(url: str, attempts: int = 3, **options: Any) -> bytes:
    buffer = memoryview(bytearray(2 * len(CONTENT)))
    with HttpInput(url, waits=(0.0,) * (attempts - 1), **options) as source:
        return bytes(buffer[: source.read_into(buffer)])


def test_a_file_comes_as_it_is(web) -> None:
    assert read(f"{web.url}/a") == CONTENT


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_what_broke_off_goes_on_where_it_was(web, takes_ranges) -> None:
    web.takes_ranges = takes_ranges
    web.breaks_at = [70_000, 110_000]
    assert read(f"{web.url}/a") == CONTENT
    assert [asked for _, _, asked in web.asked][:2] == ["", "bytes=70000-"]


def test_what_always_breaks_off_is_given_up_with_how_far_it_came(web) -> None:
    web.breaks_at = [1000, *[0] * 20]
    with pytest.raises(Unreachable, match=r"ended after 1000 of 300000 bytes, 3 times in a row"):
        read(f"{web.url}/a")


def test_each_piece_that_comes_gives_new_patience(web) -> None:
    web.breaks_at = [50_000] * 5
    assert read(f"{web.url}/a", attempts=2) == CONTENT


def test_a_length_that_is_too_large_is_not_believed(web) -> None:
    web.claims = len(CONTENT) + 10
    with pytest.raises(Unreachable, match="ended after 300000 of 300010 bytes"):
        read(f"{web.url}/a")


def test_a_file_that_changed_meanwhile_is_refused(web) -> None:
    web.breaks_at, web.changes_after_break = [1000], True
    with pytest.raises(StoreError, match="was changed while it was read") as caught:
        read(f"{web.url}/a")
    assert not isinstance(caught.value, Unreachable)


def test_a_server_that_starts_is_waited_for(web) -> None:
    web.statuses = [503, 502]
    assert read(f"{web.url}/a") == CONTENT


def test_a_name_with_blanks_and_umlauts_is_asked_for_as_rfc_3986_writes_it(web) -> None:
    web.files["/my%20M%C3%BCll.zst?x=1"] = b"x"
    assert read(f"{web.url}/my Müll.zst?x=1") == b"x"


def test_a_host_that_cannot_be_a_name_does_not_answer() -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        read(f"http://{'a' * 70}.example/a", attempts=1)


def test_what_is_not_there_is_said_at_once(web) -> None:
    with pytest.raises(StoreError, match="the server says 404"):
        read(f"{web.url}/b")
    assert len(web.asked) == 1


def test_redirections_are_followed_but_not_in_circles(web) -> None:
    web.redirects = {"/old": "/a", "/round": "/round"}
    assert read(f"{web.url}/old") == CONTENT
    with pytest.raises(StoreError, match="more than 5 redirections"):
        read(f"{web.url}/round")


@pytest.mark.parametrize("where", ["http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://a b/"])
def test_a_redirection_to_what_is_no_url_is_refused_in_words(web, where) -> None:
    web.redirects = {"/old": where}
    with pytest.raises(StoreError, match="is no URL") as caught:
        read(f"{web.url}/old")
    assert not isinstance(caught.value, Unreachable)


def test_a_length_of_thousands_of_digits_is_passed_over(web) -> None:
    web.claims_in_words = "9" * 5000
    assert read(f"{web.url}/a") == CONTENT


def test_a_small_file_may_not_be_large(web) -> None:
    with pytest.raises(StoreError, match="more than 1000 bytes"):
        get(f"{web.url}/a", 1000)
    assert get(f"{web.url}/a", len(CONTENT)) == CONTENT


def test_nobody_there_is_said_with_the_address() -> None:
    answer = r"does not answer: .*2 times in a row"
    with kept_port() as port, pytest.raises(Unreachable, match=answer) as caught:
        read(f"http://127.0.0.1:{port}/a", attempts=2)
    assert "ip address" in caught.value.hint


def test_silence_is_waited_for_so_long_and_no_longer(web) -> None:
    with cable(urlsplit(web.url).port or 0) as way:
        way.cut_after(70_000, Cut.SILENCE)
        with pytest.raises(Unreachable, match=r"does not answer: no answer in time, 3 times in a row"):
            read(f"http://127.0.0.1:{way.port}/a", silence_seconds=2)


def test_a_report_is_sent_again_until_it_is_taken(web) -> None:
    web.statuses = [500]
    post(f"{web.url}/r", b"{}", waits=(0.0,))
    assert web.sent == [("/r", "application/json", b"{}")]
    web.statuses = [403]
    with pytest.raises(StoreError, match="403"):
        post(f"{web.url}/r", b"{}", waits=(0.0,))


# --- HTTPS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path):
    """A server with a certificate that it signed itself, and what openssl says its fingerprint is."""
    both, key = tmp_path / "both.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=nobody", "-keyout", str(key), "-out", str(both)]
    subprocess.run([*words, *names], check=True, capture_output=True)
    told = subprocess.run(
        ["openssl", "x509", "-in", str(both), "-noout", "-fingerprint", "-sha256"], check=True, capture_output=True
    )
    both.write_bytes(both.read_bytes() + key.read_bytes())
    with serving(both) as server:
        server.files["/a"] = CONTENT
        yield server, told.stdout.decode().strip().partition("=")[2]


@needs_openssl
def test_a_certificate_that_nobody_signed_is_refused(tls) -> None:
    with pytest.raises(StoreError, match="certificate is not accepted: self-signed certificate") as caught:
        read(f"{tls[0].url}/a")
    assert "fingerprint" in caught.value.hint


@needs_openssl
def test_a_certificate_is_accepted_by_the_fingerprint_that_openssl_prints(tls) -> None:
    server, fingerprint = tls
    assert read(f"{server.url}/a", certificate=fingerprint) == CONTENT


@needs_openssl
def test_answers_come_from_a_server_with_that_fingerprint(tls) -> None:
    server, fingerprint = tls
    assert get(f"{server.url}/a", len(CONTENT), certificate=fingerprint) == CONTENT
    with pytest.raises(StoreError, match="not accepted"):
        get(f"{server.url}/a", len(CONTENT))


@needs_openssl
def test_another_certificate_is_refused_before_anything_is_sent(tls) -> None:
    server, fingerprint = tls
    other = ("00" if fingerprint[:2] != "00" else "11") + fingerprint[2:]
    with pytest.raises(StoreError, match="expected was"):
        read(f"{server.url}/a", certificate=other)
    assert not server.asked


@needs_openssl
def test_nothing_leads_from_https_to_http(tls, web) -> None:
    server, fingerprint = tls
    server.redirects["/r"] = f"{web.url}/a"
    with pytest.raises(StoreError, match="not as safe"):
        read(f"{server.url}/r", certificate=fingerprint)
    assert not web.asked
