"""Healthy runs raise no alarm, and each rule raises its own."""

import pytest

from dcgan.training import alarms

# Rows of real, healthy runs, with what they were trained on: iterations so far, D's
# loss, G's, D right on real and on fake faces, diversity. Typed from the log.csv of
# python train.py --data <these> --image-size <this>, no other constant changed but
# those named.
HEALTHY = {
    "20,075 of CelebA, 28 x 28, epochs 1, 2, 7, 14, 39": [
        (313, 0.324, 3.184, 0.860, 0.877, 0.946),
        (626, 0.487, 1.817, 0.757, 0.774, 1.031),
        (2191, 0.482, 1.429, 0.775, 0.790, 0.982),
        (4382, 0.529, 1.304, 0.740, 0.751, 0.974),
        (12207, 0.515, 1.298, 0.748, 0.755, 0.992),
    ],
    "20,075 of CelebA, 64 x 64": [
        (313, 0.317, 8.224, 0.869, 0.875, 0.899),
        (626, 0.337, 5.273, 0.845, 0.864, 0.972),
        (939, 0.309, 5.540, 0.859, 0.881, 1.004),
        (1252, 0.290, 5.038, 0.868, 0.894, 1.024),
        (1565, 0.287, 4.549, 0.875, 0.892, 0.998),
    ],
    # D right on 98 % of the pairs, while KID fell from .0248 to .0217 in six epochs
    "20,075 of CelebA, 64 x 64, batches of 32, relativistic, epochs 1, 2, 8, 14, ...": [
        (627, 0.114, 12.108, 0.957, 0.957, 0.995),
        (1254, 0.109, 9.470, 0.958, 0.958, 1.010),
        (5016, 0.126, 6.845, 0.954, 0.954, 1.009),
        (8778, 0.066, 7.401, 0.978, 0.978, 1.022),
        (11913, 0.070, 8.081, 0.976, 0.976, 1.017),
        (12540, 0.039, 8.307, 0.987, 0.987, 1.007),
        (13167, 0.050, 8.946, 0.983, 0.983, 1.010),
        (13794, 0.088, 8.371, 0.968, 0.968, 1.006),
    ],
    "CelebA with label flipping": [
        (313, 0.428, 2.549, 0.848, 0.867, 0.922),
        (626, 0.554, 1.541, 0.733, 0.756, 0.999),
        (939, 0.560, 1.355, 0.737, 0.752, 0.988),
        (1252, 0.528, 1.339, 0.767, 0.786, 0.979),
    ],
    "CelebA with smoothed labels": [
        (313, 0.405, 3.009, 0.800, 0.923, 0.921),
        (626, 0.539, 1.784, 0.664, 0.834, 1.032),
        (939, 0.542, 1.599, 0.659, 0.841, 0.985),
        (1252, 0.506, 1.592, 0.703, 0.877, 0.993),
        (1565, 0.496, 1.623, 0.714, 0.884, 0.990),
    ],
    "10,000 cartoons, 28 x 28, epochs 1 to 6, and 9": [
        (156, 0.143, 4.151, 0.950, 0.964, 0.912),
        (312, 0.147, 4.202, 0.948, 0.965, 0.946),
        (468, 0.193, 3.225, 0.942, 0.952, 1.003),
        (624, 0.247, 2.918, 0.928, 0.933, 1.050),
        (780, 0.185, 2.864, 0.950, 0.952, 1.066),
        (936, 0.214, 2.841, 0.933, 0.936, 1.046),
        (1404, 0.215, 2.801, 0.934, 0.935, 1.023),
    ],
    "3,000 cartoons, 28 x 28": [
        (46, 0.138, 4.202, 0.961, 0.964, 0.487),
        (92, 0.256, 4.109, 0.892, 0.919, 0.839),
        (138, 0.338, 3.766, 0.850, 0.868, 0.981),
        (184, 0.374, 2.704, 0.821, 0.861, 1.021),
        (230, 0.380, 2.530, 0.836, 0.858, 0.943),
    ],
    "320 cartoons, known by heart": [
        (5, 0.174, 3.580, 0.963, 0.956, 0.275),
        (10, 0.065, 4.889, 0.994, 0.994, 0.446),
        (15, 0.058, 5.140, 0.991, 0.994, 0.517),
    ],
    "a few batches at 128 x 128": [
        (3, 0.426, 13.159, 0.839, 0.724, 0.0085),
        (6, 0.610, 17.048, 0.901, 0.662, 0.0185),
    ],
    "a few batches of the tutorial network": [
        (10, 0.683, 0.686, 0.917, 0.330, 0.0192),
        (20, 0.606, 0.785, 0.964, 0.980, 0.1145),
    ],
    "a few batches of the blog network": [
        (10, 0.691, 3.388, 0.770, 0.630, 0.1391),
        (20, 0.229, 6.304, 0.958, 0.948, 0.2279),
    ],
}


def rows_of(values):
    names = ("iterations", "d_loss", "g_loss", "real_accuracy", "fake_accuracy")
    names += ("diversity",)
    return [
        {"epoch": epoch, **dict(zip(names, row, strict=True))}
        for epoch, row in enumerate(values, 1)
    ]


@pytest.mark.parametrize("values", HEALTHY.values(), ids=HEALTHY)
def test_healthy_runs_raise_no_alarm_after_any_epoch(values):
    rows = rows_of(values)
    assert [alarms.alarms(rows[:end]) for end in range(1, len(rows) + 1)] == (
        [[]] * len(rows)
    )


GOOD = (313, 0.32, 3.2, 0.86, 0.88, 0.95)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(313, 0.5, 1.5, 0.8, 0.8, 0.0)], ["collapse"]),
        ([(313, 0.5, 1.5, 0.8, 0.8, 0.0019)], ["collapse"]),
        ([(5, 0.5, 1.5, 0.8, 0.8, 0.0084)], []),
        ([GOOD, (626, 0.5, 1.5, 0.8, 0.8, 0.46)], ["collapse"]),
        ([GOOD, (626, 0.5, 1.5, 0.8, 0.8, 0.49)], []),
        # More diverse than real faces of low contrast, and then as diverse
        ([(313, 0.5, 2, 0.8, 0.8, 1.67), (626, 0.5, 2, 0.8, 0.8, 0.73)], []),
        ([GOOD, GOOD, GOOD, (939, 0.5, 1.5, 0.8, 0.8, 0.40)], ["collapse"]),
        # Low from the first epoch on
        ([(300, 0.5, 1, 0.8, 0.8, 0.2), (600, 0.5, 1, 0.8, 0.8, 0.2)], ["collapse"]),
        ([(300, 0.5, 1, 0.8, 0.8, 0.2), (600, 0.5, 1, 0.8, 0.8, 0.25)], []),
        ([(100, 0.5, 1, 0.8, 0.8, 0.2), (200, 0.5, 1, 0.8, 0.8, 0.19)], []),
        ([(600, 0.5, 1, 0.8, 0.8, 0.2)], []),
        # D right on nearly everything, both kinds, for 1,000 iterations
        ([(600, 0.01, 6, 1, 0.99, 0.9), (1200, 0.01, 6, 0.99, 1, 0.9)], ["D has won"]),
        ([(400, 0.01, 6, 1, 0.99, 0.9), (800, 0.01, 6, 0.99, 1, 0.9)], []),
        ([(600, 0.01, 6, 1, 0.97, 0.9), (1200, 0.01, 6, 0.99, 1, 0.9)], []),
        ([(3000, 0.01, 6, 1, 1, 0.9)], []),
        ([(600, 0.3, 3, 0.8, 0.8, 0.9), (1000, 0.01, 6, 1, 1, 0.9)] * 3, []),
        (
            [GOOD, (900, 0.01, 6, 1, 1, 0.9), (1200, 0.01, 6, 1, 1, 0.9)],
            [],  # sure for 887 only
        ),
        # Losses
        ([(313, 5.1, 3, 0.7, 0.7, 0.9)], ["losses run away"]),
        ([(313, 0.3, 31, 0.9, 0.9, 0.9)], ["losses run away"]),
        # Typed from a run of 40 cartoons with both learning rates at .2
        ([(5, 42.75, 155.9, 0.65, 0.55, 0.0)], ["collapse", "losses run away"]),
    ],
)
def test_an_alarm_is_raised_by_its_rule_and_no_sooner(values, expected):
    assert alarms.alarms(rows_of(values)) == expected


def test_rows_of_an_older_run_that_tell_no_iterations_are_counted_by_epochs():
    sure = (0.01, 6, 1, 1, 0.9)
    rows = rows_of([GOOD, (800, *sure), (1200, *sure)])
    del rows[0]["iterations"], rows[1]["iterations"]
    assert alarms.alarms(rows) == []  # sure for 800
    rows[2]["iterations"] = 1500
    assert alarms.alarms(rows) == ["D has won"]


def test_an_alarm_ends_when_its_cause_does():
    rows = rows_of([(313, 0.5, 1.5, 0.8, 0.8, 0.0), GOOD])
    assert alarms.alarms(rows) == []


def test_the_line_names_epoch_alarm_and_figures():
    row = rows_of([(5, 42.75, 155.9, 0.65, 0.55, 0.012)])[0]
    line = alarms.message({**row, "alarm": "collapse; losses run away"})
    assert line.startswith("ALARM in epoch 1: collapse (the samples are losing their")
    assert "losses run away (the learning rates are too high). Div" in line
    for figure in ("0.012", "55%", "42.8", "156"):
        assert figure in line
    assert "\n" not in line


def test_an_epoch_that_drew_nothing_raises_no_alarm_and_is_no_collapse():
    row = {"iterations": 10, "d_loss": 0.5, "g_loss": 1.0}
    row |= {"real_accuracy": 0.8, "fake_accuracy": 0.8}
    drawn = [{**row, "diversity": share} for share in (0.9, None, 0.8)]
    for count in (1, 2, 3):
        assert alarms.alarms(drawn[:count]) == []
    collapsed = [*drawn, {**row, "diversity": 0.3}]
    assert alarms.alarms(collapsed) == ["collapse"]
    assert alarms.alarms([*collapsed, {**row, "diversity": None}]) == []
