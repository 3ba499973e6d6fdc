"""The mutation check: bugs put in by hand, one after the other, each of which the tests must notice.

`make mutants` copies the tree, changes one place in it, and runs the tests that are to fail there (`--whole`: all of
them; `--chaos`: also those mutants that the chaos harness must notice). It exits 1 when a mutant survives.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LUA = "shared/store/lua"
STORE = "tests/integration/shared/test_transitions.py"
MODEL = "tests/integration/shared/test_protocol.py"


@dataclass(frozen=True)
class Mutant:
    """One bug: in `file`, `old` (found exactly once) becomes `new`; `tests` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    chaos: tuple[str, ...] = ()  #: faults under which the service with this bug breaks its promise


FENCE = "if j.state == 'running' and j.attempt == attempt then return j end"
FINISH = "if j.state ~= 'running' or j.attempt ~= ARGV[2] then return {0, {}, 1, 0} end"
REARM = "call('ZADD', P .. 'outbox', stamp(now + math.min(60, tonumber(ARGV[1]) * 2 ^ (hints - 1))), id)"

MUTANTS = (
    Mutant(
        "no fencing of heartbeats",
        f"{LUA}/prelude.lua",
        FENCE,
        FENCE.replace(" and j.attempt == attempt", ""),
        (STORE,),
    ),
    Mutant(
        "no fencing of finish",
        f"{LUA}/finish.lua",
        FINISH,
        "if j.state ~= 'running' then return {0, {}, 1, 0} end",
        (STORE,),
    ),
    Mutant(
        "no re-arming of the outbox",
        f"{LUA}/dispatch.lua",
        REARM,
        "call('ZREM', P .. 'outbox', id)",
        (STORE,),
        ("kill_worker",),
    ),
    Mutant(
        "jobs are overtaken for ever",
        f"{LUA}/claim.lua",
        "if (tonumber(j.passes) or 0) >= tonumber(ARGV[5]) then break end",
        "",
        ("tests/integration/shared/test_claim_order.py",),
    ),
    Mutant(
        "affinity across tenants",
        f"{LUA}/claim.lua",
        "if cached[tenant .. '/' .. key] or cached['/' .. key] then",
        "if cached['acme/' .. key] or cached['other/' .. key] or cached['/' .. key] then",
        ("tests/integration/shared/test_claim_order.py",),
    ),
    Mutant(
        "a key's jobs go before everybody's",
        "services/intake/submission/priority.py",
        "return PRIORITIES.index(asked) < PRIORITIES.index(most)",
        "return False",
        ("tests/unit/intake/test_priority.py",),
    ),
    Mutant(
        "no fencing of batches",
        f"{LUA}/prelude.lua",
        "return b.fence == tostring(fence) and b.status == status",
        "return b.status == status",
        ("tests/unit/intake/batches",),
    ),
    Mutant(
        "a batch stays where it stood in its file",
        f"{LUA}/submit.lua",
        "call('HSET', key, 'offset', lines.offset, 'line', lines.line)",
        "call('HSET', key, 'line', lines.line)",
        ("tests/unit/intake/batches",),
    ),
    Mutant(
        "no submission publishes a hint while a job is ready",
        f"{LUA}/submit.lua",
        "if fewer_ready(model, order.many_ready) then",
        "if fewer_ready(model, 1) then",
        ("tests/integration/shared/test_hints.py",),
    ),
    Mutant(
        "hints are not passed on",
        "workers/vision/worker.py",
        "if claimed.more and pass_on:",
        "if False:",
        ("tests/unit/vision/test_worker.py",),
    ),
    Mutant("heartbeats past the deadline", f"{LUA}/heartbeat.lua", " and not late then", " then", (STORE,)),
    Mutant(
        "hints acknowledged before the end",
        "shared/broker.py",
        "task_acks_late=True",
        "task_acks_late=False",
        ("tests/integration/shared/test_broker.py",),
    ),
    Mutant(
        "addresses judged by is_global alone",
        "shared/outbound/ssrf.py",
        "return address.is_global and not address.is_multicast and not is_listed(address, _DENIED)",
        "return address.is_global",
        ("tests/unit/shared/outbound",),
    ),
    Mutant(
        "an image by URL is fetched again by every attempt",
        "workers/vision/images/url_images.py",
        "if image.url and attempt.images[n].sha256 is None]",
        "if image.url]",
        ("tests/unit/vision/test_url_images.py",),
    ),
    Mutant(
        "an attempt stores an image although it lost its lease",
        "workers/vision/images/url_images.py",
        "        attempt.check()  # an attempt that lost",
        "        pass  # an attempt that lost",
        ("tests/unit/vision/test_url_images.py",),
    ),
    Mutant(
        "a redirect is followed without a check of its URL",
        "workers/vision/images/url_client.py",
        "                target = check_url(url, self._policy)",
        "                target = check_url(url, replace(self._policy, ports=tuple(range(1, 65536)), http=True))",
        ("tests/unit/vision/images/test_url_client.py",),
    ),
    Mutant(
        "images are decoded however much of them is missing",
        "workers/vision/images/truncated.py",
        "if missing > max_missing_rows * image.height:",
        "if missing > image.height:",
        ("tests/unit/vision/images",),
    ),
    Mutant(
        "truncated images are decoded for good once one was",
        "workers/vision/images/truncated.py",
        "        ImageFile.LOAD_TRUNCATED_IMAGES = False",
        "        ImageFile.LOAD_TRUNCATED_IMAGES = True",
        ("tests/unit/vision/images",),
    ),
    Mutant(
        "lost attempts are not counted",
        f"{LUA}/reap.lua",
        "charged(j) >= tonumber(j.max_attempts)",
        "false",
        (STORE,),
        ("poison",),
    ),
    Mutant(
        "last attempts run beside others",
        "workers/vision/isolation.py",
        "while self._together or self._alone:",
        "while False:",
        ("tests/unit/vision/test_isolation.py",),
    ),
    Mutant(
        "results overwrite one another",
        "shared/storage.py",
        'return f"jobs/{job}/result-{attempt}.json"',
        'return f"jobs/{job}/result-1.json"',
        ("tests/unit/vision", "tests/unit/reconciler"),
    ),
    Mutant(
        "a slot that was woken waits on",
        f"{LUA}/prelude.lua",
        "local first = call('ZPOPMIN', P .. 'waiting:' .. model)",
        "local first = call('ZRANGE', P .. 'waiting:' .. model, 0, 0, 'WITHSCORES')",
        ("tests/integration/shared/test_hints.py",),
    ),
    Mutant(
        "answers are not archived",
        f"{LUA}/prelude.lua",
        "call('ZADD', P .. 'unarchived', stamp(now), id)",
        "if to ~= 'succeeded' then call('ZADD', P .. 'unarchived', stamp(now), id) end",
        ("tests/unit/shared/test_ended.py",),
    ),
    Mutant(
        "ends are archived in plain",
        "shared/ended.py",
        "if not key:",
        "if job:",
        ("tests/unit/shared/test_ended.py",),
    ),
    Mutant(
        "ended jobs are cancelled again",
        f"{LUA}/cancel.lua",
        "if not is_active(j.state) then return {'already_ended', {}} end\n",
        "",
        (STORE,),
    ),
    Mutant(
        "an Idempotency-Key is anybody's",
        f"{LUA}/prelude.lua",
        "if r.token ~= idem.token then return false end",
        "",
        (STORE,),
    ),
    Mutant(
        "a demoted primary is asked for ever",
        "shared/connections/redis_client.py",
        "isinstance(error, ReadOnlyError | MasterDownError |",
        "isinstance(error, MasterDownError |",
        ("tests/integration/shared/test_failover.py",),
        ("fail_over",),
    ),
)


@contextmanager
def mutated(mutant: Mutant | None) -> Iterator[Path]:
    """A copy of the tree with the bug in it; None: with no bug."""
    with tempfile.TemporaryDirectory(prefix="tileq-mutant-") as name:
        copy = Path(name) / "tree"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for path in filter(None, listed.split("\0")):
            if (ROOT / path).is_file():
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, copy / path)
        make_environment(copy)
        if mutant:
            file = copy / mutant.file
            file.write_text(changed(file.read_text(), mutant))
        yield copy


def make_environment(copy: Path) -> None:
    """Make an environment for the copy: what is installed here, but the project's packages are those of the copy."""
    venv.create(copy / ".venv", with_pip=False)
    (site,) = (copy / ".venv" / "lib").glob("python*/site-packages")
    (site / "copy.pth").write_text(f"{copy}\n{sysconfig.get_path('purelib')}\n")


def changed(text: str, mutant: Mutant) -> str:
    """Return the text of the mutant's file with the bug in it. `ValueError`: the place is not there exactly once."""
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} times, not once")
    return text.replace(mutant.old, mutant.new)


def killed(copy: Path, command: Sequence[str]) -> bool:
    """Run Python with the arguments `command` on the copy and tell whether it failed as tests fail: exit status 1."""
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}  # weed is there
    python = str(copy / ".venv" / "bin" / "python")
    done = subprocess.run([python, *command], cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def commands(mutant: Mutant, *, whole: bool, chaos: bool) -> Iterator[tuple[str, list[str]]]:
    """What must fail, and the command."""
    yield "tests", command_of(["tests/unit", "tests/integration"] if whole else mutant.tests)
    if chaos and mutant.chaos:
        yield "chaos", ["-m", "tests.chaos", "--minutes", "0.1", "--only", *mutant.chaos]


def command_of(tests: Iterable[str]) -> list[str]:
    """Return the arguments that run `tests` until one fails."""
    return ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *sorted(tests)]


def main() -> int:
    """Try every mutant; return 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true", help="run the unit and integration tests whole")
    parser.add_argument("--chaos", action="store_true", help="let the chaos harness judge too where it can")
    parser.add_argument("--only", help="mutants whose name has this in it")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not arguments.only or arguments.only in mutant.name]
    survivors = []
    with mutated(None) as copy:
        if killed(copy, command_of({path for mutant in chosen for path in mutant.tests})):
            print("mutants: the tests fail without any bug put in")
            return 1
    for mutant in chosen:
        with mutated(mutant) as copy:
            for judge, command in commands(mutant, whole=arguments.whole, chaos=arguments.chaos):
                noticed = killed(copy, command)
                print(f"{'killed  ' if noticed else 'SURVIVED'} {mutant.name} ({judge})", flush=True)
                survivors += [] if noticed else [mutant.name]
    print(f"mutants: {len(survivors)} survived{': ' + ', '.join(survivors) if survivors else ''}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
