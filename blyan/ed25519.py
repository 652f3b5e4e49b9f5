"""Ed25519: the one way in which signatures are checked here, and the files that keys are kept in.

Belongs here: verification, and a signing key with its file. Does not belong here: what is signed; whoever signs puts a name of its
own before the message, so that a signature of one kind never counts as one of another.

`verify_ed25519` is `verify_strict` of ed25519-dalek, through solders: the equation of RFC 8032, section 5.1.7, without the cofactor
(s·B = R + k·A), and neither A nor R of small order, and s below the order of the group. A key of small order signs every message for
everybody (`cryptography`, which is OpenSSL, accepts that), and s plus the order would be a second signature of the same message.
"""

from __future__ import annotations

import os
from pathlib import Path

from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from blyan.errors import PermanentError

PUBLIC_BYTES, SIGNATURE_BYTES, SEED_BYTES = 32, 64, 32


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is the owner's, by the strict rules above; bytes of another length are no key and no signature.

    Args:
        public: 32 bytes.
        message: what was signed.
        signature: 64 bytes.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    return bool(Signature.from_bytes(signature).verify(Pubkey.from_bytes(public), message))


class SigningKey:
    """A private key.

    Args:
        seed: 32 secret bytes, the private key of RFC 8032.
    """

    def __init__(self, seed: bytes) -> None:
        self._pair = Keypair.from_seed(seed)
        self.public = bytes(self._pair.pubkey())

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes that sign a message; always the same."""
        return bytes(self._pair.sign_message(message))

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """Make a key and keep it in a new file that only its owner may read: PKCS #8 in PEM, as OpenSSL has it.

        Raises:
            PermanentError: there is a file already.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = Ed25519PrivateKey.generate()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise PermanentError("there is a file already", where=str(path), remedy="keys are never overwritten: choose another name") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        return cls(key.private_bytes_raw())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read the file that `create` made.

        Raises:
            PermanentError: there is no such file, others may read it, or it holds something else.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            with path.open("rb") as file:
                mode, data = os.fstat(file.fileno()).st_mode & 0o777, file.read()
        except OSError as error:
            raise PermanentError(f"the key cannot be read: {error.strerror}", where=str(path), remedy="`blyan chain key FILE` makes one") from error
        if mode & 0o077:
            raise PermanentError(f"others may read the key: its mode is {mode:04o}", where=str(path), remedy=f"chmod 600 {path}")
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise PermanentError("it holds no private key without a password", where=str(path), remedy="`blyan chain key FILE` makes one") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise PermanentError("it holds a key of another kind", where=str(path), remedy="`blyan chain key FILE` makes an Ed25519 key")
        return cls(key.private_bytes_raw())
