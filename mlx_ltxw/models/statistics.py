"""What both autoencoders know of their latents' features."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class PerChannelStatistics(nn.Module):
    """Mean and deviation of each latent feature over the training data; never trained.

    Computes in the latents' dtype. Source: official `ops.py:PerChannelStatistics` of either autoencoder.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self["std-of-means"] = mx.ones(features)
        self["mean-of-means"] = mx.zeros(features)
        self.freeze()

    def normalize(self, latent: mx.array) -> mx.array:
        """(..., features) to zero mean and unit deviation."""
        return (latent - self["mean-of-means"].astype(latent.dtype)) / self["std-of-means"].astype(latent.dtype)

    def un_normalize(self, latent: mx.array) -> mx.array:
        """The inverse of `normalize`."""
        return latent * self["std-of-means"].astype(latent.dtype) + self["mean-of-means"].astype(latent.dtype)
