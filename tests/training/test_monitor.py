"""What is said of a training's progress, and TensorBoard's events."""

import torch

from stn_ext.training import monitor
from stn_ext.training.engine import Metrics


def totals(images):
    return torch.tensor([0.5 * images, images / 2, images], dtype=torch.float64)


def test_where_there_is_no_terminal_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(monitor, "SILENCE", 0.0)
    with monitor.Bar("epoch 1/2", 300, enabled=True) as bar:
        for step in (1, 2, 3):
            bar(100, totals(100 * step))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  epoch 1/2: 200 of 300 images, loss 0.5000, accuracy 50.00%; ")
    assert lines[2].endswith(" 0 min left")


def test_a_short_epoch_and_another_process_are_silent(capsys):
    for enabled in (True, False):
        with monitor.Bar("epoch 1/2", 100, enabled=enabled) as bar:
            bar(100, totals(100))
    assert capsys.readouterr().out == ""


def write_all(board, epoch):
    board.scalars(epoch, Metrics(1.0, 0.5), Metrics(2.0, 0.25), {"speed": 7.0})
    board.images(epoch, torch.zeros(3, 1, 8, 8, dtype=torch.uint8))


def test_events_are_what_tensorboard_reads(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, epochs in ((1, (1, 2, 3)), (3, (3, 4))):  # the second goes on from epoch 2
        board = monitor.Board(tmp_path, first)
        for epoch in epochs:
            write_all(board, epoch)
        board.close()
    for name in sorted(path.name for path in tmp_path.iterdir()):
        assert name.startswith("events.out.tfevents.")
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars("loss/validation")]
    assert read == [(1, 2.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    (image, *_) = events.Images("input and warped")
    assert (image.width, image.height) == (3 * 10 + 2, 10 + 2)


def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path, capsys):
    board = monitor.Board(tmp_path, 1)
    board._file.close()
    board._file = open("/dev/full", "wb")  # noqa: SIM115
    for epoch in (1, 2):
        write_all(board, epoch)
    board.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device: going on without TensorBoard's events" in line


def test_a_directory_that_has_gone_is_said_once(tmp_path, capsys):
    board = monitor.Board(tmp_path / "gone", 1)
    write_all(board, 1)
    board.close()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_epoch_line_says_how_much_is_outside():
    figures = 3, 10, Metrics(0.25, 0.5), Metrics(0.5, 0.75), 1234.5
    line = "epoch 3/10: train loss 0.2500, accuracy 50.00%; validation loss 0.5000, accuracy 75.00%; "
    assert monitor.epoch_line(*figures) == line + "1234 images/s"
    assert monitor.epoch_line(*figures, 0.0312) == line + "3.1% outside; 1234 images/s"


def test_train_and_validation_share_a_chart_and_runs_have_their_options(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    board = monitor.Board(tmp_path, 1)
    board.scalars(1, Metrics(1.0, 0.5), Metrics(2.0, 0.25), {})
    board.options({"net": "cnn", "lr_cls": 0.5, "warp_size": [2, 3], "init": "\udcff"}, Metrics(2.0, 0.25))
    board.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(tensor.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["loss"] == ["loss/train", "loss/validation"]
    assert {tag for chart in charts.values() for tag in chart} <= set(events.Tags()["scalars"])
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["net"].string_value == "cnn" and options["lr_cls"].number_value == 0.5
    assert options["warp_size"].string_value == "[2, 3]"
    assert options["init"].string_value == "\\udcff"  # a name that is no text
    assert events.Scalars("final/accuracy")[0].value == 0.25
