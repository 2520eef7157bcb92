"""Data-parallel training, computed: cases worked by hand, invariants, real checkpoints, and rejected values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascv_course import calc
from kerascv_course.analysis import summarize
from kerascv_course.analysis.scaling import (
    DEVICES,
    LINKS,
    OPTIMIZERS,
    DeviceCluster,
    Link,
    Workload,
    curve_table,
    network_table,
    scaling,
    step_text,
    workload,
)
from kerascv_course.core.errors import InputError, UnknownNameError

#: A million parameters that are all trained, 10 MMAC an image.
WORK = Workload("by hand", 1_000_000, 1_000_000, 10_000_000, 30_000_000, 500_000)


def test_a_step_by_hand():
    """60 MFLOP an image and 4 MB of gradients; 6 TFLOP/s at half; 1 GB/s and 1 ms a hop."""
    assert (WORK.training_flops, WORK.gradient_bytes) == (60_000_000, 4_000_000)
    assert [WORK.sent_bytes(n) for n in (1, 2, 4)] == [0, 4_000_000, 6_000_000]
    cluster = DeviceCluster(6e12, Link(1e9, 1e-3), utilization=0.5)
    strong = scaling(WORK, cluster, [1, 4], 1000)
    one, four = strong.points
    assert (one.compute, one.all_reduce, one.seconds()) == (pytest.approx(0.02), 0, pytest.approx(0.02))
    assert four.compute == pytest.approx(0.005) and four.all_reduce == pytest.approx(0.006 + 6 * 1e-3)
    assert four.seconds() == pytest.approx(0.017) and four.seconds(overlap=True) == pytest.approx(0.012)
    assert strong.speed_up(four) == pytest.approx(20 / 17) and strong.efficiency(four, overlap=True) == pytest.approx(5 / 12)
    assert (one.limit, four.limit) == ("compute", "all-reduce")
    weak = scaling(WORK, cluster, [4], 1000, "weak")
    assert weak.points[0].batch == 4000 and weak.speed_up(weak.points[0]) == pytest.approx(4 * 20 / 32)


def test_hosts_adapters_and_shares_by_hand():
    """Two hosts of four: 4 of the 14 hops lie between them, and both adapters carry half of the bytes each."""
    cluster = DeviceCluster(1e12, Link(1e9, 1e-3), within=Link(10e9, 1e-6), per_host=4, adapters=2, link_share=0.5)
    sent = WORK.sent_bytes(4)
    assert cluster.all_reduce_seconds(sent, 4) == pytest.approx(6 * 1e-6 + 6e6 / 5e9)
    assert cluster.all_reduce_seconds(WORK.sent_bytes(8), 8) == pytest.approx(4 * 1e-3 + 10 * 1e-6 + 7e6 / 1e9)
    slower = DeviceCluster(1e12, Link(1e9, 0), within=Link(1.5e9, 0), per_host=4, adapters=2)
    assert slower.all_reduce_seconds(3e9, 8) == pytest.approx(2.0)  # the ring's slowest link is the one within


def test_the_input_pipeline_limits():
    cluster = DeviceCluster(6e12, Link(1e9, 0), per_host=2, pipeline=10_000)
    alone, host, two = scaling(WORK, cluster, [1, 2, 4], 100, "weak").points
    assert [p.load for p in (alone, host, two)] == pytest.approx([0.01, 0.02, 0.02])
    assert (host.limit, host.images_per_second()) == ("input", pytest.approx(10_000))
    assert two.images_per_second() == pytest.approx(20_000)


counts = st.integers(1, 10**9)
links = st.builds(Link, st.floats(1e6, 1e13), st.floats(0, 1))
clusters = st.builds(
    DeviceCluster,
    peak=st.floats(1e9, 1e18),
    link=links,
    utilization=st.floats(0.01, 1),
    within=links,
    per_host=st.integers(2, 16),
    adapters=st.integers(1, 8),
    link_share=st.floats(0.01, 1),
    pipeline=st.none() | st.floats(1, 1e9),
    overhead=st.floats(0, 1),
)
works = st.builds(lambda n, macs: Workload("any", n, n, macs, 3 * macs, n), counts, counts)


@given(works, clusters, st.integers(64, 10**5), st.sampled_from(["strong", "weak"]), st.booleans())
def test_what_holds_for_every_network_and_cluster(work, cluster, batch, kind, overlap):
    curve = scaling(work, cluster, range(1, 65), batch, kind)
    first = curve.points[0]
    assert first == curve.alone and first.sent == first.all_reduce == 0 and curve.speed_up(first) == 1
    for p in curve.points:
        assert 0 < curve.speed_up(p, overlap=overlap) <= p.devices * (1 + 1e-9)
        assert p.seconds(overlap=True) <= p.seconds() <= 2 * p.seconds(overlap=True)
        assert p.seconds(overlap=overlap) >= max(p.compute, p.all_reduce, p.load)
        assert p.per_device * p.devices >= p.batch > (p.per_device - 1) * p.devices
    sent = [p.sent for p in curve.points]
    assert sent == sorted(sent) and sent[-1] < 2 * work.gradient_bytes
    seconds = [p.all_reduce for p in curve.points if p.devices <= cluster.per_host]
    assert seconds == sorted(seconds)


@given(clusters, counts, counts)
def test_more_bytes_take_longer_and_more_slots_are_larger(cluster, few, many):
    few, many = sorted((few, many))
    assert cluster.all_reduce_seconds(few, 8) <= cluster.all_reduce_seconds(many, 8)
    work = Workload("any", many, few, 1, 3, 1, draws=2)
    sizes = {name: work.checkpoint_bytes(name) for name in OPTIMIZERS}
    assert sizes["sgd"] == 4 * many + 8 + 4 + 2 * 16
    assert sizes["adam"] - sizes["sgd-momentum"] == sizes["sgd-momentum"] - sizes["sgd"] == work.gradient_bytes
    assert work.checkpoint_bytes("sgd", ema=True, constant_rate=False) == sizes["sgd-momentum"] - 4


@pytest.fixture(scope="module")
def network():
    """Two convolutions, dropout and a dense layer."""
    import keras

    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="first")(image)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(5, 3, padding="same")(x))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(10)(x))


def test_three_times_the_forward_pass_less_what_nobody_asks_for(network):
    """The first layer needs no gradient of its input; frozen, none of its weights either."""
    macs = (64 * 9 * 3 * 4, 64 * 9 * 4 * 5, 320 * 10)
    work = workload(summarize(network))
    assert work.forward_macs == sum(macs) and work.training_macs == 3 * sum(macs) - macs[0]
    assert (work.parameters, work.gradient_bytes, work.draws) == (network.count_params(), 4 * (network.count_params() - 10), 1)
    network.get_layer("first").trainable = False
    work = workload(summarize(network))
    network.trainable = False
    with pytest.raises(InputError, match="no trainable parameters"):
        workload(summarize(network))
    network.trainable = True
    network.get_layer("first").trainable = True
    assert work.training_macs == macs[0] + 2 * macs[1] + 3 * macs[2]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_has_the_bytes_that_were_computed(network, name, tmp_path):
    """The variables to the byte, and the file around them: 260 bytes a variable, the history, the steps."""
    import keras

    from kerascv_course.config import Optimizer, Schedule
    from kerascv_course.recipes import all_recipes
    from kerascv_course.training.checkpoint import Progress, save_checkpoint
    from kerascv_course.training.optimizers import build_optimizer

    plain, _, momentum = name.partition("-")
    ema = 0.9 if name == "muon" else 0.0
    optimizer = Optimizer(name=plain, momentum=0.9 if momentum or plain == "muon" else 0.0, ema=ema)
    schedule = Schedule("cosine" if plain == "sgd" else "constant")
    recipe = dataclasses.replace(all_recipes()["lenet5-digits"], optimizer=optimizer, schedule=schedule)
    model = keras.models.clone_model(network)
    model.compile(build_optimizer(recipe, 10))
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "last.npz"
    save_checkpoint(path, model, Progress("data"))
    with np.load(path, allow_pickle=False) as archive:
        sizes = {entry: archive[entry].nbytes for entry in archive.files}
    variables = [size for entry, size in sizes.items() if entry.startswith("variable_")]
    work = workload(summarize(network))
    assert work.checkpoint_bytes(name, ema=bool(ema), constant_rate=schedule.name == "constant") == sum(variables)
    history = sizes["progress"] + sizes["steps"]
    assert path.stat().st_size == sum(variables) + 260 * len(variables) + history + (248 + 242) + 22


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Link(0, 0), "bandwidth in bytes/s must be above 0; received 0"),
        (lambda: Link(float("nan"), 0), "above 0; received nan"),
        (lambda: Link(1, -1), "latency must be 0 seconds or more; received -1"),
        (lambda: DeviceCluster(-1, LINKS["pcie4"]), "peak in FLOP/s must be above 0"),
        (lambda: DeviceCluster(1, LINKS["pcie4"], utilization=20), "utilization must be above 0 and at most 1; received 20"),
        (lambda: DeviceCluster(1, LINKS["pcie4"], link_share=0), "link share must be above 0"),
        (lambda: DeviceCluster(1, LINKS["pcie4"], per_host=0), "devices per host must be an integer of 1 or more; received 0"),
        (lambda: DeviceCluster(1, LINKS["pcie4"], within=LINKS["pcie4"]), "at least 2 devices per host; received 1"),
        (lambda: DeviceCluster(1, LINKS["pcie4"], pipeline=0), "throughput of the input pipeline"),
        (lambda: DeviceCluster(1, LINKS["pcie4"], overhead=-1), "overhead of a step must be 0 seconds or more"),
        (lambda: scaling(WORK, DeviceCluster(1, LINKS["pcie4"]), [], 8), "at least one number of devices"),
        (
            lambda: scaling(WORK, DeviceCluster(1, LINKS["pcie4"]), [0], 8),
            "devices must be an integer of 1 or more; received 0",
        ),
        (lambda: scaling(WORK, DeviceCluster(1, LINKS["pcie4"]), [1], 0), "batch must be an integer of 1 or more"),
        (lambda: scaling(WORK, DeviceCluster(1, LINKS["pcie4"]), [1, 9], 8), "a batch of 8 for 9 devices"),
        (lambda: scaling(WORK, DeviceCluster(1, LINKS["pcie4"]), [1], 8, "both"), "strong .* or weak .*; received 'both'"),
        (lambda: WORK.checkpoint_bytes("adm"), "unknown optimizer 'adm'; did you mean 'adam'"),
    ],
)
def test_rejected_values(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_every_device_and_link_has_a_source():
    assert all(known.source for known in (*DEVICES.values(), *LINKS.values()))


def test_tables_and_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("kerascv_course.calc.find_network", lambda *_: None)
    monkeypatch.setattr("kerascv_course.calc.summarize", lambda *_: None)
    monkeypatch.setattr("kerascv_course.calc.workload", lambda _: WORK)
    figure = tmp_path / "scale.png"
    words = "scaling by-hand --devices 1 4 --batch 1000 --tflops 6 --utilization 0.5 --link ethernet-10 --link-share 0.8"
    assert calc.main([*words.split(), "--plot", str(figure)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "forward and backward 0.06 GFLOP (3.00 × forward)" in told and "4 × 1,000,000 = 4,000,000 bytes" in told
    assert "memory 0.481 GiB for 1000 images" in told  # (4 + 8 + 4 + 500) MB and 12 bytes
    assert "| 4 | 1,000 | 5 | 6 | 6.08 | 11.1 / 6.08 |" in told and "weak scaling" in told
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert calc.main(["scaling", "by-hand", "--devices", "1", "4", "--batch", "2", "--kind", "weak"]) == 0
    assert "strong" not in capsys.readouterr().out
    with pytest.raises(InputError, match="a batch of 2 for 4 devices: choose a larger --batch"):
        calc.main(["scaling", "by-hand", "--devices", "4", "--batch", "2"])
    assert calc.main(["networks", "lenet5", "--devices", "8"]) == 0
    assert "| `by hand` | 1,000,000 | 0.06 | 4.00 | 7.00 |" in " ".join(capsys.readouterr().out.split())
    cluster = DeviceCluster(6e12, LINKS["ethernet-10"])
    assert network_table([WORK], cluster, 8, "adam").count("\n") == 2 and "by hand" in step_text(WORK, "adam", 8)
    assert "| 1 | 8 |" in " ".join(curve_table(scaling(WORK, cluster, [1], 8)).split())
    with pytest.raises(InputError, match="no network matches 'nothing\\*'"):
        calc.main(["networks", "nothing*"])
    for option, message in (
        ("--link ether-10", "'ethernet-10'"),
        ("--within nvlink", "unknown link"),
        ("--device b3", "unknown device"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            calc.main(["networks", *option.split()])
    with pytest.raises(UnknownNameError, match="unknown optimizer 'none'"):
        calc.main(["scaling", "lenet5", "--optimizer", "none"])
