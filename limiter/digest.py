"""SHA-256 (FIPS 180-4) without ``hashlib``, which loads OpenSSL: 2 ms, a third of a CGI request."""

import sys


def sha256(value: bytes) -> str:
    """Its SHA-256, in lower-case hexadecimal digits."""
    try:
        module = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    except ImportError:  # an interpreter that leaves all such to OpenSSL
        import hashlib as module
    digest: str = module.sha256(value).hexdigest()
    return digest
