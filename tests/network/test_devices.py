"""How far the CPU may run ahead of a GPU, with events that only record what is asked of them."""

import torch

from lib.network import devices


def test_the_cpu_waits_for_the_oldest_of_the_uploads_ahead(monkeypatch):
    recorded, waited = [], []

    class Event:
        def record(self, stream):
            recorded.append(stream)
            self.number = len(recorded)

        def synchronize(self):
            waited.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    pace = devices.Pace(torch.device("cuda:1"), n_ahead=3)
    for _ in range(5):
        pace()
    assert recorded == ["stream of cuda:1"] * 5
    assert waited == [1, 2]


def test_a_copy_to_the_cpu_is_the_values():
    values_t = torch.arange(6.0).reshape(2, 3)
    arrived = devices.downloading(values_t)
    assert arrived().tolist() == values_t.tolist()
