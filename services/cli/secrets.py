"""`tileq secrets`: the keys that encrypt stored secrets. Reads and writes the stores directly, as `tileq keys` does."""

from typing import Annotated

import typer

from services.cli import output
from services.cli.audit import audit
from services.cli.environment import settings
from services.cli.errors import CommandError
from services.cli.keys import open_store
from services.cli.options import Data

app = typer.Typer(
    no_args_is_help=True, help="Keys that encrypt webhook secrets and receivers' headers (TILEQ_SECRETS_KEY)."
)


@app.command("new-key")
def new_key() -> None:
    """Print a new key for TILEQ_SECRETS_KEY; nothing is stored."""
    from shared import encryption  # noqa: PLC0415

    print(encryption.new_key())


@app.command()
def reencrypt(
    data: Data = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what can't be decrypted.")] = False,
) -> None:
    """Encrypt everything stored with the first key of TILEQ_SECRETS_KEY; the service may run.

    To change the key: add the new one behind the old, restart; put it first, restart; run this; remove the old one,
    restart. Secrets stored in plain, before there was a key, are encrypted too.
    """
    from services.cli.reencrypt import Reencryption  # noqa: PLC0415  # see local_commands.py
    from shared.errors import StorageDown  # noqa: PLC0415
    from shared.s3_storage import S3Storage  # noqa: PLC0415
    from shared.store.secrets import retire_keys, use_keys  # noqa: PLC0415

    with open_store(data) as store:
        found = settings()
        keyring = found.keyring
        if not keyring.ids:
            raise CommandError("TILEQ_SECRETS_KEY is empty; `tileq secrets new-key` makes a key")
        store.run(use_keys(keyring))
        try:
            counts = Reencryption(store, S3Storage(found), keyring, output.note).run()
        except StorageDown as error:
            raise CommandError(
                f"{error.detail}; nothing is lost: run it again, and keep every key until then"
            ) from None
        if counts.failed:
            audit("secrets.reencrypt", keyring.ids[0], "failed", failed=counts.failed)
            raise CommandError(f"{counts.failed} values could not be re-encrypted; keep every key until they can")
        retired = store.run(retire_keys(keyring))
    audit("secrets.reencrypt", keyring.ids[0], changed=counts.changed, retired=retired)
    if not quiet:
        print(f"{counts.changed} values encrypted with the key {keyring.ids[0]}, {counts.unchanged} already were")
        old = ", ".join(id for id in retired if id != keyring.ids[0])
        if old:
            print(f"no stored value needs the key {old} any more; remove it from TILEQ_SECRETS_KEY")
