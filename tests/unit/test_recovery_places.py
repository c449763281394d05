# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file system is the stick's data partition."""

from __future__ import annotations

import pytest

from bootmedia.recovery.places import DATA_LABEL, Surroundings, Volume
from imager.errors import StoreError


def around(tmp_path, *volumes):
    def mount(volume, folder, *, is_writable):
        assert is_writable
        folder.mkdir(parents=True)

    return Surroundings(
        medium=tmp_path / "run" / "medium", mounts=tmp_path / "mounts", volumes=lambda: [*volumes], mount=mount
    )


def test_a_partition_of_a_laptop_that_has_the_name_is_left_alone(tmp_path):
    of_the_maker = Volume("/dev/nvme0n1p4", DATA_LABEL, is_on_stick=False)
    assert around(tmp_path, of_the_maker).data_folder() is None
    found = around(tmp_path, of_the_maker, Volume("/dev/sdb3", DATA_LABEL)).data_folder()
    assert found == tmp_path / "mounts" / "dev_sdb3"


def test_two_sticks_are_one_too_many(tmp_path):
    with pytest.raises(StoreError, match=r"/dev/sdb3, /dev/sdc1"):
        around(tmp_path, Volume("/dev/sdb3", DATA_LABEL), Volume("/dev/sdc1", DATA_LABEL)).data_folder()


def test_a_label_that_is_named_is_found_on_every_disk(tmp_path):
    inside = Volume("/dev/sda5", "BACKUP", str(tmp_path), is_on_stick=False)
    assert around(tmp_path, inside).labelled("BACKUP") == tmp_path
