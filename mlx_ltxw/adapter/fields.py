"""Every field that other programs write beside an adapter's tensors, and what is done about it. Tables; loads no mlx.

A field that changes the numbers is applied, refused, or named in a note. So is one that stands in no table: nobody
knows what it does. Fields that only say how the adapter was trained, or that the tensors themselves tell, are let be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_ltxw.parsing import Unsound, finite_number, load_json


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


PEFT_APPLIED = _names("peft_type r lora_alpha alpha rank_pattern alpha_pattern use_rslora use_dora init_lora_weights")
"""Of PEFT's LoraConfig, LoKrConfig and LoHaConfig: what the scale and the method are made of."""

PEFT_REFUSED = {
    "modules_to_save": "whole modules in place of the model's own",
    "layer_replication": "layers of the model repeated",
    "trainable_token_indices": "rows of an embedding",
    "target_parameters": "changes of bare parameters",
    "alora_invocation_tokens": "an adapter that acts behind certain tokens only (aLoRA)",
    "use_qalora": "an adapter of pooled inputs (QA-LoRA)",
    "monteclora_config": "sampled factors (MonteCLoRA)",
    "use_bdlora": "block-diagonal factors (BD-LoRA)",
    "arrow_config": "a router among adapters (Arrow)",
    "kasa_config": "a base that is changed first (KaSA)",
}
"""Fields that, when set, make another change of the model than `scale * B A` -> what they stand for."""

PEFT_LET_BE = _names(
    # how and on what it was trained
    "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode lora_dropout rank_dropout",
    "module_dropout rank_dropout_scale velora_config runtime_config megatron_config megatron_core ensure_weight_tying",
    # how it began; what changes the base stands in init_lora_weights
    "init_weights loftq_config eva_config corda_config lora_ga_config",
    # which modules and what shapes: the tensors tell; a whole bias (`bias`) is told by its own tensor
    "target_modules exclude_modules layers_to_transform layers_pattern bias lora_bias use_effective_conv2d",
    "decompose_both decompose_factor qalora_group_size",
    # PEFT itself passes over it for every linear
    "fan_in_fan_out",
)

_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
_LEAVES_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_CONVERT = (
    "Save it in PEFT with `path_initial_model_for_weight_conversion`, which turns it into a LoRA for the unchanged "
    "base."
)


class Refused(Exception):
    """A configuration that asks for what is not implemented.

    Attributes:
        why: Half a sentence.
        hint: What to do.
    """

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


def check_peft(config: Mapping[str, Any]) -> list[str]:
    """The fields of PEFT's configuration that are set and unknown.

    Raises:
        Refused: a field that asks for more than `scale * B A`.
    """
    for field, what in PEFT_REFUSED.items():
        if config.get(field):
            raise Refused(f"it sets {field}: {what}, which is not implemented", f"Train it without {field}.")
    _check_start(config.get("init_lora_weights", True))
    known = PEFT_APPLIED | PEFT_LET_BE | PEFT_REFUSED.keys()
    return [field for field, value in config.items() if field not in known and _is_set(value)]


def _check_start(start: Any) -> None:
    """PEFT's `init_lora_weights`: some ways to begin subtract the first `B A` from the base, each time it loads."""
    if isinstance(start, bool | None) or start in _LEAVES_BASE:
        return
    name = start.lower() if isinstance(start, str) else ""
    words = f"its init_lora_weights is {json.dumps(start)[:40]}"
    if name.startswith(_CHANGES_BASE):
        raise Refused(f"{words}, so its factors belong to a base that PEFT changes first", _CONVERT)
    if name.startswith("loftq"):
        raise Refused(
            f"{words}, so its factors belong to a base that PEFT quantises first",
            "Train it without LoftQ; PEFT has no conversion for it.",
        )
    raise Refused(f"{words}, which is unknown here and may change the base", _CONVERT)


def _is_set(value: Any) -> bool:
    return not (value is None or value is False or value in ("", [], {}))


_OTHER_PROGRAMS = ("modelspec.", "sshs_", "ot_", "ss_")
"""Beginnings of the records that trainers keep of a training: kohya and musubi, OneTrainer, the Stability standard."""

_RECORDS = _names(
    "format author title description date license licence name version software training_info model_version",
    "base_model base_model_sha256 base_model_version base_model_name_or_path target_modules training_steps",
    "training_options training_seed register_words steps step epoch epochs trigger trigger_word trigger_words tags",
    "prompt seed dtype sha256 hash architecture resolution source url config created_at created lora_adapter_metadata",
    "alpha_folded learning_rate optimizer output_name",
)
_RANKS = ("lora_rank", "rank", "r", "network_dim", "ss_network_dim", "lora_r", "lora_dim")
_ALPHAS = ("lora_alpha", "alpha", "network_alpha", "ss_network_alpha")
_REFERENCE = re.compile(r"(ss_)?reference_(downscale_factor|(spatial|temporal)_scale_factor)")
_CHANGING = re.compile(r"alpha|scal(e|ing)|strength|multiplier|factor|rslora|dora")
_TRAINING = _names(  # names under ss_ that sound like it and belong to the training alone
    "ss_scale_weight_norms ss_mode_scale ss_sigmoid_scale ss_huber_scale ss_guidance_scale ss_loraplus_lr_ratio",
    "ss_scale_v_pred_loss_like_noise_pred ss_adaptive_noise_scale ss_fp8_scaled ss_network_dropout",
    "ss_noise_offset_random_strength ss_ip_noise_gamma_random_strength",
)
_NETWORK_ARGS = re.compile(
    "algo|conv_(dim|alpha|lora_dim)|(rank_|module_|network_)?dropout|rank_dropout_scale|use_(tucker|cp|scalar|conv_cp)|"
    "preset|train_norm|factor|decompose_both|full_matrix|weight_decompose|dora_wd|wd_on_out(put)?|bypass_mode|"
    "rs_lora|unbalanced_factorization|loraplus_.*|(ex|in)clude_patterns|verbose|lora_target_preset|constraint|"
    "rescaled|block_size|train_.*|.*_dims?|.*_lr.*"
)


def metadata_notes(metadata: Mapping[str, str], ranks: Iterable[int], scaled: bool) -> list[str]:
    """What a file's metadata names and the reading passed over.

    Args:
        metadata: The file's own.
        ranks: Module -> rank of its factors.
        scaled: Whether every scale is known: stored with the tensors, configured or folded in.
    """
    notes = []
    ranks = set(ranks)
    if not scaled and "alpha_folded" not in metadata:
        notes += [note for key in metadata if (note := _alpha_note(metadata, key, ranks))]
    references = {key: value for key, value in metadata.items() if _REFERENCE.fullmatch(key) and value.strip() != "1"}
    if references:
        text = ", ".join(f"{key} {value[:20]}" for key, value in references.items())
        notes.append(f"It was trained beside a reference clip ({text}), which it is not given here.")
    odd = [key for key in metadata if _unknown(key, metadata[key])] + _unknown_arguments(metadata)
    if odd:
        names = ", ".join(name[:60] for name in odd[:6]) + (f" and {len(odd) - 6} more" if len(odd) > 6 else "")
        notes.append(f"Fields of its metadata that are unknown here are not applied: {names}.")
    return notes


def _alpha_note(metadata: Mapping[str, str], key: str, ranks: set[int]) -> str | None:
    """About an alpha that stands in the metadata alone: nearly every reader passes over it."""
    before, dot, last = key.rpartition(".")
    alpha = finite_number(metadata[key])
    if last not in _ALPHAS or alpha is None:
        return None
    named = [finite_number(metadata[name]) for rank in _RANKS if (name := before + dot + rank) in metadata]
    rank = next((value for value in named if value), None) or (ranks.pop() if len(ranks) == 1 else None)
    if rank == alpha:
        return None
    advice = f"to {alpha / rank:g} (alpha / rank)" if rank else "to alpha / rank"
    return (
        f"Its metadata names {key} {alpha:g}, which is not applied, as in other programs: the scale is 1. If it is too "
        f"strong or too weak, set the strength {advice}."
    )


def _unknown(key: str, value: str) -> bool:
    last = key.rpartition(".")[2]
    if key in _RECORDS or last in (*_ALPHAS, *_RANKS) or _REFERENCE.fullmatch(key) or key in _TRAINING:
        return False
    if last in PEFT_LET_BE or (last in PEFT_APPLIED | PEFT_REFUSED.keys() and value.lower() in _UNSET):
        return False
    return bool(_CHANGING.search(key)) if key.startswith(_OTHER_PROGRAMS) else True


_UNSET = ("", "false", "none", "null", "{}", "[]", "0")


def _unknown_arguments(metadata: Mapping[str, str]) -> list[str]:
    """Arguments of kohya's network module that are in no table."""
    try:
        arguments = load_json(metadata.get("ss_network_args", "{}"))
    except Unsound:
        return ["ss_network_args"]
    if not isinstance(arguments, dict):
        return [] if arguments is None else ["ss_network_args"]
    return [f"ss_network_args {name[:40]}" for name in arguments if not _NETWORK_ARGS.fullmatch(name)]
