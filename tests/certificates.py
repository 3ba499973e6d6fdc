"""A certificate authority for tests, made with the `openssl` command."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """`folder/ca.pem` and the certificates that it signed, `folder/NAME.pem` with `folder/NAME.key`."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "Authority":
        """Make an authority in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = cls(folder)
        authority._openssl("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority",
                           "-days", "30", "-addext", "basicConstraints=critical,CA:TRUE",
                           "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
        return authority

    @property
    def ca_file(self) -> str:
        """Path of the authority's certificate."""
        return str(self.folder / "ca.pem")

    def issue(self, name: str, alternative: str = "IP:127.0.0.1") -> tuple[str, str]:
        """Return the paths of a certificate for `alternative` and of its key."""
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\n")
        self._openssl("req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", f"{name}.pem",
                      "-days", "20", "-extfile", f"{name}.ext")  # fmt: skip
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def server_context(self, name: str, alternative: str = "IP:127.0.0.1", *, asks: bool = False) -> ssl.SSLContext:
        """Return the context of a server for `alternative`; with `asks`, it demands a client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue(name, alternative))
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca_file)
        return context

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)
