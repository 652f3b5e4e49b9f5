"""Signatures are strict, and keys are kept where only their owner reads them."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.ed25519 import SigningKey, verify_ed25519
from blyan.errors import PermanentError

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493

SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
"""Every encoding of a point of order 1, 2, 4 or 8, those that are not canonical included (Chalkias, Garillot and Nikolaenko, 2020)."""

IDENTITY = bytes.fromhex(SMALL_ORDER[2])


def accepted_by_openssl(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [  # RFC 8032, section 7.1, tests 1 to 3
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_the_vectors_of_the_rfc(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify_ed25519(key.public, bytes.fromhex(message), bytes.fromhex(signature))


def test_openssl_accepts_a_key_of_small_order_with_a_signature_that_nobody_made_and_this_does_not() -> None:
    """The identity as key and as R, s = 0: the equation holds for every message."""
    signature = IDENTITY + bytes(32)
    for message in (b"anything", b"at all"):
        assert accepted_by_openssl(IDENTITY, message, signature), "the negative control: the attack is real"
        assert not verify_ed25519(IDENTITY, message, signature)


@pytest.mark.parametrize("key", SMALL_ORDER)
@pytest.mark.parametrize("nonce", SMALL_ORDER)
def test_no_key_of_small_order_signs_anything(key: str, nonce: str) -> None:
    for number in range(8):
        assert not verify_ed25519(bytes.fromhex(key), b"message %d" % number, bytes.fromhex(nonce) + bytes(32))


def test_a_nonce_of_small_order_is_refused_though_the_equation_holds() -> None:
    """R is the identity and s = k·a: only the owner can make it, and no honest signer does."""
    seed = bytes(range(32))
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & ((1 << 254) - 8) | (1 << 254)
    key, message = SigningKey(seed), b"message"
    challenge = int.from_bytes(hashlib.sha512(IDENTITY + key.public + message).digest(), "little") % ORDER
    signature = IDENTITY + (challenge * scalar % ORDER).to_bytes(32, "little")
    assert accepted_by_openssl(key.public, message, signature), "the negative control"
    assert not verify_ed25519(key.public, message, signature)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80))
def test_a_signature_has_one_form(seed: bytes, message: bytes) -> None:
    key = SigningKey(seed)
    signature = key.sign(message)
    assert verify_ed25519(key.public, message, signature)
    assert Ed25519PrivateKey.from_private_bytes(seed).sign(message) == signature
    scalar = int.from_bytes(signature[32:], "little")
    for turn in range(1, 9):  # s + L, s + 2L, ... as long as 256 bits hold it
        assert not verify_ed25519(key.public, message, signature[:32] + (scalar + turn * ORDER).to_bytes(32, "little"))
    for high in (0x20, 0x40, 0x80):
        assert not verify_ed25519(key.public, message, signature[:63] + bytes([signature[63] | high]))
    assert not verify_ed25519(key.public, message + b"\0", signature)
    assert not verify_ed25519(SigningKey(hashlib.sha256(seed).digest()).public, message, signature)


@settings(deadline=None)
@given(st.integers(0, 511), st.integers(0, 255))
def test_any_flipped_bit_is_noticed(bit: int, key_bit: int) -> None:
    key, message = SigningKey(b"\7" * 32), b"message"
    signature = int.from_bytes(key.sign(message), "big") ^ (1 << bit)
    public = int.from_bytes(key.public, "big") ^ (1 << key_bit)
    assert not verify_ed25519(key.public, message, signature.to_bytes(64, "big"))
    assert not verify_ed25519(public.to_bytes(32, "big"), message, key.sign(message))


def test_a_key_that_is_not_in_canonical_form_or_no_point_verifies_nothing() -> None:
    for value in range(P, 2**255):
        for sign in (0, 1 << 255):
            assert not verify_ed25519((value | sign).to_bytes(32, "little"), b"", IDENTITY + bytes(32))
    assert not verify_ed25519((2).to_bytes(32, "little"), b"", bytes(64)), "y = 2 is on no point"


@pytest.mark.parametrize(("public", "signature"), [(31, 64), (33, 64), (0, 64), (32, 63), (32, 65), (32, 0)])
def test_bytes_of_another_length_are_no_signature(public: int, signature: int) -> None:
    assert not verify_ed25519(bytes(public), b"", bytes(signature))


def test_a_key_is_kept_for_its_owner_alone_and_openssl_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one.pem"
    before = os.umask(0)
    try:
        key = SigningKey.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert SigningKey.load(path).public == key.public
    assert key.public.hex() in repr(key)
    assert key._pair.secret().hex() not in repr(key)
    with pytest.raises(PermanentError, match="there is a file already"):
        SigningKey.create(path)
    assert SigningKey.load(path).sign(b"x") == key.sign(b"x"), "it was not overwritten"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "one.pem"
    SigningKey.create(path)
    path.chmod(mode)
    with pytest.raises(PermanentError, match=f"others may read the key: its mode is {mode:04o}.*chmod 600"):
        SigningKey.load(path)


def test_a_file_that_holds_no_such_key_is_refused(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data, why in [(b"", "no private key"), (b"\0" * 32, "no private key"), (locked, "without a password"), (other, "another kind")]:
        path = tmp_path / "key.pem"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(PermanentError, match=why):
            SigningKey.load(path)
    with pytest.raises(PermanentError, match="cannot be read"):
        SigningKey.load(tmp_path / "none.pem")
