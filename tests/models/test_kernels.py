"""CUDA kernels of ours, their source compiled for this machine's processor, against MLX's own operations."""

import shutil

import mlx.core as mx
import pytest

from mlx_ltxw.models.ops import unpack_cuda
from mlx_ltxw.models.ops.cuda import compiler, gates_back, many, norms_back, source
from mlx_ltxw.models.transformer.adaln import modulate
from mlx_ltxw.models.transformer.rope import apply_split_rope
from tests.cuda import Emulated
from tests.numbers import relative_error

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
EPS, WIDTH, HEAD = 1e-6, 1024, 64
ROUNDING = {mx.float32: 1e-6, mx.bfloat16: 8e-3}


def slow(*given):
    return pytest.param(*given, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    return Emulated(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(autouse=True)
def without_a_card(monkeypatch, emulated):
    monkeypatch.setattr(compiler, "cuda_kernel", lambda name, i, o, text, header="": emulated(name, i, o, text, header))
    caches = (
        source.kernel,
        gates_back._kernel,
        norms_back._kernel,
        many._cast_kernel,
        many._outers_kernel,
        unpack_cuda._kernel,
    )
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def error(got, want):
    return relative_error(got.astype(mx.float32), want)


def random(seed, *shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def rope(tokens):
    angle = random(9, 1, tokens, WIDTH // HEAD, HEAD // 2)
    return mx.cos(angle), mx.sin(angle)


@pytest.mark.parametrize("dtype", [mx.float32, slow(mx.bfloat16)])
def test_the_gradient_of_a_modulated_norm(dtype):
    """Of two clips with a row each, added to another one."""
    x, cotangent, onto = (random(i, 2, 3, WIDTH, dtype=dtype) for i in range(3))
    scale, shift = (random(i, 2, 1, WIDTH) for i in (3, 4))

    def apart(x):
        return modulate(mx.fast.rms_norm(x, None, EPS), scale, shift)

    exact = [one.astype(mx.float32) for one in (x, cotangent, onto)]
    _, (back,) = mx.vjp(apart, exact[:1], exact[1:2])
    got = norms_back.modulated_back(x, scale, EPS, cotangent, onto)
    assert got.dtype == dtype
    assert error(got, exact[2] + back) < ROUNDING[dtype]


@pytest.mark.parametrize(
    ("rotated", "dtype"),
    [(True, mx.bfloat16), slow(True, mx.float32), slow(False, mx.float32), slow(False, mx.bfloat16)],
)
def test_the_gradient_of_a_turned_norm(dtype, rotated):
    """Whose cotangent comes head by head."""
    x, weight, turns = random(0, 2, 3, WIDTH, dtype=dtype), random(1, WIDTH, dtype=dtype), rope(3)
    cotangent = random(2, 2, WIDTH // HEAD, 3, HEAD, dtype=dtype)

    def apart(x):
        heads = mx.fast.rms_norm(x, weight.astype(x.dtype), EPS).reshape(2, 3, -1, HEAD)
        return apply_split_rope(heads, *turns) if rotated else heads

    exact = x.astype(mx.float32), cotangent.astype(mx.float32).transpose(0, 2, 1, 3)
    _, (back,) = mx.vjp(apart, exact[:1], exact[1:])
    got = norms_back.turned_back(x, weight, EPS, turns if rotated else None, cotangent)
    assert got.dtype == dtype
    assert error(got, back) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [mx.float32, slow(mx.bfloat16)])
def test_the_gradients_of_gates(dtype):
    """Of fewer heads than fill the last block of threads."""
    cotangent, out = random(0, 2, 3, 5, HEAD, dtype=dtype), random(1, 2, 5, 3, HEAD, dtype=dtype)
    logits = random(2, 2, 3, 5, dtype=dtype)
    exact = [one.astype(mx.float32) for one in (cotangent, out.transpose(0, 2, 1, 3), logits)]

    def gated(out, logits):
        return out * (2 * mx.sigmoid(logits))[..., None]

    (value,), (mixed, slopes) = mx.vjp(gated, exact[1:], exact[:1])
    got = gates_back.gradients(cotangent, out, logits)
    assert {one.dtype for one in got} == {dtype}
    assert error(got.mixed, mixed.transpose(0, 2, 1, 3)) < ROUNDING[dtype]
    assert error(got.means[..., 0], mx.sum(value * exact[0], axis=-1).transpose(0, 2, 1)) < ROUNDING[dtype]
    assert error(got.logits, slopes) < ROUNDING[dtype]


def test_weights_are_cast_together(monkeypatch):
    monkeypatch.setattr(many, "_GROUPS", 2)
    arrays = [random(i, *shape, dtype=mx.bfloat16) for i, shape in enumerate([(3, 5), (64, 40), (1, 1)])]
    got = many._cast(arrays, mx.float32)
    assert all(mx.array_equal(one, array.astype(mx.float32)) for one, array in zip(got, arrays, strict=True))


@pytest.mark.parametrize("dtype", [mx.float32, slow(mx.bfloat16)])
def test_products_over_rows(dtype):
    """Whose sizes fill the tiles, or do not; each lies across or along."""
    sizes = [(37, 130, 40, True), (16, 64, 32, False), (5, 70, 3, False)]
    products = [
        many.Outer(random(i, rows, width, dtype=dtype), random(9 - i, rows, rank, dtype=dtype), across)
        for i, (rows, width, rank, across) in enumerate(sizes)
    ]
    for got, each, (_, width, rank, across) in zip(many._outers(products), products, sizes, strict=True):
        assert got.shape == ((rank, width) if across else (width, rank))
        wide, narrow = each.wide.astype(mx.float32), each.narrow.astype(mx.float32)
        assert relative_error(got, narrow.T @ wide if across else wide.T @ narrow) < 1e-6


@pytest.mark.parametrize(
    ("group_size", "bits", "mode"),
    [(16, 4, "nvfp4"), slow(64, 8, "affine"), slow(64, 4, "affine"), slow(32, 8, "mxfp8"), slow(32, 4, "mxfp4")],
)
def test_packed_weights(group_size, bits, mode):
    """To the bit but for one rounding to bf16, as MLX unpacks them."""
    scales = mx.bfloat16 if mode == "affine" else mx.uint8
    assert unpack_cuda._works(group_size, bits, mode, scales, mx.bfloat16)


def test_short_floats_are_rounded_to_even():
    """Every bf16 and what lies between two of them, not-a-numbers and infinities too."""
    numbers = mx.arange(0, 1 << 16, dtype=mx.uint32) << 16
    between = mx.concatenate([numbers, numbers + 0x8000, numbers + 0x7FFF, numbers + 0x8001]).view(mx.float32)
    source = f"for (int i = threadIdx.x; i < {between.size}; i += 32) y[i] = bfloat16(x[i]);"
    (got,) = compiler.cuda_kernel("round", ["x"], ["y"], source)(
        inputs=[between], template=[], grid=(32, 1, 1), threadgroup=(32, 1, 1), output_shapes=[between.shape],
        output_dtypes=[mx.bfloat16],
    )  # fmt: skip
    assert mx.array_equal(got, between.astype(mx.bfloat16), equal_nan=True)


@pytest.fixture
def built(monkeypatch, tmp_path):
    """What was compiled, for a card that there is not; the cache folder is empty."""
    texts = []
    monkeypatch.setenv("MLX_LTXW_CACHE", str(tmp_path))
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": "sm_90"})
    monkeypatch.setattr(compiler, "_version", lambda: [13, 0])
    monkeypatch.setattr(compiler, "build", lambda text, card: texts.append((text, card)) or f"{text} {card}".encode())
    return texts


def test_compiled_kernels_are_kept(built, tmp_path, monkeypatch):
    """By their source, the card and the compiler; what was damaged is compiled again."""
    for _ in range(2):
        assert compiler.compiled("a") == b"a sm_90"
    assert compiler.compiled("b") == b"b sm_90"
    assert built == [("a", "sm_90"), ("b", "sm_90")]
    for file in (tmp_path / "kernels").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert compiler.compiled("a") == b"a sm_90"
    monkeypatch.setattr(compiler, "_version", lambda: [13, 1])
    assert compiler.compiled("a") == b"a sm_90"
    assert len(built) == 4


@pytest.mark.parametrize("folder", ["0", "in the way"])
def test_kernels_are_compiled_where_nothing_can_be_kept(built, tmp_path, monkeypatch, folder):
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("MLX_LTXW_CACHE", folder if folder == "0" else str(tmp_path / folder))
    for _ in range(2):
        assert compiler.compiled("a") == b"a sm_90"
    assert len(built) == 2


def test_a_kernel_that_cannot_be_compiled_says_why(monkeypatch):
    compiler._library.cache_clear()
    monkeypatch.setattr(compiler, "_LIBRARIES", ("libnothing.so",))
    with pytest.raises(compiler.CompileError, match=r"none of libnothing\.so"):
        compiler.build("", "sm_90")
    compiler._library.cache_clear()
