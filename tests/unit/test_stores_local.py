# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and their parts: nothing has its final name before all of it is stable, and nothing is lost silently."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from imager.errors import ImageIncomplete, StoreError, UsageError
from imager.stores import open_input, open_output

MIB = 1 << 20


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content_of(name):
    with open_input(str(name)) as source:
        buffer = bytearray(source.size)
        assert source.read_into(memoryview(buffer)) == source.size
        return bytes(buffer)


def written(name, content, **options):
    output = open_output(str(name), **options)
    output.write([content[:100], content[100:]])
    return output


def test_a_file_has_its_name_only_after_commit(tmp_path):
    output = written(tmp_path / "i", b"x" * 500)
    assert names(tmp_path) == ["i.partial"]
    output.commit()
    assert names(tmp_path) == ["i"]
    assert content_of(tmp_path / "i") == b"x" * 500


@pytest.mark.parametrize("keep", [False, True])
def test_abort_leaves_what_can_be_resumed_or_nothing(tmp_path, keep):
    written(tmp_path / "i", b"x" * 500).abort(keep=keep)
    assert names(tmp_path) == ["i.partial"] * keep


def test_an_existing_image_is_not_overwritten_silently(tmp_path):
    (tmp_path / "i").write_bytes(b"old")
    with pytest.raises(StoreError, match="exists") as caught:
        open_output(str(tmp_path / "i"))
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize(("split_size", "intruder"), [(None, "i"), (MIB, "i.000"), (MIB, "i.007"), (MIB, "i")])
def test_an_image_made_meanwhile_is_not_replaced(tmp_path, split_size, intruder):
    output = written(tmp_path / "i", b"n" * 2 * MIB, split_size=split_size)
    (tmp_path / intruder).write_bytes(b"theirs")
    with pytest.raises(StoreError, match=rf"{intruder} was made by another program") as caught:
        output.commit()
    output.abort(keep=True)
    assert ".partial" in caught.value.hint
    assert (tmp_path / intruder).read_bytes() == b"theirs"
    assert b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.partial"))) == b"n" * 2 * MIB


def test_a_name_taken_in_the_last_moment_is_not_replaced(tmp_path, monkeypatch):
    output = written(tmp_path / "i", b"n" * 500)
    monkeypatch.setattr(output, "_clear_the_way", lambda: (tmp_path / "i").write_bytes(b"theirs"))
    with pytest.raises(StoreError, match="was made by another program"):
        output.commit()
    assert (tmp_path / "i").read_bytes() == b"theirs"


def test_an_image_with_two_names_is_not_written_into(tmp_path):
    written(tmp_path / "i", b"x" * 500).commit()
    os.link(tmp_path / "i", tmp_path / "i.partial")
    written(tmp_path / "i", b"n" * 900, overwrite=True).abort(keep=False)
    assert (tmp_path / "i").read_bytes() == b"x" * 500


def test_names_are_given_where_hard_links_are_unknown(tmp_path, monkeypatch):
    def refuse(*_names):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    written(tmp_path / "i", b"x" * 500).commit()
    assert names(tmp_path) == ["i"]


def test_a_link_that_leads_nowhere_has_the_name_already(tmp_path):
    (tmp_path / "image").symlink_to("nowhere")
    with pytest.raises(StoreError, match="exists"):
        open_output(str(tmp_path / "image"))
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_leftover_is_not_overwritten_silently(tmp_path):
    (tmp_path / "i.partial").write_bytes(b"old")
    with pytest.raises(StoreError, match="did not finish") as caught:
        open_output(str(tmp_path / "i"))
    assert "--resume" in caught.value.hint


def test_overwriting_keeps_the_old_image_until_commit(tmp_path):
    (tmp_path / "i").write_bytes(b"old")
    output = written(tmp_path / "i", b"n" * 200, overwrite=True)
    assert (tmp_path / "i").read_bytes() == b"old"
    output.commit()
    assert (tmp_path / "i").read_bytes() == b"n" * 200


def test_resuming_appends_behind_what_is_kept(tmp_path):
    written(tmp_path / "i", b"x" * 500).abort(keep=True)
    output = open_output(str(tmp_path / "i"), resume=True)
    assert output.tell() == 500
    output.truncate(300)
    output.write([b"y" * 10])
    output.commit()
    assert content_of(tmp_path / "i") == b"x" * 300 + b"y" * 10


def test_two_writers_are_kept_apart(tmp_path):
    first = open_output(str(tmp_path / "i"))
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError, match="another program"):
            open_output(str(tmp_path / "i"), **options)
    first.abort(keep=False)


@pytest.mark.parametrize("size", [10, MIB, MIB + 1, 3 * MIB, 3 * MIB + 5])
def test_parts_joined_are_the_content(tmp_path, size):
    content = os.urandom(size)
    written(tmp_path / "i", content, split_size=MIB).commit()
    assert names(tmp_path) == [f"i.{number:03d}" for number in range(max(1, -(-size // MIB)))]
    assert content_of(tmp_path / "i") == content == content_of(tmp_path / "i.000")
    with open_input(str(tmp_path / "i")) as source:
        part = bytearray(min(size, 10))
        source.read_at_into(max(0, min(size, MIB) - 5), memoryview(part)[:9])
        assert part[:5] == content[max(0, min(size, MIB) - 5) :][:5]


def test_parts_are_resumed_across_their_borders(tmp_path):
    content = os.urandom(3 * MIB + 7)
    for kept in (0, 5, MIB, MIB + 1, 3 * MIB):
        written(tmp_path / "i", content, split_size=MIB, overwrite=True).abort(keep=True)
        output = open_output(str(tmp_path / "i"), resume=True, split_size=MIB, overwrite=True)
        assert output.tell() == len(content)
        output.truncate(kept)
        output.write([content[kept:]])
        output.commit()
        assert content_of(tmp_path / "i") == content


def test_fewer_parts_replace_more(tmp_path):
    written(tmp_path / "i", os.urandom(3 * MIB), split_size=MIB).commit()
    written(tmp_path / "i", b"small", split_size=MIB, overwrite=True).commit()
    assert names(tmp_path) == ["i.000"]
    written(tmp_path / "i", b"whole", overwrite=True).commit()
    assert names(tmp_path) == ["i"]


def test_a_missing_part_is_named(tmp_path):
    written(tmp_path / "i", os.urandom(3 * MIB), split_size=MIB).commit()
    (tmp_path / "i.001").unlink()
    with pytest.raises(ImageIncomplete, match="part 001"):
        open_input(str(tmp_path / "i.000"))


def test_parts_that_were_not_all_renamed_are_unfinished(tmp_path):
    written(tmp_path / "i", os.urandom(2 * MIB), split_size=MIB).commit()
    (tmp_path / "i.000").rename(tmp_path / "i.000.partial")
    with pytest.raises(ImageIncomplete, match="not finished"):
        open_input(str(tmp_path / "i.001"))


def test_missing_folders_are_not_made(tmp_path):
    with pytest.raises(StoreError, match="No such file") as caught:
        open_output(str(tmp_path / "no" / "i"))
    assert "folders are not made" in caught.value.hint


def test_folders_and_disks_are_no_images(tmp_path):
    with pytest.raises(StoreError, match="not a file"):
        open_output(str(tmp_path))
    with pytest.raises(StoreError, match="Is a directory"):
        open_input(str(tmp_path))


def test_a_full_disk_is_told_with_its_name(tmp_path, monkeypatch):
    output = open_output(str(tmp_path / "i"))
    monkeypatch.setattr(os, "writev", lambda fd, pieces: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(StoreError, match=r"cannot write to .*i\.partial: No space left") as caught:
        output.write([b"x"])
    assert "--resume" in caught.value.hint
    output.abort(keep=False)


def test_a_file_that_grows_too_large_gets_the_hint_to_split(tmp_path, monkeypatch):
    output = open_output(str(tmp_path / "i"))
    monkeypatch.setattr(os, "writev", lambda fd, pieces: (_ for _ in ()).throw(OSError(errno.EFBIG, "File too large")))
    with pytest.raises(StoreError) as caught:
        output.write([b"x"])
    assert "--split" in caught.value.hint
    output.abort(keep=False)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, [bytes(pieces[0])[:7]]))
    output = open_output(str(tmp_path / "i"))
    output.write([b"a" * 20, b"", b"b" * 9])
    output.commit()
    assert content_of(tmp_path / "i") == b"a" * 20 + b"b" * 9


def test_a_device_takes_a_stream():
    with pytest.raises(StoreError, match="No space left"):
        open_output("/dev/full").write([b"x"])


def test_a_pipe_is_a_stream(tmp_path):
    os.mkfifo(tmp_path / "p")
    found: list[bytes] = []

    def read():
        with open_input(str(tmp_path / "p")) as source:
            buffer = bytearray(100)
            assert not source.seekable
            found.append(bytes(buffer[: source.read_into(memoryview(buffer))]))

    thread = threading.Thread(target=read)
    thread.start()
    output = open_output(str(tmp_path / "p"))
    output.write([b"hello"])
    output.commit()
    thread.join()
    assert found == [b"hello"]


def test_a_reader_that_went_away_is_told(tmp_path):
    os.mkfifo(tmp_path / "p")
    reader = os.open(tmp_path / "p", os.O_RDONLY | os.O_NONBLOCK)
    output = open_output(str(tmp_path / "p"))
    os.close(reader)
    with pytest.raises(StoreError, match="Broken pipe"):
        output.write([b"x"])
    output.abort(keep=False)


@pytest.mark.parametrize("options", [{"resume": True}, {"split_size": MIB}])
def test_streams_cannot_be_split_or_resumed(options):
    with pytest.raises(UsageError, match="is a stream"):
        open_output("-", **options)


def test_tiny_parts_are_refused(tmp_path):
    with pytest.raises(UsageError, match="too small"):
        open_output(str(tmp_path / "i"), split_size=1000)


@pytest.mark.parametrize(("before", "now"), [(None, MIB), (MIB, None), (2 * MIB, MIB)])
def test_resuming_with_another_split_is_refused(tmp_path, before, now):
    written(tmp_path / "i", os.urandom(3 * MIB), split_size=before).abort(keep=True)
    with pytest.raises(StoreError, match="another --split"):
        open_output(str(tmp_path / "i"), resume=True, split_size=now)


def test_resuming_nothing_starts(tmp_path):
    output = open_output(str(tmp_path / "i"), resume=True)
    assert output.tell() == 0
    output.abort(keep=False)
    assert names(tmp_path) == []


def test_a_name_like_that_of_a_part_is_refused(tmp_path):
    with pytest.raises(UsageError, match="part of a split image"):
        open_output(str(tmp_path / "i.001"))


def test_an_image_is_readable_by_its_owner_only(tmp_path):
    output = open_output(str(tmp_path / "image"))
    output.write([b"secrets"])
    output.commit()
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o600


def test_a_file_that_ends_earlier_than_when_it_was_opened_is_the_stores_fault_and_not_the_images(tmp_path):
    """So FUSE tells of a server that is lost."""
    written(tmp_path / "i", b"x" * 500).commit()
    with open_input(str(tmp_path / "i")) as source:
        os.truncate(tmp_path / "i", 300)
        with pytest.raises(StoreError, match="ends at byte 300 now, and had 500 bytes"):
            source.read_at_into(200, memoryview(bytearray(300)))


def test_what_cannot_even_be_closed_any_more_was_read_all_the_same(tmp_path):
    """As with a share whose server is gone: close(2) gives EIO."""
    written(tmp_path / "i", b"x" * 500).commit()
    source = open_input(str(tmp_path / "i"))
    os.close(source._fds[0])
    source.close()


@pytest.mark.parametrize("length", [250, 5000])
def test_a_name_that_is_too_long_is_a_store_error(tmp_path, length):
    for opened in (open_input, open_output):
        with pytest.raises(StoreError, match="too long"):
            opened(str(tmp_path / ("x" * length)))


def test_no_image_is_made_among_the_devices():
    with pytest.raises(StoreError, match="not a file"):
        open_output("/dev/imager-test-nowhere")
