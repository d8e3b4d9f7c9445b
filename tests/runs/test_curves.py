import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dcgan.runs import curves

ROW = {
    **{"epoch": 1, "iterations": 5, "d_loss": 0.6, "g_loss": 0.8},
    **{"real_accuracy": 0.9, "fake_accuracy": 0.9, "diversity": 1.1, "mmd": 0.1},
}


def test_the_curves_show_scores_alarms_and_what_was_changed():
    rows = [
        {**ROW, "mmd": score, "alarm": alarm, "epoch": epoch}
        for epoch, score, alarm in ((1, 0.5, ""), (2, None, "collapse"), (3, 0.2, ""))
    ]
    changes = [{"epochs": 1}, {"epochs": 3}]
    *_, scored = all_axes = curves.draw_losses(rows, changes, shown=3).axes
    assert len(all_axes) == 3
    points = [line.get_xydata().tolist() for line in scored.lines[:2]]
    assert points == [[[1, 0.5], [3, 0.2]], [[3, 0.2]]]
    for axes in all_axes:
        lines = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
        upright = {line.get_label(): list(line.get_xdata()) for line in lines}
        assert upright["alarm"] == [2, 2]
        assert upright["another recipe"] == [1.5, 1.5]
        assert upright["this generator"] == [3, 3]
    rows = [{name: row[name] for name in row if name != "mmd"} for row in rows]
    assert len(curves.draw_losses(rows).axes) == 2


def test_curves_that_coincide_or_go_below_zero_are_all_to_be_seen():
    rows = [{**ROW, "epoch": n, "g_loss": -3.0, "mmd": None} for n in (1, 2)]
    losses, shares, scored = curves.draw_losses(rows, undecided=0.69).axes
    assert losses.get_ylim()[0] < -3
    assert [0.69, 0.69] in [list(line.get_ydata()) for line in losses.lines]
    styles = {line.get_linestyle() for line in shares.lines[:2]}
    assert styles == {"-", "--"}
    assert shares.get_ylim()[1] > 1.1
    assert scored.get_yscale() == "linear"
    negative = [{**row, "mmd": -0.001} for row in rows]
    assert curves.draw_losses(negative).axes[2].get_yscale() == "linear"


def test_the_log_is_a_table_of_all_epochs_and_the_curves_a_picture(here):
    rows = [{**ROW, "epoch": n, "alarm": ""} for n in (1, 2)]
    rows[0]["mmd"] = None
    curves.save_log("run", rows)
    with open("run/log.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["mmd"] for row in written] == ["", "0.1"]
    assert list(written[0]) == list(rows[0])
    with Image.open("run/losses.png") as picture:
        assert min(picture.size) > 500


def test_a_sheet_has_ten_faces_a_row_enlarged_to_about_84_pixels(here):
    faces = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 3)).astype("uint8")
    curves.save_sheet("run", 7, faces)
    with Image.open(Path("run/samples/epoch-007.png")) as sheet:
        assert sheet.size == (10 * 84 + 9 * 2, 2 * 84 + 2)
    curves.save_sheet("run", 8, np.zeros((1, 128, 128, 3), "uint8"))
    with Image.open(Path("run/samples/epoch-008.png")) as sheet:
        assert sheet.size[1] == 128


def test_epochs_that_drew_no_samples_have_losses_and_no_diversity():
    rows = [
        {"epoch": epoch, "diversity": diversity, "mmd": diversity}
        | {"d_loss": 0.5, "g_loss": 1.0, "real_accuracy": 0.8, "fake_accuracy": 0.8}
        for epoch, diversity in enumerate([0.9, None, None, 0.7], 1)
    ]
    losses, shares, _ = curves.draw_losses(rows).axes
    assert list(losses.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert [list(line.get_xdata()) for line in shares.lines] == [
        *([1, 2, 3, 4], [1, 2, 3, 4], [1, 4])
    ]
