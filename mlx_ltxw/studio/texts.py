"""Every English word of the page, in one place; sentences of the rest of the program come from there."""

from __future__ import annotations

NAME = "mlx-ltxw studio"
MAKE, HEAR, KEEP, TRAIN = "Make", "Hear", "Keep", "Train"

# The frame
SKIP = "Skip to the page"
NAVIGATION = "Pages"
THEME = "Colours"
THEMES = {"auto": "as the system", "light": "light", "dark": "dark"}

# What is said
WORDS = "Words"
MODES = {"sentence": "Sentence", "free": "Free prompt", "script": "Script"}
MODE = "How the words are given"
SCENE, SPEAKER, MANNER, LINE = "Scene", "Speaker", "Manner", "Line"
SCENE_HINT = "What is seen: a woman in dim light"
LINE_HINT = "What is said"
SPEAKERS = {"woman": "Woman", "man": "Man"}
MANNERS = {"whispering": "Whispering", "soft": "Soft", "normal": "Normal"}
PROMPT = "Prompt"
PROMPT_HINT = 'What is seen and, in quotes, what is said: a dim room, (woman, whispering): "close your eyes"'
SENTENCE_EMPTY = "The sentence will stand here."
SENTENCE = "The sentence"
KNOWN_LINES = "Lines this model knows"
PART, PART_SECONDS, PART_SEED = "Part", "Seconds", "Seed"
ADD_PART, REMOVE_PART, PART_UP, PART_DOWN = "Add a part", "Remove part", "Move up part", "Move down part"
TRY_PART = "Try part"
TAKE_OF_PART = "Take of part"
ANY = "any"

EXAMPLE_SCENE, EXAMPLE_LINE = "a woman in dim light", "close your eyes"

# How it sounds
VOICE = "Voice"
ADAPTER, ADAPTER_HINT = "Adapter", "A name, a file, or OWNER/REPO"
STRENGTH, STRENGTH_HINT = "Strength", "1, or audio_attn1=1, video_to_audio_attn=0.5"
NO_ADAPTER = "No adapter: the model's plain voice"
ADD_ADAPTER, REMOVE_ADAPTER = "Add an adapter", "Remove adapter"
LOCK = "The picture"
LOCKS = {True: "Stays as it is", False: "Lips follow"}
LOCK_HINT = {
    True: "Exactly the picture that there is without the adapter.",
    False: "The adapter moves the picture too.",
}
TAKES, TAKES_HINT = "Takes on one picture", "3, or: whispering, soft, normal"

# Size
SIZE_HEADING = "Size"
SIZE, SECONDS, STEPS = "Picture", "Seconds", "Steps"
SOUND_ALONE = "Sound alone"
SEED, CLIPS = "Seed", "Clips"
OWN = "the model's own"
OWN_SIZE = "{width} × {height} (own)"

# What is given
GIVEN = "Given"
DROP = "Drop a picture, a sound or a clip here, or choose one"
DROP_MADE = "A clip of the studio's own brings its request along."
CHOOSE = "Choose a file"
GIVEN_SOUND, GIVEN_CLIP, GIVEN_IMAGE = "Sound", "Clip", "Picture"
REMOVE_GIVEN = "Remove"
AT_FRAME, IMAGE_STRENGTH = "At frame", "Strength"
SOUND_USES = {"keep": "Keep this sound, make a picture", "revoice": "Say its line again in this voice"}
CLIP_USES = {
    "voice": "Keep the picture, make a new voice",
    "revoice": "Say its line again in this voice",
    "retake": "Make a stretch anew",
    "extend": "Make it longer",
}
USE = "What for"
REVOICE = "How far from the original, 0 to 1"
RETAKE, RETAKE_WHAT = "Seconds, from-to: 1.2-2.4", "What of them"
RETAKES = {"both": "Picture and sound", "picture": "Picture", "sound": "Sound"}
EXTEND = "Seconds; negative: before it begins"
OPEN_REQUEST = "Open its request"
USE_AS_CLIP = "Use as a clip"
MADE_HERE = "This file carries the request that made it."
LEFT_OUT = "Its request names files of its maker's machine, which are left out: {names}. Give your own if need be."
UPLOADING = "Reading {name} …"

# More
MORE = "More"
MODEL, MODEL_HINT = "Model", "A folder, or OWNER/REPO; empty for the built-in model"
TEXT_ENCODER, TEXT_ENCODER_HINT = "Text encoder", "Only for a model that has none"
MEMORY = "Memory to use, GB"
NEGATIVE = "Away from"
PIPELINE, PIPELINES = "Pipeline", {"": OWN, "one-stage": "One stage", "two-stage": "Two stages", "hq": "HQ"}
UPSAMPLER = "Upsampler"
DISTILLED_LORA = "Distilled LoRA"
REGISTER_AT = "Strength in time"
REGISTER_AT_HINT = "0-2=whispering,2-4=normal"
DTYPE, DTYPES = "Numbers", {"": OWN, "bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}
FUSE, ALLOW_PARTIAL = "Fuse into quantised weights too", "Leave out what of an adapter has no place"
SOFTEN_ONSET, REMOVE_OFFSET = "Soften a click at the start", "Take out what lies below 20 Hz"
GUIDANCE = {"cfg": "CFG", "stg": "STG", "modality": "Modality", "rescale": "Rescale"}
VIDEO_GUIDANCE, AUDIO_GUIDANCE = "Picture guidance", "Sound guidance"
CLEAR = "Empty the form"

# The plan and the button
MAKE_IT = "Make"
DOWNLOAD_AND_MAKE = "Download and make"
INCOMPLETE = "Fill in the scene and the line."
QUEUED = "In the queue"
ABOUT_SECONDS = "about {time}"
NO_TIME_YET = "time is known after the first clip"
NOT_HERE_YET = "Not on this disk yet; it is downloaded when the clip is made."
PARTS = "{count} parts, "
NEEDS = "{need} of {limit} memory"
PLAN_DETAILS = "What each part needs"
PLAN_COLUMNS = ("Part", "Weights", "Other", "Peak", "Read")

# The queue
QUEUE = "Queue"
QUEUE_EMPTY = "Nothing is being made."
QUEUE_FULL = ("200 jobs wait already.", "Wait until some are done, or cancel some.")
CANCEL, TRY_AGAIN, DISMISS = "Cancel", "Try again", "Dismiss"
STAGES = {
    "opening": "Opening the model", "encoding": "Reading the prompt", "loading": "Loading the model",
    "denoising": "Step", "decoding": "Drawing frames", "part": "Part", "cancelling": "Ending",
}  # fmt: skip
WAITING, FAILED, CANCELLED = "waiting", "failed", "cancelled"
PROGRESS = "Progress"
PREVIEW = "Preview of the clip"
MORE_WAIT = "and {count} more"
LATEST = "Just made"
LATEST_EMPTY = "What you make appears here."
LEFT = "{time} left"

# Takes
AGAIN, CHANGE, LISTEN, REQUEST = "Again with a change", "Change", "Compare", "Request"
STAR = "Star"
PLAY = "Play"
ASKED_HEARD = "{heard}, asked for {asked}"
SURE = "{share:.0%} sure"
SEED_OF = "seed {seed}"
REGISTERS = {
    "whispering": "whispering", "soft": "soft", "normal": "normal", "mixed": "mixed", "no speech": "no speech",
}  # fmt: skip

# Keep
SEARCH, SEARCH_HINT = "Search", "Words of the prompt, the note or the register"
ONLY_STARRED = "Starred"
SHOW_MORE = "Show more"
NOTHING_FOUND = "No take has all these words."
NOTHING_KEPT = "Nothing has been made yet."
COMPARE = "Compare {count}"
SELECT = "Select for comparing: take"
COUNT, COUNT_ONE = "{count} takes", "1 take"
COPY, COPIED = "Copy", "Copied"
COMMAND, PYTHON, SCRIPT_FILE = "Command line", "Python", "script.json"
CLOSE = "Close"
NO_SUCH_TAKE = "There is no such take."

# The words of a request's fields, for sentences that name them
FIELDS = {
    "prompt": PROMPT, "adapters": ADAPTER, "images": GIVEN_IMAGE, "video": GIVEN_CLIP, "audio": GIVEN_SOUND,
    "seeds": SEED, "takes": TAKES, "width": SIZE, "height": SIZE, "frames": SECONDS, "frame_rate": "frames a second",
    "steps": STEPS, "pipeline": PIPELINE, "upsampler": UPSAMPLER, "distilled_lora": DISTILLED_LORA,
    "register_at": REGISTER_AT, "revoice": CLIP_USES["revoice"], "retake": CLIP_USES["retake"],
    "retake_what": RETAKE_WHAT, "extend": CLIP_USES["extend"], "audio_only": SOUND_ALONE, "lock_video": LOCK,
    "fuse": FUSE, "allow_partial": ALLOW_PARTIAL, "dtype": DTYPE, "script": MODES["script"], "model": MODEL,
    "text_encoder": TEXT_ENCODER, "memory": MEMORY, "negative_prompt": NEGATIVE,
}  # fmt: skip
FIELD_VALUES: dict[tuple[str, str | None], str] = {
    ("lock_video", "False"): LOCKS[False], ("lock_video", "True"): LOCKS[True],
}  # fmt: skip

# Refused, or gone wrong
WRONG_HOST = "This studio is not called by that name. Open the address that `mlx-ltxw studio` printed."
WRONG_ORIGIN = "Another page asked for this; only the studio's own may."
WRONG_REQUEST = "That request makes no sense."
NO_TOKEN = "This studio needs its token. Open the address that `mlx-ltxw studio` printed, token and all."
TOO_LARGE = "That is larger than the studio takes."
TOO_MANY_UPLOADS = ("The studio's folder holds as many dropped files as it may.", "Remove some from its `uploads`.")
HELPER_DIED = ("The plan was not made: its process ended.", "Try again; `helper.log` in the studio's folder says why.")


def worker_died(code: int) -> str:
    """Why a job failed whose process is gone."""
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return (
        f"The process that computes ended {how}, twice. Perhaps there was too little memory: choose a smaller size, or "
        "look into `worker.log` in the studio's folder."
    )


def in_time(seconds: float) -> str:
    """A stretch of time in a few letters: `8 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
