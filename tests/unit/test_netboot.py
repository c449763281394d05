# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder for a start over the network, judged by dnsmasq, GRUB, cpio and sha256sum; and what its initrd fetches."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bootmedia.cli.app import app
from bootmedia.netboot import NetbootWishes, firmware_names, write_texts
from bootmedia.opened import Opened
from bootmedia.recipes import RECIPE, read_recipe
from bootmedia.served import answers_url, server
from imager.errors import UsageError
from tests.harness.loop import needs_root
from tests.harness.programs import call, missing_tools

URL = "http://192.0.2.1:8080/"
KERNEL = "6.12.0-test"
OPTIONS = "bootmedia.id=0123 console=tty0"

needs_busybox = pytest.mark.skipif(bool(missing_tools("busybox")), reason="busybox is not installed")
needs_dnsmasq = pytest.mark.skipif(bool(missing_tools("dnsmasq")), reason="dnsmasq is not installed")


# --- Addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address", "grub", "port", "own"),
    [
        ("http://192.0.2.1:8080/", None, "(http,192.0.2.1:8080)/", 8080, "192.0.2.1"),
        ("http://192.0.2.1", None, "(http,192.0.2.1)/", 80, "192.0.2.1"),
        ("http://boss.example/a/b", "192.0.2.7", "(http,boss.example)/a/b/", 80, "192.0.2.7"),
    ],
)
def test_a_server_is_named_for_each_program(url, address, grub, port, own):
    served = server(url, address)
    assert (served.grub_files, served.port, str(served.address)) == (grub, port, own)
    assert served.url.endswith("/")


@pytest.mark.parametrize(
    "url",
    [
        "https://192.0.2.1/",
        "ftp://192.0.2.1/",
        "192.0.2.1",
        "http://",
        "http:///live",
        "http://192.0.2.1:0/",
        "http://192.0.2.1:99999/",
        "http://192.0.2.1:x/",
        "http://[2001:db8::1]/",
        "http://user@192.0.2.1/",
        "http://192.0.2.1/a b",
        "http://192.0.2.1/$prefix",
        "http://192.0.2.1/${net0/mac}",
        "http://192.0.2.1/'; reboot; '",
        "http://192.0.2.1/\nreboot",
        "http://192.0.2.1/)evil",
        "http://192.0.2.1/#x",
    ],
)
def test_an_address_that_a_boot_loader_would_misread_is_refused(url):
    with pytest.raises(UsageError, match="--url"):
        server(url, "192.0.2.1")


def test_dnsmasq_needs_an_address_in_numbers():
    with pytest.raises(UsageError, match="needs an IPv4 address"):
        server("http://boss.example/", None)
    with pytest.raises(UsageError, match="--tftp-address 'boss' is not an IPv4 address"):
        server(URL, "boss")


@pytest.mark.parametrize("own", ["192.0.2.1", "192.0.2.100", "192.0.2.150", "192.0.2.199", "192.0.2.254"])
def test_the_addresses_to_give_away_are_others_of_the_same_network(own):
    first, last = (int(text.rpartition(".")[2]) for text in server(f"http://{own}/", None).some_addresses)
    assert 0 < first < last < 255
    assert not first <= int(own.rpartition(".")[2]) <= last


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "224.0.0.1"])  # noqa: S104 - nothing binds to it
def test_what_a_server_listens_on_is_not_where_it_is_found(address):
    with pytest.raises(UsageError, match="the address of no machine"):
        server(f"http://{address}:8080/", None)


@pytest.mark.parametrize("text", ["file:///x", "http://x/a b", "http://x/'", "http://x/$a", "http://x/\\", "x", ""])
def test_answers_that_a_boot_loader_would_misread_are_refused(text):
    with pytest.raises(UsageError, match="--recovery"):
        answers_url(text)


# --- Configurations ---------------------------------------------------------------------------------------------


def texts(folder, options=OPTIONS, **wishes):
    folder.mkdir()
    opened = Opened(Path("vmlinuz"), (), 'imager 1 "recovery"', KERNEL, OPTIONS)
    wished = NetbootWishes(read_recipe("minimal"), server(URL, None), **wishes)
    write_texts(folder, folder, opened, wished, options)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_grub_accepts_the_menu(tmp_path):
    menu = texts(tmp_path / "made")["grub/grub.cfg"]
    call("grub-script-check", input_text=menu)
    assert f"linux (http,192.0.2.1:8080)/live/vmlinuz {OPTIONS} $card" in menu
    assert "@" not in menu


@pytest.mark.parametrize("url", ["http://boss/{mac}.toml", "http://boss/?mac={mac}&key=[1]"])
def test_grub_accepts_the_menu_with_answers_of_each_machine(tmp_path, url):
    menu = texts(tmp_path / "made", f"{OPTIONS} recovery={url}")["grub/grub.cfg"]
    call("grub-script-check", input_text=menu)
    assert f"vmlinuz {OPTIONS} 'recovery={url}' $card" in menu


@needs_dnsmasq
@pytest.mark.parametrize("name", ["dnsmasq-beside.conf", "dnsmasq-alone.conf"])
def test_dnsmasq_accepts_its_configurations(tmp_path, name):
    texts(tmp_path / "made")
    call("dnsmasq", "--test", f"--conf-file={tmp_path / 'made' / name}")


def test_ipxe_is_told_the_same_as_grub(tmp_path):
    script = texts(tmp_path / "made")["boot.ipxe"]
    assert script.startswith("#!ipxe\n")
    assert f"kernel {URL}live/vmlinuz initrd=initrd {OPTIONS} BOOTIF=01-${{netX/mac:hexhyp}} ||" in script


def test_bios_machines_get_the_ipxe_that_was_given(tmp_path):
    ipxe = tmp_path / "a,b #\n.kpxe"
    ipxe.write_bytes(b"ipxe")
    assert "dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe,," in texts(tmp_path / "made", ipxe=ipxe)["dnsmasq-alone.conf"]


def test_the_readme_names_the_folder_and_its_server(tmp_path):
    readme = texts(tmp_path / "made")["README.txt"]
    assert f"python3 -m http.server 8080 --directory {tmp_path / 'made'}" in readme


def test_firmware_is_found_by_the_names_in_modules():
    module = b"x\0firmware=tigon/tg3.bin\0license=GPL\0\0firmware=../../etc/shadow\0firmware=bnx2.fw\0"
    assert firmware_names([module]) == {"tigon/tg3.bin", "bnx2.fw"}


# --- The whole folder -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """An ISO file of the form of a medium, with a kernel that is none."""
    top = tmp_path_factory.mktemp("medium")
    root, tree = top / "root", top / "iso"
    modules = root / "usr/lib/modules" / KERNEL
    names = [
        f"kernel/{name.replace('*', 'x').removesuffix('.ko')}.ko" for name in read_recipe("minimal").network_modules
    ]
    names = [name for name in names if "!" not in name]
    for name in names:
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_bytes(b"\0firmware=tigon/tg3.bin\0")
    (modules / "modules.dep").write_text("".join(f"{name}:\n" for name in names))
    for table in ("alias", "symbols", "softdep", "builtin"):
        (modules / f"modules.{table}").write_text("")
    put(root / "usr/lib/firmware/tigon/tg3.bin", b"firmware")
    put(root / "usr/bin/busybox", b"busybox")
    for name in ("shim/shimx64.efi.signed", "shim/mmx64.efi.signed", "grub/x86_64-efi-signed/grubnetx64.efi.signed"):
        put(root / "usr/lib" / name, name.encode())
    put(root / "usr/lib/grub/i386-pc/bootmedia-pxe.img", b"grub")
    put(tree / "live/vmlinuz", b"kernel")
    put(tree / "boot/grub/grub.cfg", f'menuentry "x" {{\n\tlinux /live/vmlinuz {OPTIONS}\n}}\n'.encode())
    put(tree / "bootmedia/about.json", b'{"title": "imager test", "kernel": "%s"}' % KERNEL.encode())
    call("mksquashfs", root, tree / "live/10-base.squashfs", "-quiet", "-no-progress")
    (root / "usr/bin/busybox").write_bytes(b"a newer busybox")
    call("mksquashfs", root / "usr/bin", tree / "live/20-imager.squashfs", "-quiet", "-no-progress")
    call("xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", top / "medium.iso", tree)
    return top / "medium.iso"


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def netboot(*words):
    return CliRunner().invoke(app, ["netboot", *map(str, words)])


def test_the_folder_is_made_from_the_medium_alone(medium, tmp_path):
    made = tmp_path / "made"
    result = netboot(medium, made, "--url", URL, "--recovery", "http://boss/{mac}.toml")
    assert result.exit_code == 0, result.output
    assert str(made) in result.stdout
    assert (made / "live/vmlinuz").read_bytes() == b"kernel"
    assert (made / "shimx64.efi").read_bytes() == b"shim/shimx64.efi.signed"
    options = f"{OPTIONS} bootmedia.fetch={URL}live recovery=http://boss/{{mac}}.toml"
    assert options in (made / "boot.ipxe").read_text()
    quoted = options.replace("recovery=http://boss/{mac}.toml", "'recovery=http://boss/{mac}.toml'")
    assert quoted in (made / "grub/grub.cfg").read_text()
    assert all(path.stat().st_mode & 0o004 for path in made.rglob("*")), "servers are other users"


def test_the_initrd_knows_the_layers_by_their_digests(medium, tmp_path):
    made, out = tmp_path / "made", tmp_path / "out"
    assert netboot(medium, made, "--url", URL).exit_code == 0
    (tmp_path / "initrd.cpio").write_bytes(call_bytes("zstd", "-dc", made / "live/initrd"))
    call("cpio", "-i", "-d", "--quiet", "-D", out, "-F", tmp_path / "initrd.cpio", "--make-directories")
    lines = [line.split() for line in (out / "layers").read_text().splitlines()]
    assert [name for *_, name in lines] == ["10-base.squashfs", "20-imager.squashfs"]
    for digest, count, name in lines:
        call("sha256sum", "--check", "--strict", input_text=f"{digest}  {made / 'live' / name}\n")
        assert int(count) == (made / "live" / name).stat().st_size
    assert (out / "lib/firmware/tigon/tg3.bin").read_bytes() == b"firmware"
    assert (out / f"lib/modules/{KERNEL}/kernel/drivers/net/virtio_net.ko").exists()


def call_bytes(*words):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True).stdout


def test_answers_are_put_into_the_folder(medium, tmp_path):
    answers = tmp_path / "mine.toml"
    answers.write_text("after = 'reboot'\n")
    made = tmp_path / "made"
    assert netboot(medium, made, "--url", URL, "--answers", answers).exit_code == 0
    assert (made / "recovery.toml").read_text() == answers.read_text()
    assert f"recovery={URL}recovery.toml" in (made / "boot.ipxe").read_text()


def test_the_same_medium_gives_the_same_folder(medium, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1760000000")
    made = tmp_path / "made"
    digests = []
    for _ in range(2):
        assert netboot(medium, made, "--url", URL).exit_code == 0
        paths = sorted(path for path in made.rglob("*") if path.is_file())
        digests.append([(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths])
        shutil.rmtree(made)
    assert digests[0] == digests[1]


def test_a_folder_with_something_in_it_is_left_alone(medium, tmp_path):
    put(tmp_path / "made/mine", b"mine")
    result = netboot(medium, tmp_path / "made", "--url", URL)
    assert result.exit_code == 5
    assert "not an empty folder" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@needs_root
def test_a_full_disk_is_not_taken_for_a_wrong_medium(medium, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small)
    try:
        result = netboot(medium, small / "made", "--url", URL)
        assert list(small.iterdir()) == []
    finally:
        call("umount", small)
    assert result.exit_code == 5, result.output
    assert f"{small} has no room" in result.output


def test_what_is_no_medium_is_said_so(tmp_path):
    (tmp_path / "x.iso").write_bytes(bytes(100_000))
    result = netboot(tmp_path / "x.iso", tmp_path / "made", "--url", URL)
    assert result.exit_code == 4
    assert "is not a medium that bootmedia build made" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["x.iso"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recovery", "http://x/", "--answers", "/dev/null"], "exclude one another"),
        (["--answers", "/nowhere"], "there is no file /nowhere"),
        (["--ipxe", "/nowhere"], "there is no file /nowhere"),
    ],
)
def test_words_that_cannot_be_carried_out_are_refused(medium, tmp_path, words, message):
    result = netboot(medium, tmp_path / "made", "--url", URL, *words)
    assert result.exit_code == 2
    assert message in result.output


def test_a_folder_that_dnsmasq_would_misread_is_refused(medium, tmp_path):
    result = netboot(medium, tmp_path / "a,b", "--url", URL)
    assert result.exit_code == 2
    assert "choose another name" in result.output


# --- What the initrd does ---------------------------------------------------------------------------------------

LAYERS = {"10-base.squashfs": b"base" * 100_000, "20-imager.squashfs": b"imager" * 1000}


@pytest.fixture
def served(tmp_path):
    """A folder with layers on a web server of this machine, and its URL."""
    folder = tmp_path / "live"
    for name, content in LAYERS.items():
        put(folder / name, content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def fetched(tmp_path, url):
    """What the initrd's function says, and what it has fetched: run by busybox with its own tools and nothing else."""
    tools, place = tmp_path / "tools", tmp_path / "fetched"
    tools.mkdir()
    place.mkdir(exist_ok=True)
    call("busybox", "--install", "-s", tools)
    lines = [f"{hashlib.sha256(content).hexdigest()} {len(content)} {name}\n" for name, content in LAYERS.items()]
    (tmp_path / "layers").write_text("".join(lines))
    script = f"""
        PATH={tools}; layers={tmp_path / "layers"}
        say() {{ echo "$*"; }}
        sleep() {{ :; }}
        . {RECIPE}/initrd/network
        patience=  # the wget of busybox 1.35 dies of it; the medium has a newer one
        fetch_layers {url} {place} && echo all-of-it
    """
    done = subprocess.run(["busybox", "sh", "-c", script], check=False, capture_output=True, text=True)
    return done.stdout, {path.name: path.read_bytes() for path in place.iterdir()}


@needs_busybox
def test_layers_are_fetched_whole(tmp_path, served):
    said, files = fetched(tmp_path, served[1])
    assert said.endswith("all-of-it\n")
    assert files == LAYERS


@needs_busybox
def test_what_came_in_part_is_fetched_to_its_end(tmp_path, served):
    put(tmp_path / "fetched/10-base.squashfs", LAYERS["10-base.squashfs"][:5000])
    said, files = fetched(tmp_path, served[1])
    assert said.endswith("all-of-it\n")
    assert files == LAYERS


@needs_busybox
def test_a_layer_of_another_medium_is_refused(tmp_path, served):
    other = b"x" + LAYERS["10-base.squashfs"][1:]
    put(served[0] / "10-base.squashfs", other)
    said, files = fetched(tmp_path, served[1])
    assert "all-of-it" not in said
    assert f"its SHA-256 is {hashlib.sha256(other).hexdigest()} and not" in said
    assert "10-base.squashfs" not in files, "nothing of it is left to be used"


@needs_busybox
def test_a_layer_that_is_too_short_is_refused(tmp_path, served):
    put(served[0] / "20-imager.squashfs", LAYERS["20-imager.squashfs"][:-1])
    said, _ = fetched(tmp_path, served[1])
    assert "all-of-it" not in said
    assert "20-imager.squashfs, attempt 5 of 5: 5999 of 6000 bytes came" in said


@needs_busybox
def test_a_layer_that_is_not_there_is_told(tmp_path, served):
    (served[0] / "10-base.squashfs").unlink()
    said, _ = fetched(tmp_path, served[1])
    assert "all-of-it" not in said
    assert "404 File not found" in said


@needs_busybox
def test_a_server_that_is_off_is_told(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
    said, _ = fetched(tmp_path, url)
    assert "all-of-it" not in said
    assert "attempt 5 of 5: can't connect to remote host (127.0.0.1): Connection refused" in said
