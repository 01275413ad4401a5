"""A GPU's errors by their texts as they were seen, explained at every door."""

import errno
import os
import subprocess
import sys

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.gpu_errors import explained, gpu_errors, telling_gpu_errors
from tests.convert.made import ROOT

METAL = "[METAL] Command buffer execution failed: {}."
CUDA = "cudaMallocAsync(&data, size, stream) failed: out of memory"
SEEN = {
    METAL.format("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"): "not enough memory",
    "[metal::malloc] Attempting to allocate 40000000000 bytes which is greater than the maximum allowed buffer size of "
    "22906503168 bytes.": "not enough memory",
    "[metal::malloc] Resource limit (499000) exceeded.": "not enough memory",
    "[malloc] Unable to allocate 40000000000 bytes.": "not enough memory",
    CUDA: "not enough memory",
    "std::bad_alloc": "not enough memory",
    METAL.format("Impacting Interactivity (0000000e:kIOGPU"
                 "CommandBufferCallbackErrorImpactingInteractivity)"): "held up",
    METAL.format("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"): "too long",
    METAL.format("Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)"): "too long",
    "cudaStreamSynchronize(stream) failed: the launch timed out and was terminated": "too long",
    METAL.format("Innocent Victim (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)"): "was reset",
    METAL.format("Ignored (for causing prior/excessive GPU errors) "
                 "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)"): "was reset",
    METAL.format("Internal Error (0000000e:Internal Error)"): "error of its own",
    METAL.format("Caused GPU Address Fault Error (0000000b:kIOGPUCommandBufferCallbackErrorPageFault)"): "of its own",
    "cudaGraphLaunch failed: an illegal memory access was encountered": "error of its own",
    METAL.format("A text that nobody has seen yet"): "error of its own",
    # macOS says it in the user's own language; its name for it stays
    METAL.format("Auswirkung auf Interaktivität (0000000e:kIOGPU"
                 "CommandBufferCallbackErrorImpactingInteractivity)"): "held up",
    METAL.format("Mémoire insuffisante (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"): "not enough memory",
    METAL.format("Interner Fehler (0000000e:Interner Fehler)"): "error of its own",
    "[read] Unable to read from file.": "can no longer be read",
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), SEEN.items())
def test_each_text_is_explained(text, said):
    """What it is, the system's own words, and what to do."""
    told = explained(RuntimeError(text))
    assert said in told.message
    assert " ".join(text.split())[:60].rstrip(".") in told.message
    assert told.hint.endswith(".")


def test_others_pass():
    assert explained(RuntimeError("[matmul] Last dimension of first input with shape (2,3) must match")) is None
    assert explained(ValueError("out of memory")) is None
    assert "not enough memory" in explained(MemoryError()).message
    with pytest.raises(RuntimeError, match="shapes"), gpu_errors():
        raise RuntimeError("shapes differ")


def test_a_generator_tells():
    @telling_gpu_errors
    def work(count):
        yield from range(count)
        raise RuntimeError(CUDA)

    items = work(2)
    assert (next(items), next(items)) == (0, 1)
    with pytest.raises(UserError, match="not enough memory"):
        next(items)


def test_a_run_tells(made_model, monkeypatch):
    """While it denoises, and while its frames are taken afterwards."""
    from mlx_ltxw.api import Model
    from mlx_ltxw.pipeline import decode, run

    def fail(*arguments, **options):
        raise RuntimeError(next(iter(SEEN)))

    request = {"frames": 9, "width": 64, "height": 64, "steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_tiled", fail)
        clip = Model(made_model).generate("a room", **request)
        with pytest.raises(UserError, match="not enough memory"):
            _ = clip.frames
    monkeypatch.setattr(run, "transformers", fail)
    with pytest.raises(UserError, match="not enough memory"):
        Model(made_model).generate("a room", **request)


CODE = """
import mlx_ltxw.takes.models as models
def fail(*arguments):
    raise RuntimeError({text!r})
models.open_model = fail
import sys; from mlx_ltxw.cli import main
sys.argv = ["mlx-ltxw", "generate", "a room", "-o", "a.mp4"]
main()
"""


@pytest.mark.parametrize("text", [next(iter(SEEN)), "[malloc] Unable to allocate 40000000000 bytes."])
def test_the_command_tells(text):
    done = subprocess.run([sys.executable, "-c", CODE.format(text=text)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: There is not enough memory for this (")
    assert "-q 4" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE])
def test_a_disk_that_is_gone_is_told(code):
    """Whatever reads it; what a program's mistake may be keeps its traceback."""
    with (
        pytest.raises(UserError, match=f"/x/model.json cannot be read or written .{os.strerror(code)}.") as told,
        gpu_errors(),
    ):
        raise OSError(code, os.strerror(code), "/x/model.json")
    assert "disk" in told.value.hint
    assert explained(OSError(code, os.strerror(code))).message.startswith("A file can no longer be read")
    assert explained(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "who may use")]
)
def test_a_file_that_cannot_be_written_is_told_wherever_it_is(code, hint):
    told = explained(OSError(code, os.strerror(code), "/x/notes.json"))
    assert told.message.startswith("/x/notes.json c")
    assert os.strerror(code) in told.message
    assert hint in told.hint
