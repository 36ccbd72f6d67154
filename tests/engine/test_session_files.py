"""The file below a session: two openers, damage, a full disk, moved and changed images, many objects."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from e2sam.data.corrections import CorrectionSet
from e2sam.data.io import read_stack
from e2sam.data.masks import MaskCrop
from e2sam.data.session import Change, Conditions, NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import SessionError, StackError

SIZE = (20, 30)


def new_object(x0: int, y0: int, width: int = 3) -> NewObject:
    return NewObject(MaskCrop(np.ones((2, width), bool), x0, y0))


def begin(path: Path) -> Session:
    session = Session.open(path)
    session.add_stack(ChannelStack(np.zeros((1, *SIZE), np.uint8), (ChannelSpec("a"),)))
    return session


def write_image(path: Path, seed: int = 0) -> ChannelStack:
    pixels = np.random.default_rng(seed).integers(0, 255, (2, *SIZE), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})
    return ChannelStack(pixels, (ChannelSpec("a"), ChannelSpec("b")), source=path)


class TestTwoOpeners:
    def test_the_second_reads_and_is_told_why(self, tmp_path: Path) -> None:
        with begin(tmp_path / "a.e2sam") as first:
            first.accept(1, (), new_object(0, 0))
            with Session.open(tmp_path / "a.e2sam") as second:
                assert second.is_read_only and not first.is_read_only
                assert second.message.startswith("a.e2sam is open in process")
                with pytest.raises(SessionError, match="is open in process"):
                    second.accept(1, (), new_object(5, 5))
                with pytest.raises(SessionError, match="is open in process"):
                    second.undo()
                assert len(second.objects()) == 1
                changes: list[Change] = []
                second.subscribe(changes.append)
                assert not second.refresh()
                first.accept(1, (), new_object(9, 9))
                assert second.refresh()
                assert len(second.objects()) == 2
                assert [change.kind for change in changes] == ["refresh"]
        with Session.open(tmp_path / "a.e2sam") as third:
            assert not third.is_read_only

    def test_another_process_holds_it_and_its_death_frees_it(self, tmp_path: Path) -> None:
        begin(tmp_path / "a.e2sam").close()
        script = (
            "import sys, time\n"
            "from e2sam.data.session import Session\n"
            "session = Session.open(sys.argv[1])\n"
            "print('open', session.is_read_only, flush=True)\n"
            "time.sleep(60)\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a.e2sam")], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open False\n"
            with Session.open(tmp_path / "a.e2sam") as second:
                assert second.is_read_only
                assert f"process {child.pid}" in second.message
        finally:
            child.kill()
            child.communicate()
        with Session.open(tmp_path / "a.e2sam") as third:
            assert not third.is_read_only
            third.accept(1, (), new_object(0, 0))

    def test_asked_for_read_only_takes_no_lock(self, tmp_path: Path) -> None:
        begin(tmp_path / "a.e2sam").close()
        with Session.open(tmp_path / "a.e2sam", read_only=True) as reader:
            assert reader.message == ""
            with Session.open(tmp_path / "a.e2sam") as writer:
                assert not writer.is_read_only
            with pytest.raises(SessionError, match="read-only"):
                reader.set_view({})
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.e2sam"], "nothing is left beside it"

    def test_a_folder_that_cannot_be_written_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with begin(tmp_path / "a.e2sam") as session:
            session.accept(1, (), new_object(0, 0))
        monkeypatch.setattr("os.access", lambda path, mode: False)
        with Session.open(tmp_path / "a.e2sam") as session:
            assert session.is_read_only
            assert "cannot be written here" in session.message
            assert len(session.objects()) == 1
            assert [entry.name for entry in tmp_path.iterdir()] == ["a.e2sam"]


class TestDamage:
    def check_refused(self, path: Path, message: str) -> None:
        before = path.read_bytes()
        with pytest.raises(SessionError, match=message) as caught:
            Session.open(path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before, "the file is untouched"
        assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing is left beside it"
        # Nothing keeps it locked either.
        with pytest.raises(SessionError, match=message):
            Session.open(path)

    def test_missing(self, tmp_path: Path) -> None:
        for options in ({"create": False}, {"read_only": True}):
            with pytest.raises(SessionError, match="got none"):
                Session.open(tmp_path / "a.e2sam", **options)
        assert list(tmp_path.iterdir()) == []
        for wrong in (tmp_path, None, 5, "a\0", "a" * 5000):
            with pytest.raises(SessionError) as caught:
                Session.open(wrong)  # type: ignore[arg-type]
            assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n" * 100, bytes(4096)])
    def test_another_kind_of_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.e2sam").write_bytes(content)
        self.check_refused(tmp_path / "a.e2sam", "another kind")

    def test_another_database(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "a.e2sam") as connection:
            connection.execute("CREATE TABLE t (a)")
        connection.close()
        self.check_refused(tmp_path / "a.e2sam", "another SQLite file")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_cut_short(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "a.e2sam"
        with begin(path) as session:
            for x in range(20):
                session.accept(1, (), new_object(x, x % 18))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        self.check_refused(path, "damaged")

    def test_overwritten_pages(self, tmp_path: Path) -> None:
        path = tmp_path / "a.e2sam"
        with begin(path) as session:
            for x in range(20):
                session.accept(1, (), new_object(x, x % 18))
        content = bytearray(path.read_bytes())
        content[4096 : 4096 * 6] = b"\xaa" * (4096 * 5)
        path.write_bytes(content)
        self.check_refused(path, "damaged")

    def test_newer_format(self, tmp_path: Path) -> None:
        path = tmp_path / "a.e2sam"
        begin(path).close()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA user_version=99")
        connection.close()
        self.check_refused(path, "got 99: update e2sam")

    def test_nowhere_to_write(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(SessionError, match="Expected"):
            Session.open(tmp_path / "file" / "a.e2sam")


class TestFullDisk:
    def test_an_action_that_does_not_fit_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "a.e2sam"
        with begin(path) as session:
            session.accept(1, (), new_object(0, 0))
            state = session.state()
            connection = session._journal._connection
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages}")
            noise = np.random.default_rng(0).random((20, 30)) < 0.5
            changes: list[Change] = []
            session.subscribe(changes.append)
            with pytest.raises(SessionError, match=r"disk of .* is full: nothing accepted was lost"):
                for _ in range(50):
                    session.accept_many(
                        1, (), [NewObject(MaskCrop.of(np.roll(noise, shift, axis=0))) for shift in range(20)]
                    )
            kept = len(session.objects())
            assert kept == 1 + 20 * len(changes)
            assert (session.state() == state) == (not changes)
            connection.execute("PRAGMA max_page_count=1000000")
            session.accept(1, (), new_object(4, 4))
        with Session.open(path) as session:
            assert len(session.objects()) == kept + 1

    def test_a_file_size_limit_of_the_system(self, tmp_path: Path) -> None:
        """The write itself fails, as on a full or failing disk; run in a process of its own, for the limit stays."""
        script = (
            "import resource, signal, sys\n"
            "import numpy as np\n"
            "from e2sam.data.masks import MaskCrop\n"
            "from e2sam.data.session import NewObject, Session\n"
            "from e2sam.errors import SessionError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "session = Session.open(sys.argv[1])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
            "generator, count = np.random.default_rng(0), 0\n"
            "try:\n"
            "    while True:\n"
            "        session.accept(1, (), NewObject(MaskCrop.of(generator.random((20, 30)) < 0.5)))\n"
            "        count += 1\n"
            "except SessionError as error:\n"
            "    assert len(session.objects()) == count, (len(session.objects()), count)\n"
            "    print(count, error, flush=True)\n"
        )
        begin(tmp_path / "a.e2sam").close()
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "a.e2sam")],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        count, message = done.stdout.split(maxsplit=1)
        assert "nothing accepted was lost" in message
        with Session.open(tmp_path / "a.e2sam") as session:
            assert len(session.objects()) == int(count) > 0


class TestImages:
    def test_a_moved_image_is_asked_for(self, tmp_path: Path) -> None:
        stack = write_image(tmp_path / "one.tif")
        with Session.open(tmp_path / "a.e2sam") as session:
            record = session.add_stack(stack)
            assert session.missing_stacks() == ()
            np.testing.assert_array_equal(session.load_stack(record.id).read(), stack.read())
            (tmp_path / "new").mkdir()
            shutil.move(tmp_path / "one.tif", tmp_path / "new" / "one.tif")
            assert session.missing_stacks() == (record,)
            with pytest.raises(SessionError, match="say where it is now"):
                session.load_stack(record.id)
            write_image(tmp_path / "other.tif", seed=1)
            with pytest.raises(SessionError, match="another content"):
                session.relocate(record.id, tmp_path / "other.tif")
            with pytest.raises(SessionError, match="can be read"):
                session.relocate(record.id, tmp_path / "nothing.tif")
            (found,) = session.find_missing(tmp_path / "new")
            assert found.paths == (tmp_path / "new" / "one.tif",)
            assert session.missing_stacks() == ()

    def test_a_changed_image_is_noticed(self, tmp_path: Path) -> None:
        with Session.open(tmp_path / "a.e2sam") as session:
            record = session.add_stack(write_image(tmp_path / "one.tif"))
            assert session.changed_stacks() == ()
            write_image(tmp_path / "one.tif", seed=1)
            assert session.changed_stacks() == (record,)
            session.accept(record.id, (), new_object(0, 0))
            (image,) = CorrectionSet.from_session(session).images
            with pytest.raises(SessionError, match=r"content of one\.tif when its objects were made"):
                image.load()
            session.accept_changed(record.id)
            assert session.changed_stacks() == ()
            assert image.load().size == SIZE

    def test_the_same_content_is_the_same_stack(self, tmp_path: Path) -> None:
        with Session.open(tmp_path / "a.e2sam") as session:
            first = session.add_stack(write_image(tmp_path / "one.tif"))
            second = session.add_stack(write_image(tmp_path / "two.tif", seed=1))
            assert (first.id, second.id) == (1, 2)
            assert session.add_stack(write_image(tmp_path / "one.tif")) == first
            shutil.move(tmp_path / "one.tif", tmp_path / "moved.tif")
            again = session.add_stack(write_image(tmp_path / "moved.tif"))
            assert (again.id, again.paths) == (1, (tmp_path / "moved.tif",))
            assert len(session.stacks()) == 2

    def test_files_that_differ_between_the_samples_are_two_stacks(self, tmp_path: Path) -> None:
        with Session.open(tmp_path / "a.e2sam") as session:
            records = []
            for name in ("one", "two", "copy"):
                pixels = np.zeros((1, 2000, 3000), np.uint8)
                pixels[0, 500, 100 if name == "two" else 200] = 255
                path = tmp_path / f"{name}.npy"
                np.save(path, pixels)
                stack = ChannelStack(np.load(path, mmap_mode="r"), (ChannelSpec("a"),), source=path)
                records.append(session.add_stack(stack))
            assert [record.id for record in records] == [1, 2, 1]
            assert [session.add_stack(replace(stack, source=record.paths[0])).id for record in records[:2]] == [1, 2]
            assert session.changed_stacks() == ()

    def test_layers_that_differ_in_one_pixel_are_two_stacks(self, tmp_path: Path) -> None:
        with Session.open(tmp_path / "a.e2sam") as session:
            for column in (5, 6):
                pixels = np.zeros((1, 1000, 1000), np.uint16)
                pixels[0, 5, column] = 7
                session.add_stack(ChannelStack(pixels, (ChannelSpec("a"),)), name="layer", paths=[])
            assert len(session.stacks()) == 2

    def test_a_full_hash_notices_one_changed_byte_of_a_large_file(self, tmp_path: Path) -> None:
        path = tmp_path / "large.npy"
        np.save(path, np.zeros((1, 2000, 3000), np.uint8))
        stack = ChannelStack(np.load(path, mmap_mode="r"), (ChannelSpec("a"),), source=path)
        with Session.open(tmp_path / "a.e2sam") as session:
            record = session.add_stack(stack, full_hash=True)
            assert record.content.startswith("full:")
            with path.open("r+b") as file:
                file.seek(3_333_333)
                file.write(b"\x01")
            assert session.changed_stacks() == (record,)
        with Session.open(tmp_path / "b.e2sam") as session:
            record = session.add_stack(stack)
            with path.open("ab") as file:
                file.write(b"\0")
            assert session.changed_stacks() == (record,)

    def test_a_folder_of_planes_is_one_stack(self, tmp_path: Path) -> None:
        (tmp_path / "planes").mkdir()
        for name in "ab":
            tifffile.imwrite(tmp_path / "planes" / f"{name}.tif", np.full(SIZE, ord(name), np.uint8))
        stack = ChannelStack(
            np.zeros((2, *SIZE), np.uint8), (ChannelSpec("a"), ChannelSpec("b")), source=tmp_path / "planes"
        )
        with Session.open(tmp_path / "a.e2sam") as session:
            record = session.add_stack(stack)
            assert session.load_stack(record.id).read()[1, 0, 0] == ord("b")
            tifffile.imwrite(tmp_path / "planes" / "b.tif", np.zeros(SIZE, np.uint8))
            assert session.changed_stacks() == (record,)
            with pytest.raises(StackError, match="can be read"):
                shutil.rmtree(tmp_path / "planes")
                session.add_stack(stack)

    def test_a_list_of_files_comes_back_in_its_order(self, tmp_path: Path) -> None:
        for number in (1, 2, 3, 10):
            tifffile.imwrite(tmp_path / f"s_B{number}.tif", np.full(SIZE, number, np.uint8))
        lists = ((3, 2, 1), (1, 2, 3), (1, 2), (1, 10, 2, 3))
        with Session.open(tmp_path / "a.e2sam") as session:
            for number, order in enumerate(lists, start=1):
                files = [tmp_path / f"s_B{band}.tif" for band in order]
                record = session.add_stack(read_stack(files))
                assert (record.id, record.paths) == (number, tuple(files))
                assert session.add_stack(read_stack(files)) == record
        with Session.open(tmp_path / "a.e2sam") as session:
            for number, order in enumerate(lists, start=1):
                again = session.load_stack(number, unchanged=True)
                assert again.names == tuple(f"B{band}" for band in order)
                assert again.read()[:, 0, 0].tolist() == list(order)

    def test_a_list_and_its_folder_are_one_stack_only_in_one_order(self, tmp_path: Path) -> None:
        (tmp_path / "f").mkdir()
        files = [tmp_path / "f" / f"s_B{number}.tif" for number in (1, 10, 2)]
        for value, path in enumerate(files):
            tifffile.imwrite(path, np.full(SIZE, value, np.uint8))
        with Session.open(tmp_path / "a.e2sam") as session:
            assert session.add_stack(read_stack(tmp_path / "f")).id == 1
            assert session.add_stack(read_stack(files)).id == 2
            files[1].unlink()
            assert session.add_stack(read_stack(tmp_path / "f")).id == 3
            assert session.add_stack(read_stack([files[0], files[2]])).id == 3


def test_two_thousand_objects_stay_fast(tmp_path: Path) -> None:
    """Bounds are wide, for the machine may be busy; the usual figures are 1 ms to accept and 0.5 ms to list."""
    generator = np.random.default_rng(0)
    stack = ChannelStack(np.zeros((156, 2, 2), np.uint8), tuple(ChannelSpec(f"band {index}") for index in range(156)))
    conditions = Conditions(stack.names, (), "abc")
    with Session.open(tmp_path / "a.e2sam") as session:
        big = ChannelStack(np.broadcast_to(np.uint8(0), (156, 2048, 2048)), stack.channels)
        session.add_stack(big)
        masks = [
            MaskCrop.of(generator.random((30, 30)) < 0.7, *(int(value) for value in generator.integers(0, 2000, 2)))
            for _ in range(2000)
        ]
        session.accept_many(1, (), [NewObject(mask, conditions=conditions) for mask in masks[:-40]])
        seconds = []
        for mask in masks[-40:]:
            start = time.perf_counter()
            session.accept(1, (), NewObject(mask, conditions=conditions))
            seconds.append(time.perf_counter() - start)
        assert statistics.median(seconds) < 0.03
        start = time.perf_counter()
        assert len(session.objects(1, ())) == 2000
        assert time.perf_counter() - start < 0.02
        start = time.perf_counter()
        session.labels_in(1, (), session.object(2000).box)
        assert time.perf_counter() - start < 0.05
        assert session.path.stat().st_size < 3_000_000, "156 channel names are stored once, not with each object"
    start = time.perf_counter()
    with Session.open(tmp_path / "a.e2sam") as session:
        assert len(session.objects()) == 2000
    assert time.perf_counter() - start < 3


def test_names_of_today_hold_until_something_is_made(tmp_path: Path) -> None:
    pixels = np.zeros((2, *SIZE), np.uint8)
    before, after = (ChannelStack(pixels, tuple(map(ChannelSpec, names))) for names in (("a", "b"), ("red", "range")))
    with Session.open(tmp_path / "a.e2sam") as session:
        session.add_stack(before)
        session.set_selection(1, ("b",))
        session.set_alignment(1, {"b": (2.0, 0.0)})
        record = session.add_stack(after)
        assert (record.id, record.channels, record.selection) == (1, after.channels, ("range",))
        assert dict(record.alignment) == {"range": (2.0, 0.0)}
        session.accept(1, (), new_object(0, 0))
        assert session.add_stack(before).channels == after.channels


def test_one_file_read_with_another_channel_axis_is_another_stack(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((4, 4, *SIZE))
    stack = ChannelStack(pixels, tuple(ChannelSpec(f"c{number}") for number in range(4)), leading="Z")
    with Session.open(tmp_path / "a.e2sam") as session:
        assert [session.add_stack(stack, reading={"channel_axis": axis}).id for axis in (0, 1, 0)] == [1, 2, 1]
