"""LTX-2.3 audio-video generation in MLX, with adapters that whisper. Importing it changes nothing in the process."""

__version__ = "0.1.0"
