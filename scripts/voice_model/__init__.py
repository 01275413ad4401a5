"""The recipe of the small voice model: data, four trainings, two adapters, export and gates (PyTorch, CUDA)."""
