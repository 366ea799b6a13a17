"""The server name in the first bytes of a TLS connection.

Role: reads a ClientHello with OpenSSL, so that no parser of our own meets what strangers send. Inputs: bytes as they
come. Must not: answer, decrypt, or keep more than `LIMIT_BYTES`.
"""

from __future__ import annotations

import ssl

# A ClientHello with post-quantum key shares is about 2 KiB; OpenSSL itself gives up on larger ones than this.
LIMIT_BYTES = 16 * 1024


class ClientHello:
    """Grows until `name` is known. `received` is what has to be passed on."""

    def __init__(self) -> None:
        self.received = b""
        self.name: str | None = None
        self._incoming = ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._take_name
        self._tls = context.wrap_bio(self._incoming, ssl.MemoryBIO(), server_side=True)

    def feed(self, data: bytes) -> bool:
        """Take more bytes; True when all that can be known is known, then `name` is the server name or None."""
        self.received += data
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return len(self.received) > LIMIT_BYTES
        except ssl.SSLError:
            # Either we ended the handshake, having heard the name, or these bytes are no TLS.
            return True
        return True

    def _take_name(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        self.name = name
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR  # the handshake is not ours to go on with
