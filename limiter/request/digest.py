"""SHA-256 (FIPS 180-4) without ``hashlib``, which loads OpenSSL: 2 ms, a third of a CGI request."""

import sys


def sha256(value: bytes) -> str:
    """The SHA-256 of a value, as 64 lower-case hexadecimal digits."""
    try:
        module = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    except ImportError:  # this interpreter leaves all hashes to OpenSSL
        import hashlib as module
    digest: str = module.sha256(value).hexdigest()
    return digest
