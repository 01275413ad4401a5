"""The entry point in a process of its own: signals, and a stderr that nobody reads."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'mlx-ltxw'; from mlx_ltxw.cli import main; main()"]
SMALL = ("--audio-only", "--frames", "9", "--steps", "1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_leaves_nothing(tmp_path, number, code):
    command = [*COMMAND, "generate", PROMPT, "-o", str(tmp_path / "out.mp4"), "--steps", "1000"]
    environment = os.environ | {"MLX_LTXW_CACHE": "0"}  # so that it says when it has encoded
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    for line in process.stderr:
        if line.startswith("prompt encoded"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait() == code
    assert "Stopped; nothing half-written was left behind." in rest
    assert "Traceback" not in rest
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("delay", [0.1, 0.3, 0.8])
def test_ctrl_c_while_it_starts_gives_no_traceback(tmp_path, delay):
    code = COMMAND[2].replace("main()", "print('ready', flush=True); main()")
    command = [*COMMAND[:2], code, "generate", PROMPT, "-o", str(tmp_path / "out.mp4"), "--steps", "1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert "Traceback" not in told


@pytest.mark.parametrize("closing", ["2>&-", "2> >(exec true)"])
def test_a_closed_stderr_ends_nothing(tmp_path, closing):
    words = [*COMMAND, "generate", PROMPT, "-o", str(tmp_path / "out.wav"), *SMALL]
    done = subprocess.run(["bash", "-c", f'"$@" {closing}', "bash", *words], stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout.decode().strip() == str(tmp_path / "out.wav")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_knows_which_signal_asked_it_to_end(number):
    from mlx_ltxw.cli.train import _asked_to_stop

    before = signal.getsignal(number)
    with _asked_to_stop() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        assert asked.number == number
    assert signal.getsignal(number) == before
