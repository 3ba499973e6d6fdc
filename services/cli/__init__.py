"""The `tileq` command."""
