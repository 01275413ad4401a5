"""Clips as other programs write them, made by the FFmpeg command."""

import shutil
import subprocess

import pytest

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")

SWEEP = "aevalsrc='0.5*sin(2*PI*(200*t+60*t*t))':s=48000:d=8"
"""Eight seconds of which no two sound alike."""


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def record(path, *codecs, size="64x64", seconds=8):
    """Frame i of 24 a second has luma 16 + i; the sound is `SWEEP`."""
    grey = f"color=c=black:s={size}:r=24:d={seconds},geq=lum='16+N':cb=128:cr=128"
    ffmpeg("-f", "lavfi", "-i", grey, "-f", "lavfi", "-i", SWEEP, "-t", seconds, *codecs, path)
    return path


def packets(path, stream="v:0"):
    """(presentation time in s, size) of each, and of all a hash, by ffprobe."""
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", "packet=data_hash"]
    found = subprocess.run([*command, "-show_data_hash", "md5", "-of", "csv", path], check=True, capture_output=True)
    return found.stdout.split()


def described(path, what, stream="v:0"):
    """One entry of ffprobe, such as `stream=duration`."""
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", what, "-of", "csv=p=0"]
    return subprocess.run([*command, path], check=True, capture_output=True, text=True).stdout.strip().rstrip(",")
