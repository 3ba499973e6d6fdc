"""Text to token ids and back, from the released files of the family."""
