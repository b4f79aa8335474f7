"""Pid 1 of a phase's container: waits for the harness's word, starts the command, collects every process, and ends with
the last one, or with the harness. Handed to the image's Python as text; standard library only; runs as the phase's uid.

stdin: one byte is the word to start; its end means that the harness is gone. stdout: the command's. stderr: init's own
word to the harness, `exited N`; the command cannot write there, as init cannot be looked into."""

import ctypes
import json
import os
import select
import signal
import sys

PR_SET_DUMPABLE, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 4, 22, 2
NOT_EXECUTABLE, HARNESS_IS_GONE = 127, 143
libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def become_command(plan, word):
    """In the child: wait, install the filter, execute."""
    if os.read(word, 1) != b"x":
        os._exit(HARNESS_IS_GONE)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(1, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # which Python has changed
        signal.signal(number, signal.SIG_DFL)
    code = bytes.fromhex(plan["seccomp"])
    program = Program(len(code) // 8, code)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        os._exit(NOT_EXECUTABLE)
    try:
        os.execvpe(plan["command"][0], plan["command"], plan["environment"])
    except OSError as error:
        os.write(1, f"{plan['command'][0]}: {error.strerror}\n".encode())
    os._exit(NOT_EXECUTABLE)


def main():
    plan = json.loads(sys.argv[1])
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    word, give_word = os.pipe()
    ended, end = os.pipe()
    os.set_blocking(end, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = os.fork()
    if command == 0:
        os.close(give_word)
        become_command(plan, word)
    signal.set_wakeup_fd(end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(ended, select.POLLIN)
    exit_code = NOT_EXECUTABLE
    while True:
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == command:
                    exit_code = os.waitstatus_to_exitcode(found[1])
                    exit_code = exit_code if exit_code >= 0 else 128 - exit_code
                    os.write(2, f"exited {exit_code}\n".encode())
        except ChildProcessError:  # the last one is gone
            os._exit(exit_code)
        for descriptor, _ in poll.poll():
            if descriptor == ended:
                os.read(ended, 4096)
            elif data := os.read(0, 1):
                os.write(give_word, data)
            else:
                os._exit(HARNESS_IS_GONE)  # and with pid 1 everything else


main()
