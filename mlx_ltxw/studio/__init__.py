"""A page on this machine that makes, keeps and compares takes: `mlx-ltxw studio`."""
