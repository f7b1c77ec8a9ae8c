"""Notes, checkpoints, tiles and receipts, against the specifications' own examples and against everything that is none."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bailiwick_verify.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from bailiwick_verify.merkle import Edge, inclusion_path, leaf_hash
from bailiwick_verify.note import Note, NoteError, Signer, VerifierKey, parse_note
from bailiwick_verify.receipt import Receipt, ReceiptError
from bailiwick_verify.tiles import ENTRIES, Tile, TileError, TileNodes, decode_bundle, encode_bundle, tiles_of

# the key and note of golang.org/x/mod/sumdb/note's documentation
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def signer(name: str = "log.example/default", seed: int = 1) -> Signer:
    return Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def test_a_note_of_another_implementation() -> None:
    note = parse_note(NEUMANN.encode())
    key = VerifierKey.parse(PETER)
    assert key.signed(note)
    assert str(key) == PETER
    assert bytes(note) == NEUMANN.encode()
    with pytest.raises(NoteError, match="not genuine"):
        key.signed(Note(note.text.replace("think", "thought"), note.signatures))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"text\n", b"text\n\n", b"text\n\nnot a signature\n", b"\xff\n\n",
        "text\n\n— name AAAA\n".encode(), "text\n\n— name AAAAAAAA".encode(), "text\n\n— na+me AAAAAAAA\n".encode(),
        "text\n\n— name A===\n".encode(), "te\x01xt\n\n— name AAAAAAAA\n".encode(),
        ("text\n\n" + "— name AAAAAAAA\n" * 65).encode(), b"x" * 70_000,
        "text\n\n— name AAAAAAB=\n".encode(),
    ],
)  # fmt: skip
def test_what_is_no_note(data: bytes) -> None:
    with pytest.raises(NoteError):
        parse_note(data)


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "a+00000000+!!", PETER.replace("c74f20a3", "c74f20a4"), PETER[:-4], "a b" + PETER,
     "x+00000000+" + base64.b64encode(b"\x02" + bytes(32)).decode()],
)  # fmt: skip
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(NoteError):
        VerifierKey.parse(text)


def test_a_checkpoint_tells_size_root_time_and_witnesses() -> None:
    log, witness, stranger = signer(), signer("witness.example/w1", 2), signer("witness.example/w2", 3)
    edge = Edge()
    edge.extend([leaf_hash(b"one")])
    checkpoint = Checkpoint("log.example/default", 1, edge.root())
    note = checkpoint.signed(log, 1_700_000_000)
    note = note.with_signatures([witness.cosign(note.text, 1_700_000_005), stranger.cosign(note.text, 5)])
    opened = open_checkpoint(bytes(note), [log.key], [witness.key.as_cosigner()], quorum=1)
    assert opened.checkpoint == checkpoint
    assert opened.time == 1_700_000_000
    assert opened.witnesses == {"witness.example/w1": 1_700_000_005}
    with pytest.raises(NoteError, match="1 known witnesses"):
        open_checkpoint(bytes(note), [log.key], [witness.key.as_cosigner()], quorum=2)
    with pytest.raises(NoteError, match="no known key"):
        open_checkpoint(bytes(note), [signer(seed=9).key])
    with pytest.raises(NoteError, match="no known key"):
        open_checkpoint(bytes(note), [signer("other.example", 1).key])
    # an old key beside the new one: either is enough
    assert open_checkpoint(bytes(note), [signer(seed=9).key, log.key]).time == 1_700_000_000


def test_a_time_that_was_changed_is_found() -> None:
    log = signer()
    note = Checkpoint("log.example/default", 0, Edge().root()).signed(log, 100)
    line = note.signatures[1]
    forged = dataclasses.replace(line, signature=(101).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(NoteError, match="not genuine"):
        open_checkpoint(bytes(Note(note.text, (note.signatures[0], forged))), [log.key])


def test_one_false_signature_of_a_known_key_condemns_the_note() -> None:
    old, new = signer(seed=1), signer(seed=2)
    note = Checkpoint("log.example/default", 0, Edge().root()).signed(new, 100)
    false = dataclasses.replace(old.sign("something else\n"))
    with pytest.raises(NoteError, match="not genuine"):
        open_checkpoint(bytes(note.with_signatures([false])), [old.key, new.key])


ROOT = base64.b64encode(Edge().root()).decode()


@pytest.mark.parametrize(
    "text",
    ["", "o\n1\n", f"o\n01\n{ROOT}\n", f"o\n-1\n{ROOT}\n", f"o\n1\n{ROOT}", f"o\n1\n{ROOT}\n\n", f"\n1\n{ROOT}\n",
     "o\n1\nAAAA\n", f"o\n{'9' * 30}\n{ROOT}\n", f"o\n١\n{ROOT}\n", f"o\n1\n{ROOT[:-1]}\n"],
)  # fmt: skip
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(text)


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    for read, refusal in (
        (parse_note, NoteError),
        (lambda item: parse_checkpoint(item.decode("utf-8", "replace")), NoteError),
        (Receipt.parse, ReceiptError),
        (decode_bundle, TileError),
        (lambda item: Tile.parse(item.decode("utf-8", "replace")), TileError),
    ):
        try:
            read(data)
        except refusal:
            pass


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 67), "tile/1/067"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(0, 1_000, 8), "tile/0/x001/000.p/8"),
        (Tile(ENTRIES, 5, 255), "tile/entries/005.p/255"),
    ],
)
def test_tile_paths(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    ["tile/0/0", "tile/00/000", "tile/64/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/x000/000", "tile/0/001/000",
     "/tile/0/000", "tile/0/000/", "tile/0/../000", "tile/entries/000.p/", "tile/0/x001/000\n"],
)  # fmt: skip
def test_what_is_no_tile_path(path: str) -> None:
    with pytest.raises(TileError):
        Tile.parse(path)


def test_the_example_of_the_specification() -> None:
    assert [tile.path for tile in tiles_of(70_000)][273:] == [
        "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1",
    ]  # fmt: skip
    assert [tile.path for tile in tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert [tile.path for tile in tiles_of(257, entries=True)] == ["tile/entries/000", "tile/entries/001.p/1"]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles(entries: list[bytes]) -> None:
    data = encode_bundle(entries)
    assert decode_bundle(data) == entries
    if data:
        with pytest.raises(TileError):
            decode_bundle(data + b"\x00")


def test_a_bundle_takes_no_entry_that_its_length_cannot_hold() -> None:
    assert decode_bundle(encode_bundle([b"x" * 65_535])) == [b"x" * 65_535]
    with pytest.raises(TileError):
        encode_bundle([b"x" * 65_536])


def made_receipt(size: int = 300, index: int = 77) -> tuple[Receipt, Signer]:
    entries = [f"entry {n}".encode() for n in range(size)]
    edge = Edge()
    full = edge.extend([leaf_hash(entry) for entry in entries])
    files = {Tile(level, number).path: data for level, number, data, _ in full}
    for level, hashes in enumerate(edge.levels):
        files[Tile(level, (size >> 8 * level) // 256, len(hashes)).path] = b"".join(hashes)
    log = signer()
    path = inclusion_path(index, size, TileNodes(size, lambda tile: files[tile.path]))
    note = Checkpoint("log.example/default", size, edge.root()).signed(log, 42)
    return Receipt(entries[index], index, tuple(path), bytes(note)), log


def test_a_receipt_proves_its_entry_and_no_other() -> None:
    receipt, log = made_receipt()
    read = Receipt.parse(bytes(receipt))
    assert read == receipt
    assert read.verify([log.key]).time == 42
    for changed in (
        dataclasses.replace(receipt, entry=b"entry 78"),
        dataclasses.replace(receipt, index=78),
        dataclasses.replace(receipt, path=receipt.path[:-1]),
        dataclasses.replace(receipt, checkpoint=receipt.checkpoint.replace(b"300", b"301")),
    ):
        with pytest.raises(ReceiptError):
            Receipt.parse(bytes(changed)).verify([log.key])
    with pytest.raises(ReceiptError, match="no known key"):
        receipt.verify([signer(seed=7).key])


@pytest.mark.parametrize(
    "data",
    [b"", b"c2sp.org/tlog-proof@v1\nindex 0\n\n", b"c2sp.org/tlog-proof@v1\nextra AA==\nindex 01\n\nx",
     b"c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\nAAAA\n\nx", b"c2sp.org/tlog-proof@v2\nextra AA==\nindex 0\n\nx",
     b"c2sp.org/tlog-proof@v1\nextra !\nindex 0\n\nx"],
)  # fmt: skip
def test_what_is_no_receipt(data: bytes) -> None:
    with pytest.raises(ReceiptError):
        Receipt.parse(data)
