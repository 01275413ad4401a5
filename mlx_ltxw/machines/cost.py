from __future__ import annotations


def verdict(crew, job, how):
    return []
