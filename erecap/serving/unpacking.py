"""Bodies in gzip or deflate, unpacked as they come and checked to their end.

A body that was cut short or that has more than one part must not pass as a whole shorter one: servers may write gzip in
several members (RFC 1952, 2.2), and a connection that ends well says nothing about what was packed.
"""

from __future__ import annotations

import zlib

ENCODINGS = ("", "identity", "gzip", "deflate")
_GZIP, _ZLIB, _RAW = 31, 15, -15  # `wbits`


class Unpacker:
    """Unpacks one body.

    Args:
        encoding: one of `ENCODINGS`.
    """

    def __init__(self, encoding: str) -> None:
        self._plain, self._gzip = encoding in ("", "identity"), encoding == "gzip"
        self._part = zlib.decompressobj(_GZIP if self._gzip else _ZLIB)
        self._begun = False  # the part has bytes
        self._padding = False  # zeros follow the last part

    def read(self, chunk: bytes) -> bytes:
        """Unpack the next bytes.

        Raises:
            ValueError: they are damaged.
        """
        if self._plain:
            return chunk
        found = []
        while chunk:
            if self._part.eof or self._padding:
                chunk = self._next(chunk)
                continue
            found.append(self._unpacked(chunk))
            self._begun, chunk = True, self._part.unused_data
        return b"".join(found)

    def end(self) -> None:
        """The body is over.

        Raises:
            ValueError: what was packed is not.
        """
        if self._begun and not self._part.eof:
            raise ValueError("it was cut short")

    def _unpacked(self, chunk: bytes) -> bytes:
        try:
            return self._part.decompress(chunk)
        except zlib.error as error:
            if self._gzip or self._begun:
                raise ValueError(str(error)) from error
        self._part = zlib.decompressobj(_RAW)  # what many servers mean by deflate
        try:
            return self._part.decompress(chunk)
        except zlib.error as error:
            raise ValueError(str(error)) from error

    def _next(self, chunk: bytes) -> bytes:
        """What follows the end of a part: zeros, which say nothing, or, in gzip, another part."""
        rest = chunk.lstrip(b"\0")
        self._padding = self._padding or len(rest) < len(chunk)
        if rest and (self._padding or not self._gzip):
            raise ValueError("bytes follow its end")
        if rest:
            self._part, self._begun = zlib.decompressobj(_GZIP), False
        return rest
