"""Container images, the training of the demo checkpoint, and the README's settings table."""
