"""Thin wrappers that build the official PyTorch classes, the oracle of the parity tests.

Importing this package makes `ltx_core` importable on a machine without CUDA libraries: a stand-in takes the place of
`torchaudio`, whose wheel cannot load there.
"""

from tests.reference.torchaudio_stand_in import install

install()
