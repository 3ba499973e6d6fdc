"""What one step computes: tiles to encode, rows of sequences."""

from dataclasses import dataclass

from workers.vision.engine.sequence import Branch, Sequence


@dataclass(frozen=True)
class Chunk:
    """The next `rows` tokens of a branch."""

    sequence: Sequence
    branch: Branch
    start: int
    rows: int

    @property
    def stop(self) -> int:
        """The token behind its last one."""
        return self.start + self.rows

    @property
    def positions(self) -> range:
        """Of its tokens in the sequence."""
        return range(self.start, self.stop)

    @property
    def ids(self) -> list[int]:
        """Its tokens, with 0 for the one that only the device knows."""
        return self.branch.tokens[self.start : self.stop] + [0] * self.has_unread

    @property
    def has_unread(self) -> bool:
        """Whether its last token is one that only the device knows."""
        return self.stop > len(self.branch.tokens)

    @property
    def completes(self) -> bool:
        """Whether it reaches the last token, so that the next one can be chosen."""
        return self.stop == self.branch.length


@dataclass(frozen=True)
class TileWork:
    """A tile to encode."""

    sequence: Sequence
    tile: int

    @property
    def key(self) -> bytes:
        """What identifies its pixels."""
        return self.sequence.tiles.keys[self.tile]


@dataclass(frozen=True)
class Schedule:
    """One step."""

    tiles: tuple[TileWork, ...]
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        """Of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def sequences(self) -> list[Sequence]:
        """Whom the step is for."""
        work: tuple[TileWork | Chunk, ...] = (*self.tiles, *self.chunks)
        return list(dict.fromkeys(one.sequence for one in work))
