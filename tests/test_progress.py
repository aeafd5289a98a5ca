"""Progress in a log file: whole lines, few of them."""

import io
import time

from rosita.progress import Bar


def test_a_log_gets_a_line_at_the_start_and_at_the_end_and_none_between_for_ten_seconds():
    log = io.StringIO()
    with Bar(total=50, desc="train", unit="step", file=log) as bar:
        for _ in range(50):
            time.sleep(0.005)
            bar.update()
    lines = log.getvalue().splitlines()
    assert [line.split("|")[0] for line in lines] == ["train:   0%", "train: 100%"]
    assert "50/50" in lines[1] and "\r" not in log.getvalue()


def test_a_terminal_is_drawn_over():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    with Bar(total=2, file=screen, mininterval=0) as bar:
        bar.update()
        bar.update()
    assert screen.getvalue().count("\r") >= 3
