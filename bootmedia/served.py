# SPDX-License-Identifier: GPL-3.0-or-later
"""Where machines find what they start from: a URL, an address, and the words that name them in each configuration.

All words go into files that GRUB, iPXE, dnsmasq and the kernel's command line read, each with its own idea of special
characters. So only characters that mean nothing to any of them are let in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from imager.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9._~:/@%+=,&?{}\[\]-]+")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._~:/@%+=-]+")
_LAST_OF_A_NETWORK = 254


@dataclass(frozen=True)
class Server:
    """A web server and TFTP server as machines see them."""

    url: str
    """Of the folder, with a slash at its end."""
    address: ipaddress.IPv4Address
    """Of the server of TFTP and DHCP."""

    @property
    def port(self) -> int:
        """Where the web server listens."""
        return urlsplit(self.url).port or 80

    @property
    def path(self) -> str:
        """The folder's path on the web server."""
        return urlsplit(self.url).path

    @property
    def grub_files(self) -> str:
        """The folder as GRUB names it: its device stands in brackets."""
        return f"(http,{urlsplit(self.url).netloc}){self.path}"

    @property
    def some_addresses(self) -> tuple[str, str]:
        """Addresses beside the server's own, in a network of 256, for a DHCP server to give away."""
        network = ipaddress.ip_network(f"{self.address}/24", strict=False)
        own = int(self.address) - int(network.network_address)
        first = 100 if own < 100 or own > 199 else (200 if own < 150 else 2)
        return str(network[first]), str(network[min(first + 99, _LAST_OF_A_NETWORK)])


def server(url: str, address: str | None) -> Server:
    """The server by the words of a command.

    Raises:
        UsageError: One of them is not what it has to be.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--url {url!r}: {error}") from error
    if parts.scheme != "http" or not parts.hostname or port == 0:
        raise UsageError(
            f"--url {url!r} is not the address of a web server: http://SERVER[:PORT]/[PATH/] is expected",
            hint="HTTPS is of no use here: what starts a machine checks no certificate. The initrd checks digests.",
        )
    if not _PLAIN_PATH.fullmatch(url) or "@" in parts.netloc or parts.netloc.count(":") > 1:
        raise UsageError(f"--url {url!r} has characters that a boot loader would take for something else")
    return Server(url.rstrip("/") + "/", _address(address or parts.hostname, is_given=address is not None))


def _address(text: str, *, is_given: bool) -> ipaddress.IPv4Address:
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError as error:
        if is_given:
            raise UsageError(f"--tftp-address {text!r} is not an IPv4 address") from error
        raise UsageError(
            f"--url names its server {text!r}, and dnsmasq needs an IPv4 address",
            hint="Give it with --tftp-address: that of the machine that dnsmasq runs on.",
        ) from error
    if found.is_unspecified or found.is_multicast or found.is_reserved:
        raise UsageError(
            f"{found} is the address of no machine",
            hint="Give the server's own in this network: `ip address` shows it.",
        )
    return found


def answers_url(text: str) -> str:
    """The URL of answers, when it can stand on a kernel's command line.

    Raises:
        UsageError: It cannot.
    """
    if not re.match(r"https?://", text) or not _PLAIN.fullmatch(text):
        raise UsageError(
            f"--recovery {text!r} is not a URL that a boot loader passes on as it is",
            hint="http:// or https://, without spaces, quotes and $; write them as %20 and so on.",
        )
    return text


def web_servers(served: Server, folder: Path) -> str:
    """Lines for the README: programs that serve the folder at the URL."""
    return "\n".join(f"       {line}".rstrip() for line in _web_server_lines(served, folder))


def _web_server_lines(served: Server, folder: Path) -> Iterator[str]:
    if served.path == "/":
        yield f"python3 -m http.server {served.port} --directory {folder}"
        yield ""
        yield f"nginx:   server {{ listen {served.port}; root {folder}; }}"
    else:
        yield f"nginx:   location {served.path} {{ alias {folder}/; }}"
