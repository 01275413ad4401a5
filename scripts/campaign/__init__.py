"""Campaigns against the command: thousands of damaged inputs, and runs that are killed at random moments.

    python -m scripts.campaign inputs --count 2000
    python -m scripts.campaign kills --count 100

Each prints what it found and exits 1 if that is anything. The figures of the last ones are in `docs/log.md`.
"""
