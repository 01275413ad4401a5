"""Script files."""

import json

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.script import Part, read_script

YAML = """
- {scene: dim room, speaker: woman, manner: whispering, line: close your eyes, seconds: 4}
- {speaker: man, manner: whispering, line: "why?"}
- {scene: a street, speaker: man, manner: normal, line: Taxi!}
"""


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_yaml(tmp_path):
    assert read_script(write(tmp_path, "s.yaml", YAML)) == [
        Part('a dim room, (woman, whispering): "close your eyes"', 4.0),
        Part('a dim room, (man, whispering quietly): "why?"', None),
        Part('a street, (man): "Taxi!"', None, normal=True),
    ]


def test_lines(tmp_path):
    text = '# a comment\n\na room, (woman, whispering): "yes"\n  a room, (man, speaking softly): "no"  \n'
    assert read_script(write(tmp_path, "s.txt", text)) == [
        Part('a room, (woman, whispering): "yes"', None),
        Part('a room, (man, speaking softly): "no"', None),
    ]


def test_json_and_what_windows_saves(tmp_path):
    items = [{"scene": "dim room", "speaker": "woman", "manner": "whispering", "line": "schließ die Augen"}]
    wanted = [Part('a dim room, (woman, whispering): "schließ die Augen"')]
    line = 'a dim room, (woman, whispering): "schließ die Augen"\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        for name, text in (("s.json", json.dumps(items)), ("s.yaml", json.dumps(items)), ("s.txt", line)):
            (tmp_path / name).write_bytes(text.encode(encoding))
            assert read_script(tmp_path / name) == wanted
    with pytest.raises(UserError, match="is not valid JSON: the name 'line' occurs twice"):
        read_script(write(tmp_path, "s.json", '[{"line": "a", "line": "b"}]'))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("s.txt", "a river\n", "Line 1 .* is not one part"),
        ("s.txt", '\n(man): "a", (man): "b"\n', "Line 2 "),
        ("s.txt", "(man, speaking softly): stay\n", "Line 1 "),
        ("s.txt", "# only\n", "is empty"),
        ("s.yaml", "[", "is not valid YAML"),
        ("s.yaml", "a: 1", "is no list"),
        ("s.yaml", "- hello", "Part 1 .* is no table"),
        ("s.yaml", "- {speaker: man, manner: soft, line: x}", "Part 1 .* lacks scene"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: 5}", "Part 1 .* lacks line"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, second: 5}", "unknown key second"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seconds: -5}", "seconds is -5"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seconds: 0}", "seconds is 0"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seconds: 601}", "seconds is 601"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seconds: true}", "seconds is True"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, strength: true}", "strength is True"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, strength: []}", "strength is ..."),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, adapter: 5}", "adapter is 5"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, adapter: [a, '']}", "adapter is"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, adapter: [1]}", "adapter is .1."),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seed: 1.5}", "seed is 1.5"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seed: x}", "seed is 'x'"),
        ("s.yaml", "- {scene: a, speaker: man, manner: soft, line: x, seed: true}", "seed is True"),
        ("s.yaml", "- {scene: a, speaker: man, manner: loud, line: x}", "Part 1 .* manner 'loud'"),
    ],
)
def test_mistakes_are_located(tmp_path, name, text, words):
    with pytest.raises(UserError, match=words):
        read_script(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ("strength: 0.5", {"strength": "0.5"}),
        ("strength: 2", {"strength": "2"}),
        ("strength: audio_attn1=0.5", {"strength": "audio_attn1=0.5"}),
        ("adapter: none", {"adapters": ()}),
        ("adapter: soft.safetensors", {"adapters": ("soft.safetensors",)}),
        ("adapter: [a, b]", {"adapters": ("a", "b")}),
        ("seed: 7", {"seed": 7}),
        ("seconds: 600", {"seconds": 600.0}),
        ("seconds: 0.5", {"seconds": 0.5}),
    ],
)
def test_a_part_may_have_settings_of_its_own(tmp_path, fields, wanted):
    text = f"- {{scene: a street, speaker: man, manner: normal, line: Taxi!, {fields}}}"
    assert read_script(write(tmp_path, "s.yaml", text)) == [Part('a street, (man): "Taxi!"', normal=True, **wanted)]


def test_unreadable(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_script(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_script(tmp_path / "binary.txt")
