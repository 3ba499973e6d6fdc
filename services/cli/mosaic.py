"""An image in a terminal: two pixels a character, the upper one its foreground and the lower one its background."""

import io

from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

_UPPER_HALF = "▀"


def mosaic(png: bytes, width: int) -> Segments:
    """Return the PNG at most `width` characters wide, for rich to print."""
    from PIL import Image  # noqa: PLC0415  # extra `local`; other commands do without

    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    wide = min(width, image.width)
    high = max(2, round(image.height * wide / image.width) // 2 * 2)
    small = image.resize((wide, high), Image.Resampling.BOX)
    pixels = small.tobytes()

    def colour(x: int, y: int) -> Color:
        at = (y * wide + x) * 3
        return Color.from_rgb(*pixels[at : at + 3])

    segments = []
    for y in range(0, high, 2):
        segments += [Segment(_UPPER_HALF, Style(color=colour(x, y), bgcolor=colour(x, y + 1))) for x in range(wide)]
        segments.append(Segment.line())
    return Segments(segments)


def tile_diagram(columns: int, rows: int, thumbnail: bool) -> str:
    """Return the tile grid in ASCII, for terminals without colours."""
    edge = "+" + "------+" * columns
    lines = [edge]
    for row in range(rows):
        lines.append("|" + "".join(f"{row * columns + column + 1:^6}|" for column in range(columns)))
        lines.append(edge)
    if thumbnail:
        for at, part in enumerate((edge[:1] + "-" * 9 + "+", "|thumbnail|", "+---------+")):
            lines[at] += "  " + part
    return "\n".join(lines)
