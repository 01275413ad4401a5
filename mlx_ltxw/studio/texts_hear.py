"""The words of the page that compares takes."""

from __future__ import annotations

from typing import Any

NOTHING_CHOSEN = "Choose takes to hear side by side."
HOW_TO_CHOOSE = "Tick up to six below, or under Keep, and press Hear."
HEAR_CHOSEN = "Hear these"
TOO_MANY = "At most {count} takes, and {minutes} minutes of sound together, fit side by side."
LISTENING = "Measuring …"
DELETED = "{title} is deleted."
UNDO = "Undo"
DELETED_TAKES = "Deleted in the last week"
RESTORE = "Bring back"
RESTORED = "{title} is back."
EXPORT_TITLE = "Export {title}"
AS_MP4 = "Video with sound (mp4)"
AS_WAV = "Sound (wav)"
CLOSE = "Close"
SAME_PICTURES = "The pictures are the same in all {frames} frames."
OTHER_PICTURES = (
    "{share} of {frames} frames differ; by {mean} of 255 levels in the mean, and most, {most} levels, at {second} s."
)
OTHER_SIZES = "The pictures have different sizes, so they cannot be compared."
LIPS_FOLLOW = "With lips that follow"
UNDER_LOCK = "Under the lock"
NO_OTHER_WAY = "The lock makes no difference to this take."
MAKING_OTHER = "{way}: in the queue. It comes beside the others when it is made."
ADD = "Add or change takes"

DECK: dict[str, Any] = {
    "transport": "Playing",
    "play": "Play",
    "pause": "Pause",
    "loop": "Loop",
    "matched": "Equally loud",
    "difference": "Difference of pictures",
    "keys": "Keys",
    "position": "Position",
    "seconds": "seconds",
    "loading": "Loading the sound …",
    "unreadable": "The sound of {letter} cannot be loaded. Open this page again.",
    "hear_this": "Hear this one (key {key})",
    "picture_of": "Picture of {letter}",
    "waveform_of": "Waveform of {letter}",
    "spectrogram_of": "Spectrogram of {letter}",
    "sound_alone": "sound alone",
    "stars_of": "Stars of {letter}",
    "star": "{count} of 5 stars",
    "note": "Note",
    "note_of": "Note on {letter}",
    "export": "Export",
    "again": "Again with a change",
    "put_aside": "Put aside",
    "delete": "Delete",
    "as_asked": "as asked",
    "but_asked": "asked for {asked}",
    "sure": "sure",
    "voiced": "voiced",
    "loud": "loudness",
    "now": "second {second}: {register}, {lufs} LUFS, {voiced} % voiced, {sure} % sure",
    "now_nothing": "nobody speaks here",
    "matched_by": "Equally loud, by dB: {gains}",
    "difference_of": "{one} − {other}, eight times as bright",
    "comparing": "Comparing …",
    "key_list": [
        ["Space", "play, pause"],
        ["1 … 6", "hear this take, at the same moment"],
        ["X", "back and forth between the last two"],
        ["↑ ↓", "the take above, below"],
        ["← →", "a tenth of a second; with Shift a second"],
        [", .", "a frame"],
        ["Home End", "start, end"],
        ["[ ]", "the loop begins, ends here"],
        ["L", "loop the selection, or all"],
        ["Z", "zoom to the selection, and back"],
        ["Esc", "no selection"],
        ["M", "equally loud"],
        ["D", "difference of pictures"],
        ["S", "one star more"],
        ["N", "write a note"],
        ["E", "export"],
        ["Delete", "delete"],
        ["Ctrl+Z", "undo"],
    ],
}
