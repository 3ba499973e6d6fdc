"""Chaos: the whole service under a seeded schedule of faults, judged by a ledger of its own (`make chaos`)."""
