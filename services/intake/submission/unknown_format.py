"""What a file is that is no image of an accepted format, as an error message names it."""

NO_KNOWN_TYPE = "of no known type"
_SIGNATURES = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon"),
    (b"SIMPLE  =", "FITS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x1f\x8b", "gzip; send the image uncompressed"),
    (b"PK\3\4", "a ZIP archive; send each image as a part of its own"),
    (b"GIF8", "a broken GIF"),
)
_BRANDS = ((b"heic", "HEIC"), (b"mif1", "HEIF"), (b"jxl ", "JPEG XL"), (b"qt  ", "a video"))
_FORM = "a form takes the file itself (curl: -F image=@FILE)"
_URL = f'a URL, which goes into `images` of a JSON body as {{"url": "https://…"}}; {_FORM}'
_TEXTS = (
    ("http://", _URL),
    ("https://", _URL),
    ("s3://", f"a URL that is not fetched: {_FORM}"),
    ("file://", f"the name of a file: {_FORM}"),
    ("data:", f"a data URI, which goes into `images` of a JSON body; {_FORM}"),
    ("<svg", "SVG"),
    ("<?xml", "XML or SVG"),
    ("<", "HTML or SVG"),
    ("{", "JSON"),
)


def describe(start: bytes) -> str:
    """Return what the first bytes of a file show, as the complement of "is"."""
    for signature, name in _SIGNATURES:
        if start.startswith(signature):
            return name
    if start[4:8] == b"ftyp":
        return next((name for brand, name in _BRANDS if brand in start[8:32]), "a video")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return NO_KNOWN_TYPE
    shown = text.decode("ascii").lower()
    return next((name for prefix, name in _TEXTS if shown.startswith(prefix)), f"text: {_FORM}")
