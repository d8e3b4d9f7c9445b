"""What the benchmarks print: Markdown, ready for RESULTS.md."""

from pathlib import Path

from benchmarks.operations import Work, reached

SUITE = "train.py"  # the contestant that the others are compared with


class Page:
    """Prints lines, and keeps them in a file if there is a name for one."""

    def __init__(self, path):
        self.path, self.lines = path, []

    def __call__(self, text=""):
        print(text, flush=True)
        self.lines.append(text)
        if self.path:  # again each time: what is measured is not lost by Ctrl-C
            Path(self.path).write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def table(self, head, rows):
        """Print a table: the first column to the left, the others to the right."""
        rule = ["---", *["---:"] * (len(head) - 1)]
        for row in (head, rule, *rows):
            self(f"| {' | '.join(row)} |")

    def left_out(self, missing):
        """Name the contestants {name: reason} that could not run."""
        if missing:
            self()
        for name, reason in missing.items():
            self(f"Left out: {name} ({reason}).")


def rates(page, results):
    """Print pictures a second, and train.py's rate as a multiple of each."""
    suite = results.get(SUITE)
    rows = []
    for name, it in results.items():
        times = f"{suite.rate / it.rate:.2f}" if suite else ""
        span = f"{_rate(it.lowest)} to {_rate(it.highest)}"
        parameters = " + ".join(f"{count:,}" for count in it.facts["parameters"])
        row = (it.spec.backend, it.spec.precision, _rate(it.rate), span, times)
        rows.append((name, *row, parameters))
    head = ("contestant", "backend", "precision", "pictures/s", "rounds")
    page.table((*head, "train.py is ... times as fast", "parameters, G + D"), rows)
    if suite and "ceiling" in results:
        share = suite.rate / results["ceiling"].rate
        page(f"\ntrain.py reaches {share:.1%} of the ceiling (aim: 90 %).")


def chip(page, results, batch):
    """Print how much of the chip the suite reaches, counted from the layers' shapes."""
    rows = []
    for name, it in results.items():
        if it.facts["work"]:
            work = Work(**it.facts["work"])
            flops, moved, *shares = reached(work, batch / it.rate, it.facts["device"])
            shares = ("?" if share is None else f"{share:.1%}" for share in shares)
            rows.append((name, f"{flops:.1f}", f"{moved:,.0f}", *shares))
    head = ("contestant", "TFLOP/s", "GB/s", "of the bfloat16 peak", "of the bandwidth")
    page()
    page.table(head, rows)


def epochs(page, results, count, pictures):
    """Print the minutes for so many epochs through train.py, their ends included."""
    suite = results.get(SUITE)
    if suite:
        seconds = count * (pictures / suite.rate + suite.epoch_end)
        page(
            f"\n{count} epochs of {pictures:,} pictures through train.py: "
            f"{seconds / 60:.1f} minutes, of these {count} times {suite.epoch_end:.1f} "
            "seconds for sheet, log, curves, generator and checkpoint."
        )


def _rate(rate):
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
