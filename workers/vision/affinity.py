"""Affinity keys of the prompts in this worker's prefix cache, sent with every claim (`shared/affinity.py`).

The keys live here alone: a worker that ends takes them along, as it does the cache. They are an estimate of what the
engine still has: the most recent prompts, as many as fit into its keys and values. A wrong one costs a worse choice.
"""

import threading
from collections import OrderedDict
from typing import Literal

from prometheus_client import Counter

from shared.jobs import Job

PrefixSharing = Literal["tenant", "all"]
MAX_KEYS = 64  #: sent with a claim, about 40 bytes each

CLAIMED = Counter(
    "tileq_vision_claim_affinity_total",
    "Claimed jobs by whether this worker has their conversation or image cached: hit, miss",
    ["result"],
)


class CachedPrompts:
    """Safe to share between threads. With no capacity it stays empty, and claims cost what they cost without it."""

    def __init__(self, capacity_tokens: int = 0, sharing: PrefixSharing = "tenant") -> None:
        """`capacity_tokens`: whose keys and values the engine holds; 0: the engine keeps none between requests."""
        self._capacity_tokens = capacity_tokens
        self._sharing = sharing
        self._tokens: OrderedDict[str, int] = OrderedDict()  # by key, the longest unused first
        self._lock = threading.Lock()

    def keys(self) -> list[str]:
        """Return the keys as a claim takes them: `tenant/key`, or `/key` where all tenants share."""
        with self._lock:
            return list(self._tokens)

    def add(self, job: Job, prompt_tokens: int) -> None:
        """Note that the engine takes in the prompt of `job`; the longest unused keys go where the cache is full."""
        keys = self._keys_of(job) if self._capacity_tokens else []
        with self._lock:
            for key in keys:
                self._tokens[key] = prompt_tokens // len(keys)
                self._tokens.move_to_end(key)
            while len(self._tokens) > MAX_KEYS or sum(self._tokens.values()) > self._capacity_tokens:
                self._tokens.popitem(last=False)

    def count_claim(self, job: Job) -> None:
        """Count a claimed job as hit or miss, if it has keys and this worker a cache."""
        keys = self._keys_of(job) if self._capacity_tokens else []
        if keys:
            with self._lock:
                hit = any(key in self._tokens for key in keys)
            CLAIMED.labels("hit" if hit else "miss").inc()

    def _keys_of(self, job: Job) -> list[str]:
        tenant = job.tenant if self._sharing == "tenant" else ""
        return [f"{tenant}/{key}" for key in job.affinity.split()]
