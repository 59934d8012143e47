"""Signals, closed streams, and errors of the operating system, in processes that run an entry point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hgfast.errors import HgfastError, printable
from tests.conftest import ROOT, TIMEOUT

FULL_DISK = "cannot write the output (No space left on device): free some space and try again"
WRITE_FOREVER = """
    with atomic_write(Path(sys.argv[1])) as temp_path:
        temp_path.write_text("half")
        print("ready", flush=True)
        while True: time.sleep(0.05)
"""


def script(body: str) -> list[str]:
    """Return a command that runs `body`, indented by four spaces, as an entry point's main."""
    imports = "import os, sys, time\nfrom pathlib import Path\nfrom hgfast.entry_point import *\nfrom hgfast.errors import *\n"
    return [sys.executable, "-c", f"{imports}from hgfast.fileio.files import *\ndef main():\n{body}\nrun_main(main)"]


def run(body: str, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*script(body), *map(str, words)], capture_output=True, text=True, timeout=TIMEOUT, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_command_after_its_cleanup(tmp_path: Path, signum: signal.Signals) -> None:
    with subprocess.Popen(
        [*script(WRITE_FOREVER), str(tmp_path / "a.txt")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signum)
        stderr = process.communicate(timeout=TIMEOUT)[1]
    assert process.returncode == 128 + signum and list(tmp_path.iterdir()) == []
    assert stderr == ("interrupted\n" if signum == signal.SIGINT else "")


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    result = run(
        "    import signal\n    os.kill(os.getpid(), signal.SIGHUP)\n    print('alive')",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")


def test_a_second_signal_does_not_interrupt_the_cleanup() -> None:
    body = """
    import signal
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        print("clean")"""
    result = run(body)
    assert (result.returncode, result.stdout, result.stderr) == (143, "clean\n", "")


def test_interruption_that_compiled_code_turns_into_another_error() -> None:
    body = """
    import signal
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("numpy.core failed to import")"""
    result = run(body)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


MEMORY = "free some, or use smaller batches or inputs"
LINKER = "libx.so: failed to map segment from shared object"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("Path('nowhere/a').open()", "cannot use nowhere/a (No such file or directory): check the path and its permissions"),
        ("Path('x' * 300).stat()", f"cannot use {'x' * 300} (File name too long): check the path and its permissions"),
        ("bytearray(1 << 60)", f"there is not enough memory (MemoryError): {MEMORY}"),
        (f"raise ImportError('{LINKER}')", f"there is not enough memory ({LINKER}): {MEMORY}"),
        ("raise ModuleNotFoundError(name='h5py')", "this needs h5py, which is not installed: pip install 'hgfast[train]'"),
        ("raise HgfastError('no\\x1b[31m image\\n at \\udce9')", r"no\x1b[31m image\n at \udce9"),
        ("os.write(os.open('/dev/full', os.O_WRONLY), b'x')", FULL_DISK),
    ],
)
def test_errors_are_one_sentence(body: str, message: str) -> None:
    result = run(f"    {body}")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"error: {message}\n")


def test_a_bug_keeps_its_traceback() -> None:
    result = run("    {}['x']")
    assert result.returncode == 1 and "KeyError: 'x'" in result.stderr


@pytest.mark.parametrize(
    "body", ["    print('x' * 100)", "    print('x'); sys.exit(1)", "    while True: print('x', flush=True)"]
)
def test_a_closed_pipe_is_no_error_with_a_message(body: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        result = subprocess.run(script(body), stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
    assert (result.returncode, result.stderr) == (141, "")


def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(
            script("    print('x')"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False
        )
    assert result.returncode == 2 and result.stderr == f"error: {FULL_DISK}\n"


def test_closed_output_can_be_ignored() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    body = """
    with ignore_closed_output():
        for _ in range(3): print("x", flush=True)
        print("x", file=sys.stderr, flush=True)"""
    with os.fdopen(writer, "w") as pipe:
        assert subprocess.run(script(body), stdout=pipe, stderr=pipe, timeout=TIMEOUT, check=False).returncode == 0


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Otherwise what libraries print would end in the file."""

    def close_streams() -> None:
        for number in (0, 1, 2):
            os.close(number)

    body = "    file = open(sys.argv[1], 'w')\n    os.write(1, b'printed')\n    print('x'); file.write('content')"
    process = subprocess.run([*script(body), str(tmp_path / "a")], preexec_fn=close_streams, timeout=TIMEOUT, check=False)
    assert process.returncode == 0 and (tmp_path / "a").read_text() == "content"


def test_characters_that_the_encoding_lacks_are_escaped() -> None:
    result = run("    print('\\U0001f3c3 \\udce9')", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stdout) == (0, "\\U0001f3c3 \\udce9\n")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("hände/b c.jpg", "hände/b c.jpg"),
        ("a\nb", "a\\nb"),
        ("\x1b]0;t\x07", "\\x1b]0;t\\x07"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable(text: str, printed: str) -> None:
    assert printable(text) == printed and str(HgfastError(text)) == printed


def test_a_signal_that_a_library_ends_on_is_not_forgotten() -> None:
    body = """
    import signal
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        pass"""
    assert run(body).returncode == 143


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    result = run(
        "    print('x')", cwd=tmp_path / "gone", preexec_fn=(tmp_path / "gone").rmdir, env={**os.environ, "PYTHONPATH": path}
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: the current folder cannot be used (No such file or directory): change to another one\n"


SWALLOWED = """
    import signal, weakref
    from hgfast import shutdown
    shutdown.RESEND_DELAY, shutdown.SECOND_SIGNAL_DELAY = float(sys.argv[1]), float(sys.argv[2])
    class Object: pass
    one = Object()
    reference = weakref.ref(one, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del one
    print("alive", flush=True)
"""


def test_a_signal_whose_exception_python_ignores_is_sent_again() -> None:
    """As happens during imports, which use weak references."""
    result = run(f"{SWALLOWED}    while True: time.sleep(0.01)", 0.01, 1000)
    assert (result.returncode, result.stdout, result.stderr) == (143, "alive\n", "")


def test_training_ends_by_a_signal_that_was_ignored_before() -> None:
    body = "    with shutdown.GracefulShutdown().catch_signals() as state: print(state.signal_received)"
    result = run(f"{SWALLOWED}{body}", 1000, 1000)
    assert (result.returncode, result.stdout) == (143, "alive\n15\n")


def test_a_later_signal_raises_again() -> None:
    body = """
    import signal
    from hgfast import shutdown
    shutdown.SECOND_SIGNAL_DELAY = 0
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        print("first", flush=True)
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")"""
    result = run(body)
    assert (result.returncode, result.stdout) == (143, "first\n")
