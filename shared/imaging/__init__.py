"""Image files read with Pillow, alike in intake (headers) and in the vision worker's decoder (pixels)."""
