"""Thin wrappers that build the official PyTorch classes, the oracle of the parity tests.

Importing this package makes `ltx_core` importable on a machine without CUDA libraries: a stand-in takes the place of
`torchaudio`, whose wheel cannot load there.
"""

import torch

from tests.reference.torchaudio_stand_in import install

install()
# Torch's threads spin while they wait for each other: on two busy cores these small networks ran 50 times slower on
# two threads than on one.
torch.set_num_threads(1)
