"""Alarms: what is going wrong in a run, read off the rows of its log.

The limits come from healthy runs on photographs and cartoons (28 to 128 pixels, 3
seconds to 30 minutes long), which raise none, and from runs driven into collapse.
"""

# Diversity is the mean distance of two samples, as a share of that of two real faces
ALIKE = 0.002  # below it all samples are one; untrained generators have .008 and more
LOST = 0.5  # share of its highest so far; in 40 healthy epochs it never lost .1 of it
LOW = 0.3  # healthy runs are above .8 after 300 iterations,
LOW_AFTER = 500  # so by this one a low diversity that does not rise is collapse

# D right on nearly everything, real and fake. .95 is healthy on cartoons, which are
# easy to tell, and .987 by the relativistic loss at 64 x 64, where KID fell meanwhile;
# and small sets of pictures are learned by heart in some 100 iterations
SURE = 0.99
SURE_FOR = 1000  # iterations, in two epochs at least

# Mean losses of an epoch; healthy ones stay under 1 and, in the first epochs, 20
D_LOSS, G_LOSS = 5, 30

MEANING = {
    "collapse": "the samples are losing their diversity",
    "D has won": "D is right on nearly everything, and G learns little from it",
    "losses run away": "the learning rates are too high",
}


def alarms(rows):
    """Return the alarms of a run's last epoch: names out of MEANING.

    rows: those of the log so far, as dicts with "iterations" (of the run, all in all),
    "d_loss", "g_loss", "real_accuracy", "fake_accuracy" and "diversity". An epoch that
    drew no samples has no diversity, and raises none.
    """
    if rows[-1]["diversity"] is None:
        return []
    raised = {
        "collapse": _has_collapsed(rows),
        "D has won": _has_won(rows),
        "losses run away": rows[-1]["d_loss"] > D_LOSS or rows[-1]["g_loss"] > G_LOSS,
    }
    return [name for name in MEANING if raised[name]]


def message(row):
    """Return the line that says which alarms the row of an epoch has raised."""
    names = row["alarm"].split("; ")
    meanings = "; ".join(f"{name} ({MEANING[name]})" for name in names)
    right = min(row["real_accuracy"], row["fake_accuracy"])
    return (
        f"ALARM in epoch {row['epoch']}: {meanings}. Diversity {row['diversity']:.3f} "
        f"of the real faces', D right on {right:.0%} or more, D's loss "
        f"{row['d_loss']:.3g}, G's {row['g_loss']:.3g}."
    )


def _has_collapsed(rows):
    diversity = [row["diversity"] for row in rows if row["diversity"] is not None]
    now = diversity[-1]
    highest = min(1, max(diversity))  # above 1 there is some to lose
    if now < ALIKE or (highest > LOW and now < LOST * highest):
        return True
    if len(diversity) < 2 or rows[-1]["iterations"] < LOW_AFTER:
        return False
    return now < LOW and now <= diversity[-2]


def _has_won(rows):
    """Tell whether D has been sure for long, up to the last row."""
    sure = 0
    for row in reversed(rows):
        if min(row["real_accuracy"], row["fake_accuracy"]) < SURE:
            break
        sure += 1
    if sure < 2:
        return False
    row = rows[-sure - 1] if sure < len(rows) else {"iterations": 0}
    now = rows[-1]["iterations"]
    if "iterations" not in row:  # an older version's; all epochs have as many
        row = {"iterations": now * row["epoch"] // rows[-1]["epoch"]}
    return now - row["iterations"] >= SURE_FOR
