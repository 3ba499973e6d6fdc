"""PUTs of small objects on the event loop: `minio` builds and signs the request, aiohttp sends it.

For an image of 200 KB that takes 0.4 ms of CPU, `minio` and urllib3 in a thread 0.8.
"""

import ssl

import aiohttp
from yarl import URL

from shared.connections.s3_client import CONNECT_TIMEOUT_S, SignedPut
from shared.settings.storage import StorageSettings


class ObjectPuts:
    """Sends signed PUTs over connections that it keeps. One event loop uses it."""

    def __init__(self, settings: StorageSettings, connections: int) -> None:
        self._ca_file = settings.s3_ca_file or None
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=settings.s3_timeout)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def send(self, put: SignedPut) -> bool:
        """Send `put` once; return whether the server has stored the object, which it may have even so."""
        session = self._session = self._session or self._connect(put)
        try:
            async with session.put(
                URL(put.url, encoded=True),
                data=put.body,
                headers=put.headers,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding"),
            ) as answer:
                await answer.read()
                return answer.status == 200
        except (aiohttp.ClientError, OSError):  # TimeoutError is one
            return False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _connect(self, put: SignedPut) -> aiohttp.ClientSession:
        tls = ssl.create_default_context(cafile=self._ca_file) if put.url.startswith("https:") else True
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=tls)
        return aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
