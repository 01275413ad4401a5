"""`FILE|REPO[:STRENGTH]` taken apart."""

import pytest

from mlx_ltxw.adapter.strength import Strength, parse_adapter, parse_strength
from mlx_ltxw.errors import UserError


@pytest.mark.parametrize(
    ("text", "source", "default", "modules"),
    [
        ("a.safetensors", "a.safetensors", 1.0, {}),
        ("a.safetensors:0.8", "a.safetensors", 0.8, {}),
        ("a.safetensors:-1", "a.safetensors", -1.0, {}),
        ("dir/a.safetensors:1e-1", "dir/a.safetensors", 0.1, {}),
        ("owner/name", "owner/name", 1.0, {}),
        ("owner/name/x.safetensors@main:2", "owner/name/x.safetensors@main", 2.0, {}),
        ("whisper:0.5", "whisper", 0.5, {}),
        (r"C:\adapters\a.safetensors", r"C:\adapters\a.safetensors", 1.0, {}),
        (r"C:\adapters\a.safetensors:0.5", r"C:\adapters\a.safetensors", 0.5, {}),
        ("x:audio_attn1=1,audio_attn2=1,video_to_audio_attn=0.5", "x", 1.0,
         {"audio_attn1": 1.0, "audio_attn2": 1.0, "video_to_audio_attn": 0.5}),
        ("x:0.7,audio_attn1.to_k=0", "x", 0.7, {"audio_attn1.to_k": 0.0}),
    ],
)  # fmt: skip
def test_parts(text, source, default, modules):
    assert parse_adapter(text) == (source, Strength(default, modules))


@pytest.mark.parametrize(
    "text", ["x:abc", "x:nan", "x:inf", "x:", "x:1,2", "x:a=", "x:a=b", "x:a=1,a=2", "x:=1", "x:a b=1"]
)
def test_no_strength(text):
    with pytest.raises(UserError, match=r"no strength|given twice"):
        parse_adapter(text)


def test_an_existing_file_may_hold_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:0.5").write_bytes(b"")
    assert parse_adapter("odd:0.5") == ("odd:0.5", Strength())
    assert parse_adapter("odd:0.5:0.25") == ("odd:0.5", Strength(0.25))


def test_a_name_longer_than_any_file_s_is_none():
    assert parse_adapter("x" * 300 + ":0.5") == ("x" * 300, parse_strength("0.5"))
    with pytest.raises(UserError, match="is no strength"):
        parse_adapter("a:" + "x" * 300)


def test_the_longest_part_counts_and_parts_are_whole_words():
    strength = parse_strength("0.5,attn1=2,transformer_blocks.3=4,transformer_blocks.3.attn1.to_q=8")
    assert strength.of("transformer_blocks.0.audio_attn1.to_q") == 0.5
    assert strength.of("transformer_blocks.0.attn1.to_q") == 2
    assert strength.of("transformer_blocks.3.audio_attn1.to_q") == 4
    assert strength.of("transformer_blocks.33.audio_attn1.to_q") == 0.5
    assert strength.of("transformer_blocks.3.attn1.to_q") == 8


@pytest.mark.parametrize("text", ["0.5", "1", "0.5,a=2", "a=2,b.c=0"])
def test_its_text_reads_back(text):
    assert parse_strength(str(parse_strength(text))) == parse_strength(text)
