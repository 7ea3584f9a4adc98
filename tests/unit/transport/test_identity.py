"""Identities: what is written down, what is signed, what is kept."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.transport.identity import Identity, IdentityKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "identity" / "signatures.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["about"])
def test_the_vectors_hold(vector):
    """Written with nothing but an Ed25519 library, from the words of docs/reference/protocol.md."""
    identity = Identity(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_key"])))
    parts = [bytes.fromhex(part) for part in vector["parts"]]
    assert str(identity.key) == vector["identity"]
    assert identity.sign(vector["purpose"], *parts).hex() == vector["signature"]
    key = IdentityKey.parse(vector["identity"])
    assert key.verify(bytes.fromhex(vector["signature"]), vector["purpose"], *parts)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_written_in_one_way(raw):
    key = Identity(ed25519.Ed25519PrivateKey.from_private_bytes(raw)).key
    text = str(key)
    assert len(text) == len("ed25519:") + 52
    assert IdentityKey.parse(text) == key


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.upper(),
        lambda text: text.replace("ed25519", "ed448"),
        lambda text: text[:-1],
        lambda text: text + "=",
        lambda text: text + "\n",
        lambda text: text[:-1] + "b",  # the last character carries one bit; these set others
        lambda text: text[:20] + "1" + text[21:],
        lambda text: "",
    ],
)
def test_anything_else_is_refused(change):
    text = str(Identity(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))).key)
    with pytest.raises(InvalidInput) as refused:
        IdentityKey.parse(change(text))
    assert refused.value.code == "invalid_identity"


PRIME = 2**255 - 19
POINTS_OF_SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]


@pytest.mark.parametrize(
    "raw",
    [
        *[bytes.fromhex(text) for text in POINTS_OF_SMALL_ORDER],
        *[bytes.fromhex(text[:-2]) + bytes([int(text[-2:], 16) | 0x80]) for text in POINTS_OF_SMALL_ORDER],
        PRIME.to_bytes(32, "little"),
        (PRIME + 1).to_bytes(32, "little"),
        (2**255 - 1).to_bytes(32, "little"),
        b"short",
    ],
    ids=bytes.hex,
)
def test_a_key_for_which_anybody_can_sign_is_none(raw):
    with pytest.raises(InvalidInput) as refused:
        IdentityKey(raw)
    assert refused.value.code == "invalid_identity"


def test_the_library_would_take_such_a_signature():
    """Why these keys are refused: R = the neutral point and s = 0 is a signature of the neutral point over anything."""
    neutral = bytes.fromhex(POINTS_OF_SMALL_ORDER[1])
    key = ed25519.Ed25519PublicKey.from_public_bytes(neutral)
    for message in (b"whatever", b"something else"):
        assert key.verify(neutral + bytes(32), message) is None
        with pytest.raises(InvalidSignature):
            key.verify(neutral + bytes([1] + 31 * [0]), message)


PARTS = st.lists(st.binary(max_size=40), max_size=4)


@given(PARTS, PARTS, st.sampled_from(["identity", "control"]), st.sampled_from(["identity", "control"]))
def test_a_signature_is_good_for_its_purpose_and_parts_only(parts, others, purpose, other):
    identity = Identity.make()
    signature = identity.sign(purpose, *parts)
    assert identity.key.verify(signature, purpose, *parts)
    assert identity.key.verify(signature, other, *others) == ((purpose, parts) == (other, others))
    assert not Identity.make().key.verify(signature, purpose, *parts)


def test_what_is_no_signature_is_not_good():
    identity = Identity.make()
    for signature in (b"", b"x" * 63, b"x" * 64, b"x" * 65, bytes(64)):
        assert not identity.key.verify(signature, "identity", b"nonce")


def test_an_identity_is_made_once_and_kept_for_its_owner(tmp_path):
    path = tmp_path / "data" / "identity.pem"
    made = Identity.load_or_make(path)
    assert Identity.load_or_make(path).key == made.key
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["identity.pem"]


def _load(path: str, results: multiprocessing.queues.Queue[str]) -> None:
    results.put(str(Identity.load_or_make(Path(path)).key))


def test_processes_that_begin_at_once_get_the_same(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_load, args=(str(tmp_path / "identity.pem"), results)) for _ in range(4)]
    for process in processes:
        process.start()
    keys = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(keys) == 1


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None]
)
def test_a_damaged_file_is_told_and_stays(tmp_path, content):
    path = tmp_path / "identity.pem"
    if content is None:  # a key, but of another kind
        other = x25519.X25519PrivateKey.generate()
        content = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(content)
    with pytest.raises(InvalidConfig) as refused:
        Identity.load_or_make(path)
    assert refused.value.code == "identity_damaged"
    assert str(path) in refused.value.detail
    assert path.read_bytes() == content
