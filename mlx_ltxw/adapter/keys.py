"""What each tensor of an adapter file is, told from the end of its name. Tables only; loads no mlx."""

from __future__ import annotations

import re

ROLES = {
    "lora_A.weight": "lora_A",
    "lora_A": "lora_A",
    "lora_down.weight": "lora_A",
    "lora.down.weight": "lora_A",
    "lora_B.weight": "lora_B",
    "lora_B": "lora_B",
    "lora_B.bias": "lora_bias",
    "lora_a": "mlx_a",
    "lora_b": "mlx_b",
    "lora_up.weight": "lora_B",
    "lora.up.weight": "lora_B",
    "lora_linear_layer.down.weight": "lora_A",
    "lora_linear_layer.up.weight": "lora_B",
    "alpha": "alpha",
    "dora_scale": "dora_scale",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "magnitude": "magnitude",
    "diff": "diff",
    "diff_b": "diff_b",
    "lokr_w1": "lokr_w1",
    "lokr_w1_a": "lokr_w1_a",
    "lokr_w1_b": "lokr_w1_b",
    "lokr_w2": "lokr_w2",
    "lokr_w2_a": "lokr_w2_a",
    "lokr_w2_b": "lokr_w2_b",
    "hada_w1_a": "hada_w1_a",
    "hada_w1_b": "hada_w1_b",
    "hada_w2_a": "hada_w2_a",
    "hada_w2_b": "hada_w2_b",
}
"""End of a tensor's name -> its role in the change of one module."""

UNSUPPORTED = {
    "lora_mid.weight": "a convolution's LoRA",
    "lokr_t2": "a convolution's LoKr",
    "hada_t1": "a convolution's LoHa",
    "hada_t2": "a convolution's LoHa",
    "lora_A.bias": "a LoRA with biases of its own",
    "oft_blocks": "OFT",
    "oft_R.weight": "OFT",
    "oft_R": "OFT",
    "boft_R": "BOFT",
    "initial_norm": "musubi's DoKr",
    "w_norm": "a replaced norm",
    "b_norm": "a replaced norm",
    "set_weight": "a replaced weight",
    "reshape_weight": "a reshaped weight",
    "a1.weight": "GLoRA",
    "a2.weight": "GLoRA",
    "b1.weight": "GLoRA",
    "b2.weight": "GLoRA",
    "scalar": "LyCORIS' scalar",
    "on_input": "IA3",
    "ia3_l": "IA3",
    "oft_diag": "OFT",
    "lora_E": "AdaLoRA",
    "lora_diag": "KaSA",
    "lora_embedding_A": "a LoRA of an embedding",
    "lora_embedding_B": "a LoRA of an embedding",
    "vera_lambda_b": "VeRA",
    "vera_lambda_d": "VeRA",
    "base_layer.bias": "a whole bias in place of the model's own (PEFT's bias)",
}
"""End of a tensor's name -> the method it belongs to, none of which is implemented."""

_PEFT_NAMED = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.((?!lora_)\w+)\.(weight|bias)$")
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_PROCESSOR = re.compile(r"(?:\.processor)?\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")  # diffusers before PEFT
_PEFT_NAMED_FACTOR = re.compile(r"\.(lokr_w[12](?:_[ab])?|hada_w[12]_[ab]|lora_magnitude_vector)\.(default\w*)$")


def split_key(key: str) -> tuple[str, str] | None:
    """The module's name as the file spells it, and the tensor's role; None when the ending is unknown.

    An ending that belongs to a method this program lacks gives the role `unsupported:<method>`. PEFT's adapter name in
    the middle (`.lora_A.default.weight`) is passed over, and so are the wrappers of torch.compile, FSDP and DDP.
    """
    key = _WRAPPERS.sub("", key)
    key = _PROCESSOR.sub(lambda m: f".{m[1]}{'.0' if m[1] == 'to_out' else ''}.lora.{m[2]}.weight", key)
    key = _PEFT_NAMED.sub(lambda m: f".{m[1]}.{m[3]}", key)
    key = _PEFT_NAMED_FACTOR.sub(lambda m: f".{m[1]}", key)
    parts = key.split(".")
    for length in (3, 2, 1):  # the longer ending first: `lora_A.weight` before `weight`
        name, ending = ".".join(parts[:-length]), ".".join(parts[-length:])
        if name and ending in ROLES:
            return name, ROLES[ending]
        if name and ending in UNSUPPORTED:
            return name, f"unsupported:{UNSUPPORTED[ending]}"
    return None


def layout(name: str) -> str:
    """Which program's way of naming modules this is: `peft`, `kohya`, `diffusers`, `official` or `bare`."""
    if name.startswith("base_model.model."):
        return "peft"
    if "." not in name and name.startswith(("lora_", "lycoris_")):
        return "kohya"
    if name.startswith(("transformer.", "connectors.")):
        return "diffusers"
    if name.startswith(("diffusion_model.", "model.diffusion_model.")):
        return "official"
    return "bare"
