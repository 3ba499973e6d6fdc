"""A Dockerfile as a list of instructions, grouped by the stage they stand in."""

import json
import re
import shlex
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instruction:
    """`word rest`, continued lines joined."""

    word: str
    rest: str

    @property
    def argv(self) -> list[str]:
        """The words of an exec form or of a shell form; of `HEALTHCHECK`, those after `CMD`."""
        rest = self.rest.split(" CMD ", 1)[-1].strip() if self.word == "HEALTHCHECK" else self.rest
        return [str(word) for word in json.loads(rest)] if rest.startswith("[") else shlex.split(rest)


@dataclass
class Stage:
    """One `FROM`, what it stands on, and its own instructions."""

    name: str
    base: str
    own: list[Instruction] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """Read `text`; every stage needs a name."""
    found: dict[str, Stage] = {}
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(name, base)
        else:
            list(found.values())[-1].own.append(Instruction(word, rest.strip()))
    return found


def whole(name: str, known: dict[str, Stage]) -> list[Instruction]:
    """What an image of stage `name` goes through, its bases' instructions first."""
    stage = known[name]
    return (whole(stage.base, known) if stage.base in known else []) + stage.own


def last(word: str, name: str, known: dict[str, Stage]) -> Instruction:
    """The instruction `word` that counts in stage `name`: the last one."""
    return [instruction for instruction in whole(name, known) if instruction.word == word][-1]


def variables(name: str, known: dict[str, Stage]) -> dict[str, str]:
    """What `ENV` sets in stage `name`."""
    pairs = [pair for found in whole(name, known) if found.word == "ENV" for pair in shlex.split(found.rest)]
    return dict(pair.split("=", 1) for pair in pairs)
