"""The agents on the nodes: one child process each, by whatever command leads there (ssh, nsenter, a container's exec).

Must not know: what is asked. Read next: `netscope/agent.py`.
"""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Mapping
from types import TracebackType

import msgspec

from netscope.clocks import ahead
from netscope.door import words_of
from netscope.records import Answer, Clock, Failed, Question, Time
from nodecore.errors import Fault, Unreachable, UserError

ROUNDS = 3  # of comparing clocks; the quickest counts


class Nodes:
    """An agent on every node, from `with` to its end. `via` is a command line with `{node}` in it.

    Ctrl-C at the terminal is not for them: they are asked to finish.
    """

    def __init__(self, names: tuple[str, ...], via: str) -> None:
        self._decode = msgspec.json.Decoder(Answer).decode
        try:
            self._agents = {
                name: subprocess.Popen(
                    words_of(via, name),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                    process_group=0)
                for name in names}
        except OSError as error:
            raise UserError(f"--via: {via!r} cannot be started: {error.strerror}") from None

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for agent in self._agents.values():
            assert agent.stdin
            agent.stdin.close()
        for agent in self._agents.values():
            try:
                agent.wait(5)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()

    def ask_all(self, question: Question, seconds: float) -> Mapping[str, Answer]:
        """Everybody the same, at the same time."""
        for name in self._agents:
            self._send(name, question)
        return {name: self._receive(name, seconds) for name in self._agents}

    def ask_each(self, question: Question | Mapping[str, Question], seconds: float) -> dict[str, Answer | Fault]:
        """Everybody the same, or each its own; a fault in place of an answer where there is none."""
        questions = question if isinstance(question, Mapping) else dict.fromkeys(self._agents, question)
        answers: dict[str, Answer | Fault] = {}
        for name, each in questions.items():
            try:
                self._send(name, each)
            except Fault as fault:
                answers[name] = fault
        for name in questions:
            try:
                if name not in answers:
                    answers[name] = self._receive(name, seconds)
            except Fault as fault:
                answers[name] = fault
        return answers

    def clocks(self, seconds: float) -> dict[str, int]:
        """How far each node's clock is ahead of ours, in ns."""

        def round_of(name: str) -> tuple[int, int, int]:
            begin = time.time_ns()
            answer = self.ask(name, Clock(), seconds)
            assert isinstance(answer, Time)
            return begin, answer.now, time.time_ns()

        return {name: ahead(round_of(name) for _ in range(ROUNDS)) for name in self._agents}

    def ask(self, name: str, question: Question, seconds: float) -> Answer:
        """One node."""
        self._send(name, question)
        return self._receive(name, seconds)

    def _send(self, name: str, question: Question) -> None:
        pipe = self._agents[name].stdin
        assert pipe
        try:
            pipe.write(msgspec.json.encode(question) + b"\n")
        except BrokenPipeError:
            raise Unreachable(f"{name}: {self._last_words(name)}") from None

    def _receive(self, name: str, seconds: float) -> Answer:
        pipe = self._agents[name].stdout
        assert pipe
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([pipe], [], [], seconds)[0]:
                raise Unreachable(f"{name}: no answer within {seconds:.0f} s")
            piece = pipe.read(1 << 16)
            if not piece:
                raise Unreachable(f"{name}: {self._last_words(name)}")
            line += piece
        answer: Answer = self._decode(line)
        if isinstance(answer, Failed):
            raise Fault(f"{name}: {answer.why}")
        return answer

    def _last_words(self, name: str) -> str:
        pipe = self._agents[name].stderr
        assert pipe
        words = pipe.read().decode(errors="replace").strip().splitlines()
        return words[-1] if words else "its agent ended without a word"
