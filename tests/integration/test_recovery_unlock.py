# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery.toml with keys of encrypted partitions: found, tried on the image, and told when they are wrong."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bootmedia.recovery.errors import AnswersWrong
from bootmedia.recovery.places import DATA_LABEL, Found, Surroundings, Volume, image_source
from bootmedia.recovery.reading import read_answers
from bootmedia.recovery.unlocking import unlocked
from imager.cli.app import app
from imager.errors import StoreError, UsageError
from tests.harness.programs import call, missing_tools
from tests.harness.stacks import MIB, gpt_with, made
from tests.integration.test_recovery_run import FACTS

MISSING = missing_tools("cryptsetup", "qemu-img", "mke2fs", "sfdisk")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "tools")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A stick's data partition: an image with a container that nobody opened, a right key and a wrong one."""
    folder = tmp_path_factory.mktemp("stick")
    plain, secret = made("ext4", folder / "plain", 12 * MIB, "-L", "inner"), folder / "secret"
    with secret.open("wb") as file:
        file.truncate(16 * MIB)
    call("cryptsetup", "luksFormat", "-q", "--type", "luks1", "--iter-time", "1", secret, "-", input_text="word")
    call("qemu-img", "convert", "-n", "--object", "secret,id=s,data=word", "-f", "raw", plain, "--target-image-opts",
         f"driver=luks,file.filename={secret},key-secret=s")  # fmt: skip
    disk = gpt_with(folder, 20 * MIB, (16 * MIB, secret))
    (folder / "keys").mkdir()
    (folder / "keys/right").write_text("word")
    (folder / "keys/wrong").write_text("word\n")
    assert CliRunner().invoke(app, ["capture", str(disk), str(folder / "a.zst"), "--quiet"]).exit_code == 0
    return folder


def seen(data, more):
    text = f'[match]\nany = true\n[[restore]]\nimage = "a.zst"\ntarget = "only"\n{more}\n'
    answers = read_answers(text.encode(), "recovery.toml")
    around = Surroundings(volumes=lambda: [Volume("/dev/sdz3", DATA_LABEL, str(data))])
    found = Found(answers, "recovery.toml", data)
    source = image_source(answers.restore[0], found, FACTS, around)
    with source.open() as image:
        about = image.description
    return unlocked([(answers.restore[0], source, about)], found, around)[:2]


def test_a_key_opens_the_image_for_the_plan(data):
    [layout], secrets = seen(data, 'unlock = ["1:keys/right"]')
    content = layout.partitions[0].content
    assert secrets == {content.uuid: b"word"}
    assert [(each.type, each.label) for each in content.inside] == [("ext4", "inner")]
    assert content.uuid == call("cryptsetup", "luksUUID", data / "secret").strip()


def test_without_keys_nothing_is_opened(data):
    [layout], secrets = seen(data, "")
    assert (layout.partitions[0].content.inside, secrets) == ((), {})


@pytest.mark.parametrize(
    ("more", "kind", "told"),
    [
        ('unlock = ["1:keys/wrong"]', UsageError, "opens none of the 1 key slots"),
        ('unlock = ["1:keys/none"]', StoreError, "there is no .*keys/none"),
        ('unlock = ["2:keys/right"]', AnswersWrong, "partition 2 of the image is no LUKS container"),
        ('unlock = ["disk:keys/right"]', AnswersWrong, "the disk itself of the image is no LUKS container"),
        ('unlock = ["1:https://nas/key"]', AnswersWrong, "must be a file, not a URL"),
        ('unlock = ["1"]', AnswersWrong, "unlock"),
        ('unlock = "1:keys/right"', AnswersWrong, "unlock"),
        ('grow_volume = "vg0/root"', AnswersWrong, "grow_volume belongs to grow"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(data, more, kind, told):
    with pytest.raises(kind, match=told):
        seen(data, more)
