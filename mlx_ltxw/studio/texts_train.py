"""The words of the page that trains adapters."""

from __future__ import annotations

CLIPS = "Clips"
FOLDER = "Folder of clips, or a JSONL"
FOLDER_HINT = "/home/… or ~/…"
FOLDER_HELP = "Sound or video files with captions of the same name beside them: clip.wav, clip.txt."
LOOK = "Look"
LOOKING = "Looking …"
LISTENED = "{stage}: {done} of {total} …"
STAGES = {
    "find": "Finding clips",
    "check": "Listening to clips",
    "latents": "Encoding clips",
    "text": "Encoding captions",
    "training": "Training",
    "sampling": "Listening samples",
    "opening": "Opening the model",
    "waiting": "Waiting",
}
SUMMARY = "{clips} clips · {seconds} s · voices: {voices} · errors: {errors} · warnings: {warnings}"
CAPTION_OF = "Caption of {name}"
NO_CAPTION = "no caption yet"
SAVED = "saved"
UNSAVED = "not saved"
NOT_SAVED = "Nothing was written."
TAKE_THEIRS = "Take the file's"
KEEP_MINE = "Write mine over it"
READ_ONLY = "Captions of a JSONL, and of files linked from elsewhere, are edited where they lie."
CUT_AT = "becomes {count} clips, cut at {places} s"
MORE = "Show {count} more"
FILTER = "Only with findings"
PLAY, PAUSE = "Play", "Pause"
WAVEFORM_OF = "Waveform of {name}"
NOT_SHOWN = "The sound cannot be shown."

RUN = "New run"
NAME = "Name"
NAME_HINT = "letters, digits, dots and dashes"
STEPS = "Steps"
RANK = "Rank"
LEARNING_RATE = "Learning rate"
BATCH_SIZE = "Clips a step"
MODEL = "Model (a folder or repository; empty for the built-in one)"
SPEAKER = "Speaker of clips that do not tell"
MANNER = "Manner of clips that do not tell"
SCENE = "Scene of clips that do not tell"
AUDIO_ONLY = "Sound alone, without pictures"
MORE_OPTIONS = "All options"
START = "Start training"
STARTED = "{name} is in the queue."
NAME_TAKEN = ("There is a run {name} already.", "Choose another name, or go on with that one below.")
BAD_NAME = ("{name} cannot be the name of a run.", "Use letters, digits, dots and dashes.")
NEED_FOLDER = ("No folder is chosen.", "Give the folder of clips, and press Look.")

RUNS = "Runs"
NO_RUNS = "No run yet."
STOP = "Stop"
RESUME = "Go on"
USE = "Use in Make"
STEPS_IN_ALL = "Steps in all"
REACHED = "step {step} of {steps}"
FINISHED = "finished"
WAITING = "waits in the queue"
STOPPING = "stopping after this step …"
LEFT = "{time} left"
AT_ONCE = "Stop at once"
LOSS = "Loss"
STEP_AXIS = "steps"
EACH_STEP, MEAN, HELD_OUT = "each step", "running mean", "clips kept back"
LOSS_NOW = "Loss {loss} at step {step}"
SAMPLES = "Listening samples"
BASE = "base model"
AFTER = "after {step} steps"
SAMPLES_HELP = "All from the same noise: what differs is the adapter. Space plays, 1 to 6 switch at the same moment."
NO_SAMPLES = "The first listening samples come with the run."
OPEN_RUN = "Open {name}"
READ_FAULT = "This run cannot be read: {reason}"

FIELDS = {"speaker": SPEAKER, "manner": MANNER, "scene": SCENE, "audio_only": AUDIO_ONLY, "data": FOLDER,
          "frames": "the option frames", "resume": RESUME, "transcribe": "--transcribe of the command",
          "force": "--force of the command"}  # fmt: skip
"""How sentences of the training room call what they name."""


def spelling(name: str, value: str | None) -> str:
    """A field as this page calls it."""
    return f"“{FIELDS.get(name, name)}”"
