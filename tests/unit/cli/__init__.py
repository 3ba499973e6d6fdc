"""The `tileq` command without servers."""
