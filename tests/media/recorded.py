"""Clips as other programs write them, made by the FFmpeg command."""

import shutil
import subprocess

import av
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


def packed(source, path):
    """An AVI of MPEG-4 frames as DivX packs them: the first frame in between in the packet of the frame before it in
    the file, and an empty one (7 bytes at most) behind the last."""

    def is_b(data):
        return data[data.find(b"\0\0\1\xb6") + 4] >> 6 == 2

    with av.open(str(source)) as clip, av.open(str(path), "w", format="avi") as out:
        stream = clip.streams.video[0]
        video = out.add_stream_from_template(stream, opaque=True)
        mark = b"\0\0\1\xb2DivX503b1393p\0"
        video.codec_context.extradata = stream.codec_context.extradata.partition(b"\0\0\1\xb2")[0] + mark
        left = [(bytes(packet), packet.is_keyframe) for packet in clip.demux(stream) if packet.size]
        chunks = []
        while left:
            data, key = left.pop(0)
            between = []
            while left and is_b(left[0][0]):
                between.append((left.pop(0)[0], False))
            first = between[0][0] if between else b""
            chunks += [((mark if key else b"") + data + first, key), *between[1:]]
            chunks += [(b"\0\0\1\xb6\x50\x20", False)] if between else []
        for number, (data, key) in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.is_keyframe, packet.time_base = video, key, stream.time_base
            packet.pts = packet.dts = number
            out.mux(packet)
    return path
