"""What an image library says of a file, as the one line of an error message: parts of it come from the file."""

MAX_CHARACTERS = 300


def fault(error: Exception) -> str:
    """Return the text of `error` in printable characters, white space as single spaces; its kind if it has none."""
    printable = "".join(character if character.isprintable() else " " for character in str(error))
    return " ".join(printable.split())[:MAX_CHARACTERS] or type(error).__name__
