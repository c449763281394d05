# SPDX-License-Identifier: GPL-3.0-or-later
"""What is followed of LUKS, for the support table."""

from __future__ import annotations

from typing import Final

from imager.volumes.base import ManagerDoc

DOC: Final = ManagerDoc(
    name="LUKS1, LUKS2",
    types=("crypto_LUKS",),
    followed=(
        "with `--unlock` and a passphrase or key file, without device-mapper: PBKDF2, Argon2i, Argon2id",
        "a container that this machine has open, without a passphrase",
        "AES in XTS and CBC mode (plain, plain64, plain64be, ESSIV), sectors of 512 to 4096 bytes",
        "whatever lies inside: LVM, any file system of this page",
        "the image holds only used sectors, and only ciphertext; headers and key slots are kept",
    ),
    whole_when=(
        ("locked", "ciphertext looks like noise"),
        ("a re-encryption under way", "parts have different keys, or none"),
        ("integrity tags", "the sectors lie between journals and tags"),
        ("a detached header, several segments, hardware encryption (OPAL)", "where the data lie is not known here"),
        ("another cipher, hash or requirement than those above", "they cannot be decrypted here"),
        ("a first header that is damaged, or headers that disagree", "the other one may be a leftover"),
        ("key slots or data that reach out of their place", "the header is damaged, or another's"),
        ("two containers with one UUID, one of them open", "nothing tells which of them is the open one"),
    ),
    references=("LUKS1 On-Disk Format Specification 1.2.3", "LUKS2 On-Disk Format Specification 1.1.4"),
)
