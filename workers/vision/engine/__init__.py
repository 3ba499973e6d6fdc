"""What turns a prompt and tiles into text: one small interface, several engines."""
