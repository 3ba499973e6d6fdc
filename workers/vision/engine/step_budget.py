"""How much one step may do, from how long the steps before took on this very device."""

from dataclasses import dataclass

SMOOTHING = 0.3  # weight of the newest measurement
MIN_ROWS = 32  # below this a step reads all weights for next to nothing
REGROW_STEPS, MAX_REGROW_STEPS = 32, 4096  #: steps without a shortage of memory before larger ones are tried


@dataclass
class StepBudget:
    """Rows of prompts and tiles of images a step, few enough that running answers are not held up long."""

    most_rows: int
    most_tiles: int
    pause_s: float  #: that running answers may have to wait for a prompt or an image of others
    longest_s: float  #: of any step: a watchdog waits for the end of one
    row_s: float  #: seconds of a row and of a tile: at first estimated, then measured
    tile_s: float
    rows_measured: bool = False  #: the first measurement replaces the estimate, which may be far off
    tiles_measured: bool = False
    _ceiling: tuple[int, int] = (0, 0)  #: rows and tiles before the first shortage of memory
    _fitting_steps: int = 0  #: since the last shortage or growth
    _patience: int = REGROW_STEPS  #: doubles with each shortage, so that a lasting one is met ever more seldom

    def __post_init__(self) -> None:
        """Keep the sizes to grow back to."""
        self._ceiling = self.most_rows, self.most_tiles

    def seconds(self, rows: int, tiles: int) -> float:
        """Seconds of a prompt with so many rows and tiles as far as they were measured, nothing else in its steps."""
        return rows * self.row_s * self.rows_measured + tiles * self.tile_s * self.tiles_measured

    def rows(self, decoding: bool) -> int:
        """Prompt tokens that this step may compute."""
        return _within(self.most_rows, self.pause_s if decoding else self.longest_s, self.row_s, MIN_ROWS)

    def tiles(self, decoding: bool) -> int:
        """Tiles that this step may encode."""
        return _within(self.most_tiles, self.pause_s if decoding else self.longest_s, self.tile_s, 1)

    def took_rows(self, rows: int, seconds: float) -> None:
        """A forward pass of mostly prompt rows took this long."""
        self.row_s = _smooth(self.row_s, seconds / rows) if self.rows_measured else seconds / rows
        self.rows_measured = True

    def took_tiles(self, tiles: int, seconds: float) -> None:
        """The encoder took this long."""
        self.tile_s = _smooth(self.tile_s, seconds / tiles) if self.tiles_measured else seconds / tiles
        self.tiles_measured = True

    def halve(self) -> bool:
        """The device had too little memory for a step of this size; False if steps can't get smaller."""
        before = self.most_rows, self.most_tiles
        self._fitting_steps, self._patience = 0, min(2 * self._patience, MAX_REGROW_STEPS)
        self.most_rows = min(self.most_rows, max(MIN_ROWS, self.most_rows // 2))
        self.most_tiles = max(1, self.most_tiles // 2)
        return before != (self.most_rows, self.most_tiles)

    def fitted(self) -> bool:
        """A step had enough memory; True if the next ones may be larger again, by half of what they are."""
        if self._ceiling == (self.most_rows, self.most_tiles):
            return False
        self._fitting_steps += 1
        if self._fitting_steps < self._patience:
            return False
        rows, tiles = self._ceiling
        self._fitting_steps = 0
        self.most_rows = min(rows, self.most_rows + max(1, self.most_rows // 2))
        self.most_tiles = min(tiles, self.most_tiles + max(1, self.most_tiles // 2))
        return True


def _within(most: int, seconds: float, each: float, least: int) -> int:
    return max(min(least, most), min(most, int(seconds / each)))


def _smooth(old: float, new: float) -> float:
    return old + SMOOTHING * (new - old)
