"""A measured figure, beside the bound that it is to keep if it has one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure with its unit."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_most: bool = False  #: the bound is the largest value that is good, else the smallest

    @property
    def met(self) -> bool | None:
        """Whether the figure keeps its bound; None without one."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def row(self) -> tuple[str, str, str, str]:
        """Name, figure, goal, met or missed."""
        goal = "" if self.bound is None else f"{'<=' if self.at_most else '>='} {self.bound:.15g} {self.unit}"
        return (
            self.name,
            f"{float(f'{self.value:.3g}'):.15g} {self.unit}",
            goal,
            {None: "", True: "met", False: "missed"}[self.met],
        )
