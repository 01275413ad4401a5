"""The text encoder against transformers' Gemma-3 and tokenizer, on tiny random models."""

import json
import subprocess
import sys
import weakref

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.text import GemmaConfig
from mlx_ltxw.models.text.gemma import ExactRMSNorm
from mlx_ltxw.weights.streaming import STREAMED, Residency
from mlx_ltxw.weights.text import load_gemma, load_text_encoder, load_tokenizer, read_table
from tests.numbers import relative_error
from tests.reference import text as reference
from tests.reference.text import TINY

WRAPPER = {"model_type": "gemma3", "text_config": TINY, "vision_config": {}}
PROMPTS = [
    'a woman in dim light, (woman, whispering): "close your eyes"',
    "  padded with blanks \n",
    "",
    "grüße, 你好 👋🏽\tand\na newline  with  double blanks",
    "literal <bos> and <start_of_turn> and <unk>",
    "<bos>already there",
]


@pytest.fixture(scope="module")
def oracle():
    return reference.gemma()


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    return reference.write_tokenizer(reference.write_gemma(tmp_path_factory.mktemp("gemma"), oracle))


@pytest.fixture(scope="module")
def encoder(folder):
    return load_text_encoder(folder, mx.float32)


def left_padded(lengths, total=40, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), total), dtype=np.int32)
    mask = np.zeros(ids.shape, dtype=bool)
    for row, length in enumerate(lengths):
        ids[row, total - length :] = rng.integers(5, reference.VOCAB, length)
        mask[row, total - length :] = True
    return ids, mask


def half(tensor):
    return mx.array(tensor.float().numpy()).astype(mx.bfloat16)


def assert_states_agree(ours, theirs, mask, tolerance=1e-5):
    """Each hidden state of each prompt by itself, real tokens only."""
    for row in range(len(mask)):
        for state in range(theirs.shape[-1]):
            error = relative_error(ours[row, mask[row], :, state], theirs[row, mask[row], :, state])
            assert error <= tolerance, (row, state, error)


@pytest.mark.parametrize("lengths", [[1], [7], [8], [9], [40], [3, 40, 1, 17]])
def test_hidden_states_equal_transformers(encoder, oracle, lengths):
    ids, mask = left_padded(lengths)
    ours = np.array(encoder.hidden_states(mx.array(ids), mx.array(mask)))
    assert ours.shape == (len(lengths), 40, 96, 6)
    assert_states_agree(ours, reference.hidden_states(oracle, ids, mask), mask)
    assert not ours[~mask].any()


@pytest.mark.parametrize("residency", [STREAMED, Residency(2), Residency(3, ahead=2)])
def test_layers_read_as_they_are_needed_give_the_same(folder, encoder, residency):
    ids, mask = left_padded([13, 2])
    streamed = load_text_encoder(folder, mx.float32, residency)
    theirs = np.array(encoder.hidden_states(mx.array(ids), mx.array(mask)))
    np.testing.assert_array_equal(np.array(streamed.hidden_states(mx.array(ids), mx.array(mask))), theirs)
    layers = streamed.model.layers
    once = layers.traffic.bytes_read
    layer = sum(tensor.nbytes for tensor in layers.streamed[0].values())
    assert once % layer == 0
    assert 0 <= once // layer - (5 - (residency.layers or 0)) <= residency.ahead  # both prompts with one reading


def test_a_layer_that_is_read_is_gone_when_the_next_one_comes(folder):
    encoder = load_text_encoder(folder, mx.float32, STREAMED)
    read, latest = encoder.model.layers, []

    class Watched:
        def __len__(self):
            return len(read)

        def __getitem__(self, index):
            read._latest = None  # as when the next one is asked for
            assert not latest or latest.pop()() is None
            latest.append(weakref.ref(layer := read[index]))
            return layer

    encoder.model.layers = Watched()
    assert encoder.token_states(mx.array([[1, 2, 3]]), mx.ones((1, 3), mx.bool_))


def test_padding_may_lie_on_the_right_or_everywhere(encoder, oracle):
    ids, mask = left_padded([12, 0])
    theirs = reference.hidden_states(oracle, ids[:1], mask[:1])[:, ::-1]
    rolled = np.roll(ids, 12, axis=1), np.roll(mask, 12, axis=1)
    ours = np.array(encoder.hidden_states(*map(mx.array, rolled)))
    assert_states_agree(ours[:1, :12], theirs[:, :12][:, ::-1], mask[:1, -12:])
    assert not ours[1].any()


def test_padding_between_tokens_is_refused(encoder):
    ids, mask = left_padded([12])
    mask[0, -3] = False
    with pytest.raises(ValueError, match="between"):
        encoder.hidden_states(mx.array(ids), mx.array(mask))


@pytest.mark.parametrize(
    ("config", "prefix", "shards"),
    [
        (TINY, "model.", 3),
        (TINY, "", 1),
        (WRAPPER, "language_model.model.", 2),
        (WRAPPER, "model.language_model.", 1),
    ],
)
def test_every_layout_of_the_weights_loads(tmp_path, oracle, config, prefix, shards):
    model = load_gemma(reference.write_gemma(tmp_path, oracle, config, prefix, shards), mx.float32)
    ids, mask = left_padded([20], total=20)
    ours = np.array(model(mx.array(ids)).swapaxes(2, 3))
    assert_states_agree(ours, reference.hidden_states(oracle, ids, mask), mask)


def test_bfloat16_is_as_near_to_fp32_as_transformers_bfloat16(folder, oracle):
    rough = reference.gemma(dtype=torch.bfloat16)
    fine = reference.gemma()
    fine.load_state_dict({name: value.float() for name, value in rough.state_dict().items()})
    ids, mask = left_padded([33, 12])
    truth = reference.hidden_states(fine, ids, mask)
    theirs = reference.hidden_states(rough, ids, mask)
    states = load_text_encoder(folder, mx.bfloat16).hidden_states(mx.array(ids), mx.array(mask))
    assert states.dtype == mx.bfloat16
    ours = np.array(states.astype(mx.float32))
    for state in range(6):
        limit = relative_error(theirs[mask][..., state], truth[mask][..., state])
        assert relative_error(ours[mask][..., state], truth[mask][..., state]) <= 1.25 * limit, state


def test_norms_round_once_in_bfloat16():
    """Rounding `1 + weight` first, as mlx-lm does, would change a third of the values."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.3 * torch.randn(96, generator=generator)).bfloat16()
    x = torch.randn(200, 96, generator=generator).bfloat16()
    ours = ExactRMSNorm(half(weight), 1e-6)(half(x))
    assert ours.dtype == mx.bfloat16
    different = np.array(ours.astype(mx.float32)) != reference.gemma_norm(x, weight).float().numpy()
    assert different.mean() < 1e-3


@pytest.mark.parametrize(("mode", "group", "bits"), [("affine", 32, 4), ("affine", 32, 8), ("mxfp8", 32, 8)])
def test_a_model_quantised_by_mlx_lm_equals_its_dequantised_self(tmp_path, oracle, mode, group, bits):
    from mlx_lm import utils

    reference.write_gemma(tmp_path / "whole", oracle, WRAPPER, "language_model.model.")
    model, config = utils.load_model(tmp_path / "whole", model_config={"vocab_size": reference.VOCAB}, strict=False)
    finer = {"group_size": 32, "bits": 8, "mode": "affine"}
    model, config = utils.quantize_model(
        model, config, group, bits, mode, quant_predicate=lambda path, _: finer if "layers.1.mlp" in path else True
    )
    utils.save_model(tmp_path / "packed", model)
    utils.save_config(config, tmp_path / "packed" / "config.json")

    packed = load_gemma(tmp_path / "packed", mx.float32)
    plain = reference.gemma()
    state = plain.state_dict()
    for name, layer in packed.named_modules():
        if "scales" in layer:
            dense = mx.dequantize(
                layer.weight, layer.scales, layer.get("biases"), layer.group_size, layer.bits, layer.mode
            )
            state[f"{name}.weight"] = torch.from_numpy(np.array(dense.astype(mx.float32)))
    plain.load_state_dict(state)
    assert packed.layers[1].mlp.up_proj.bits == 8
    assert packed.layers[0].mlp.up_proj.bits == bits
    ids, mask = left_padded([20], total=20)
    theirs = reference.hidden_states(plain, ids, mask)
    assert_states_agree(np.array(packed(mx.array(ids)).swapaxes(2, 3)), theirs, mask)
    assert relative_error(theirs, reference.hidden_states(oracle, ids, mask)) > 1e-3


# --- config -----------------------------------------------------------------------------------------------------------

GOOGLE_12B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma3_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}


def numbers(config):
    """What transformers makes of the same settings."""
    rope = config.rope_parameters
    whole, local = rope["full_attention"], rope["sliding_attention"]
    return {
        "sizes": (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size),
        "heads": (config.num_attention_heads, config.num_key_value_heads, config.head_dim),
        "attention": (config.query_pre_attn_scalar, config.sliding_window, config.rms_norm_eps),
        "rope": (whole["rope_theta"], whole.get("factor", 1.0), local["rope_theta"]),
        "global": [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"],
    }


def our_numbers(config):
    return {
        "sizes": (config.vocab_size, config.hidden_size, config.layers, config.intermediate_size),
        "heads": (config.heads, config.key_value_heads, config.head_dim),
        "attention": (config.query_scalar, config.window, config.eps),
        "rope": (config.theta, config.factor, config.local_theta),
        "global": [i for i in range(config.layers) if (i + 1) % config.pattern == 0],
    }


def test_googles_own_config_gives_the_12b_numbers():
    config = GemmaConfig.read(GOOGLE_12B)
    assert our_numbers(config) == {
        "sizes": (262208, 3840, 48, 15360),
        "heads": (16, 8, 256),
        "attention": (256, 1024, 1e-6),
        "rope": (1e6, 8.0, 1e4),
        "global": [5, 11, 17, 23, 29, 35, 41, 47],
    }
    assert config.states == 49
    assert config.states * config.hidden_size == 188160


@pytest.mark.parametrize(
    "settings",
    [
        TINY,
        {**TINY, "sliding_window_pattern": 1},
        {**TINY, "sliding_window_pattern": 7},
        {**TINY, "rope_scaling": None, "rope_theta": 5e5, "rope_local_base_freq": 2e4},
        {k: v for k, v in TINY.items() if not k.startswith(("rope", "sliding", "head", "query"))},
        {**TINY, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 3.0}}},
        {
            **TINY,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] + ["sliding_attention"] * 2,
        },
    ],
)
def test_config_is_read_as_transformers_reads_it(settings, tmp_path):
    theirs = reference.Gemma3TextConfig(**settings)
    assert our_numbers(GemmaConfig.read(settings)) == numbers(theirs)
    reference.save_again(tmp_path, settings)
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())
    assert our_numbers(GemmaConfig.read(read_table(tmp_path / "config.json"))) == numbers(theirs)


def test_the_older_spelling_of_the_rotary_type_is_read():
    """transformers 5 takes this for unscaled positions and warns; transformers 4, which wrote it, scaled."""
    config = GemmaConfig.read({**TINY, "rope_scaling": {"type": "linear", "factor": 4.0}})
    assert (config.theta, config.factor, config.local_theta) == (1e6, 4.0, 1e4)


def test_a_wrapper_saved_again_by_transformers_keeps_the_factor(tmp_path):
    reference.save_again(tmp_path, GOOGLE_12B)
    saved = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert "rope_scaling" not in saved
    assert our_numbers(GemmaConfig.read(read_table(tmp_path / "config.json"))) == our_numbers(
        GemmaConfig.read(GOOGLE_12B)
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"model_type": "gemma3"}, "not a Gemma-3"),
        ({**TINY, "hidden_activation": "silu"}, "silu"),
        ({**TINY, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({**TINY, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({k: v for k, v in TINY.items() if k != "hidden_size"}, "hidden_size"),
        (
            {**TINY, "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"] * 2},
            "layer_types",
        ),
        ({**TINY, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "yarn"),
        ({**TINY, "rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({**TINY, "rope_scaling": {"rope_type": "default", "factor": 8.0}}, "factor"),
        ({**TINY, "rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}, "rope_parameters"),
        ({**TINY, "rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "sliding"),
    ],
)
def test_another_model_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        GemmaConfig.read(settings)


# --- tokenizer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("post_processor", "settings", "prompts"),
    [
        (True, {"add_bos_token": True, "add_eos_token": False}, PROMPTS),
        (True, {"pad_token": {"content": "<pad>", "__type": "AddedToken"}}, PROMPTS),
        (True, {"pad_token": None}, PROMPTS),
        (False, {}, PROMPTS[:-1]),
    ],
)
def test_tokens_equal_transformers(tmp_path, post_processor, settings, prompts):
    reference.write_tokenizer(tmp_path, reference.gemma_tokenizer(post_processor), **settings)
    ids, mask = load_tokenizer(tmp_path)(prompts)
    for row, prompt in enumerate(prompts):
        their_ids, their_mask = reference.official_tokens(tmp_path, prompt)
        assert ids[row].tolist() == their_ids
        assert mask[row].tolist() == [bool(v) for v in their_mask]
    assert 2 < mask[0].sum() < 40


def test_padding_and_truncation_stored_in_the_file_do_not_apply(tmp_path):
    tokenizer = reference.gemma_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    reference.write_tokenizer(tmp_path, tokenizer)
    ids, mask = load_tokenizer(tmp_path)(PROMPTS[:1])
    assert mask.sum() > 5
    assert ids[0].tolist() == reference.official_tokens(tmp_path, PROMPTS[0])[0]


def test_a_long_prompt_is_refused_or_cut(folder, encoder):
    letters = "é" * 1023  # two bytes each, no token of its own
    prompt = letters[:511] + "a"  # with <bos>: 1 + 1022 + 1
    ids, mask = encoder.tokenize([prompt])
    assert mask.sum().item() == 1024
    with pytest.raises(UserError, match="1025 tokens") as caught:
        encoder.tokenize([prompt + "b"])
    assert "1 tokens" in caught.value.hint
    ids, mask = encoder.tokenize([letters], truncate=True)
    assert ids[0].tolist() == reference.official_tokens(folder, letters)[0]
    assert ids.dtype == mx.int32
    assert mask.dtype == mx.bool_


def test_text_that_is_not_unicode_is_refused(encoder):
    with pytest.raises(UserError, match="not valid text"):
        encoder.tokenize(["broken \udcff byte"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bos_token": None}, "bos_token"),
        ({"bos_token": "<nowhere>"}, "<nowhere>"),
        ({"pad_token": None, "eos_token": None}, "eos_token"),
        ({"add_eos_token": True}, "more than <bos>"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        load_tokenizer(reference.write_tokenizer(tmp_path, **settings))


# --- loading ----------------------------------------------------------------------------------------------------------


def drop(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def change_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def cut_weights(folder):
    (file,) = folder.glob("model*.safetensors")
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("config.json"), "no config.json"),
        (write("config.json", "{"), "not valid JSON"),
        (write("config.json", "[]"), "no JSON object"),
        (drop("tokenizer.json"), "no tokenizer.json"),
        (write("tokenizer.json", "{}"), "cannot be read"),
        (drop("tokenizer_config.json"), "no tokenizer_config.json"),
        (drop("model-00001-of-00001.safetensors"), "no model"),
        (cut_weights, "ends inside its header"),
        (change_config(num_hidden_layers=6), "has 6 layers, and its tensors have 5"),
        (change_config(num_hidden_layers=4), r"unexpected: layers\.4\..*more"),
        (change_config(intermediate_size=128), r"up_proj.weight is \[160, 96\] instead of \[128, 96\]"),
        (change_config(quantization_config={"quant_method": "gptq"}), "gptq"),
        (change_config(quantize_activations=True), "activation"),
        (change_config(model_type="llama"), "llama"),
    ],
)
def test_a_damaged_folder_is_a_users_error(tmp_path, oracle, damage, words):
    reference.write_tokenizer(reference.write_gemma(tmp_path, oracle))
    damage(tmp_path)
    with pytest.raises(UserError, match=words):
        load_text_encoder(tmp_path, mx.float32)


def test_a_missing_folder_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="no text encoder"):
        load_text_encoder(tmp_path / "nowhere", mx.float32)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    small = {**TINY, "vocab_size": 100}
    reference.write_tokenizer(reference.write_gemma(tmp_path, reference.gemma(small), small))
    with pytest.raises(UserError, match="knows"):
        load_text_encoder(tmp_path, mx.float32)


def test_parameters_have_the_dtype_asked_for(folder):
    model = load_text_encoder(folder, mx.bfloat16).model
    assert {value.dtype for _, value in tree_flatten(model.parameters())} == {mx.bfloat16}


def test_encoding_loads_neither_transformers_nor_all_of_mlx_lm(folder):
    script = """
import sys, mlx_ltxw.blas, pathlib
import mlx.core as mx
from mlx_ltxw.weights.text import load_text_encoder
encoder = load_text_encoder(pathlib.Path(sys.argv[1]), mx.float32)
mx.eval(encoder.hidden_states(*encoder.tokenize(["a woman, whispering"])))
heavy = {"transformers", "mlx_lm", "torch", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
import mlx_lm.models.gemma3_text
assert mlx_lm.models.gemma3_text.Gemma3Model and mlx_lm.load
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=120)
