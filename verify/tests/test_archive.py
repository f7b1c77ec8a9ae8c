"""ZIP files that somebody made to do harm, and that a reader must not follow."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bailiwick_verify.archive import Archive, ArchiveError
from bailiwick_verify.cli import main
from bailiwick_verify.note import Signer
from bailiwick_verify.pack import PackStatement, verify_pack

KEY = Signer("bailiwick/k/default", Ed25519PrivateKey.from_private_bytes(b"k" * 32))


def made(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return target.getvalue()


def opened(tmp_path: Path, data: bytes) -> Archive:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    return Archive(path)


def refused(tmp_path: Path, data: bytes) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught, opened(tmp_path, data):
        pass
    path = tmp_path / "a.zip"
    assert verify_pack(path, [KEY.key]).verdict == "FAIL"
    assert main(["pack", str(path), "--key", str(KEY.key)]) == 1
    return caught.value


def test_a_plain_archive_is_read(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with opened(tmp_path, made(("a/b.txt", b"one\ntwo\n"), ("c", b""), method=method)) as archive:
            assert archive.names == ["a/b.txt", "c"] and "c" in archive
            assert archive.read("a/b.txt", 8) == b"one\ntwo\n"
            assert list(archive.lines("a/b.txt", 3)) == [b"one", b"two"]


@pytest.mark.parametrize(
    "name",
    [
        "../up", "/etc/passwd", "a/../../b", "a//b", "./a", "a/.", "C:/x", "C:x", "a\\b", "..\\b", "~/x", ".hidden", "a/.b",
        "a b", "a\nb", "\u202egnp.exe", "a" * 200, "/".join("a" * 20), "con\x00", "x\ud800"[:1] + "é",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = name
    error = refused(tmp_path, made((info, b"x")))
    assert error.file and error.file.isprintable()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = made(("a", b"1"), ("a", b"2"))
    assert refused(tmp_path, twice).file == "a"
    assert refused(tmp_path, made(("README.md", b"1"), ("readme.MD", b"2"))).file == "readme.MD"
    assert refused(tmp_path, made(("a", b"1"), ("a/b", b"2"))).file == "a/b"


def test_links_folders_and_devices_are_refused(tmp_path: Path) -> None:
    for mode in (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR):
        info = zipfile.ZipInfo("a")
        info.external_attr = (mode | 0o777) << 16
        assert "plain file" in str(refused(tmp_path, made((info, b"/etc/passwd"))))
    assert refused(tmp_path, made(("a/", b"")))


def test_other_methods_and_encryption_are_refused(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "method" in str(refused(tmp_path, made(("a", b"x"), method=method)))
    encrypted = bytearray(made(("a", b"x")))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in str(refused(tmp_path, bytes(encrypted)))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"hidden" + data,
        lambda data: data + b"hidden",
        lambda data: data[:-2] + struct.pack("<H", 6) + b"hidden",
        lambda data: data[: data.index(b"PK\x01\x02")] + b"hidden" + data[data.index(b"PK\x01\x02") :],
        lambda data: data[:-5],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"not a zip at all",
    ],
    ids=["before", "behind", "comment", "between", "cut", "half", "empty", "other"],
)
def test_bytes_that_belong_to_no_file_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    assert refused(tmp_path, change(made(("a", b"x" * 100), ("b", b"y" * 100))))


def test_bytes_between_files_and_files_that_overlap_are_refused(tmp_path: Path) -> None:
    first, second = made(("a", b"1" * 50), method=0), made(("b", b"2" * 50), method=0)
    body = first[: first.index(b"PK\x01\x02")]
    directory, other = _directory(first), bytearray(_directory(second))
    for gap in (b"hidden", b""):
        struct.pack_into("<I", other, 42, len(body) + len(gap))
        bodies = body + gap + second[: second.index(b"PK\x01\x02")]
        data = bodies + directory + bytes(other) + _end(2, len(directory) + len(other), len(bodies))
        if gap:
            assert "no file" in str(refused(tmp_path, data))
        else:
            with opened(tmp_path, data) as archive:
                assert archive.names == ["a", "b"]
    same = bytearray(directory)
    same[46:47] = b"c"
    both = body + directory + bytes(same) + _end(2, 2 * len(directory), len(body))
    assert "overlaps" in str(refused(tmp_path, both))


def _directory(data: bytes) -> bytes:
    return data[data.index(b"PK\x01\x02") : data.index(b"PK\x05\x06")]


def _end(files: int, size: int, at: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, files, files, size, at, 0)


def test_a_name_that_differs_between_header_and_directory_is_refused(tmp_path: Path) -> None:
    data = made(("aaa", b"x"))
    with opened(tmp_path, data.replace(b"aaa", b"bbb", 1)) as archive, pytest.raises(ArchiveError):
        archive.read("aaa", 10)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = made(("manifest.note", bytes(50 << 20)))
    assert len(bomb) < 60_000
    with opened(tmp_path, bomb) as archive, pytest.raises(ArchiveError, match="more than the 65,536"):
        archive.read("manifest.note", 1 << 16)
    assert verify_pack(tmp_path / "a.zip", [KEY.key]).first_bad == "manifest.note"


def test_a_file_that_claims_to_be_smaller_than_it_is_is_refused(tmp_path: Path) -> None:
    data = bytearray(made(("a", bytes(1 << 20))))
    for at in (22, data.index(b"PK\x01\x02") + 24):
        struct.pack_into("<I", data, at, 10)
    with opened(tmp_path, bytes(data)) as archive, pytest.raises(ArchiveError):
        archive.digest("a", 10)


def test_a_file_that_claims_more_than_deflate_can_give_is_refused(tmp_path: Path) -> None:
    data = bytearray(made(("a", b"x")))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 1 << 31)
    assert "more than it can hold" in str(refused(tmp_path, bytes(data)))


def test_a_long_line_is_not_read(tmp_path: Path) -> None:
    with opened(tmp_path, made(("a", b"x" * 100_000 + b"\n"), ("b", b"no end"))) as archive:
        for name in ("a", "b"):
            with pytest.raises(ArchiveError, match="too long"):
                list(archive.lines(name, 1000))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    data = made(("a", b"content" * 100))
    for at in range(35, data.index(b"PK\x01\x02"), 3):
        broken = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
        with opened(tmp_path, broken) as archive, pytest.raises(ArchiveError):
            archive.digest("a", 700)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_bytes_are_changed_nothing_but_a_refusal_happens(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(_PACK)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.zip"
    path.write_bytes(bytes(content))
    report = verify_pack(path, [KEY.key])
    assert report.verdict == "FAIL" and report.findings and report.first_bad


def _minimal() -> bytes:
    manifest = b'{"format":"bailiwick-evidence-pack/v1","files":[]}'
    note = PackStatement.of(KEY.key.name, manifest).signed(KEY, 1)
    return made(("manifest.json", manifest), ("manifest.note", bytes(note)))


_PACK = _minimal()


def test_a_signed_manifest_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for manifest in (
        b"", b"[]", b"{}", b"[" * 100_000, b'{"format":"other"}',
        b'{"format":"bailiwick-evidence-pack/v1"}',
        b'{"format":"bailiwick-evidence-pack/v1","pack":"p","zone":"z","built_at":"","simulated_clock":false}',
        b'{"format":"bailiwick-evidence-pack/v1","pack":"p","zone":"z","built_at":"","simulated_clock":false,"files":5}',
        b'{"format":"bailiwick-evidence-pack/v1","pack":"p","zone":"z","built_at":"","simulated_clock":false,"files":[]}',
        b'{"format":"bailiwick-evidence-pack/v1","pack":"p","zone":"z","built_at":"","simulated_clock":false,'
        b'"files":[{"path":"manifest.json","sha256":"","size":1}]}',
    ):  # fmt: skip
        note = PackStatement.of(KEY.key.name, manifest).signed(KEY, 1)
        path = tmp_path / "a.zip"
        path.write_bytes(made(("manifest.json", manifest), ("manifest.note", bytes(note))))
        report = verify_pack(path, [KEY.key])
        assert report.verdict == "FAIL" and report.first_bad in {"manifest.json", "log/checkpoint"}, manifest


def test_a_file_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    assert main(["pack", str(tmp_path / "nowhere.zip"), "--key", str(KEY.key)]) == 2
