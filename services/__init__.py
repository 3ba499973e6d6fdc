"""What clients touch: the HTTP intake and the `tileq` command."""
