"""The next word of a phone's keyboard, learned on 30 phones whose messages stay on them.

Run `pygrid domain` in one terminal, and `python examples/next_word.py http://127.0.0.1:5000` in another.
"""

import random
import sys
import threading

import torch.nn.functional as F
from torch import Tensor, nn

import next_word_data as phones
import pygrid.client
from pygrid.edge import Callbacks, participate

NUM_WORDS = len(phones.WORDS)
TEXT = pygrid.Integers["batch", phones.LENGTH](NUM_WORDS)


class NextWord(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.out = nn.Embedding(NUM_WORDS, 16), nn.LSTM(16, 32, 1), nn.Linear(32, NUM_WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(words).transpose(0, 1))[0].transpose(0, 1))


@pygrid.plan(data={"words": TEXT, "following": TEXT}, hyper={"lr": pygrid.Float(0.03, min=0.001, max=0.1)})
def next_word(model: nn.Module, words: Tensor, following: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    scores, wanted = model(words).flatten(0, 1), following.flatten()
    return F.cross_entropy(scores, wanted), {"accuracy": (scores.argmax(1) == wanted).float().mean()}


def phone(url: str, number: int) -> None:
    off, messages = threading.Event(), phones.messages(number)
    drop_out = Callbacks(on_progress=lambda *_: off.set() if random.random() < 0.02 else None)
    while not participate(url, "next-word", messages, callbacks=drop_out, cancel=off, process_wait_s=60).finished:
        off.clear()  # the phone was switched off in the middle of a training, and comes back


def main(url: str) -> str:
    domain = pygrid.client.connect(url).login("ann@example.org", "a password of her own", sign_up=True)
    model, rate = NextWord(), pygrid.Schedule(name="cosine", start=0.03, end=0.003, cycles=20)
    cycles = pygrid.ServerConfig(cycle_length=60, num_cycles=20, min_diffs=10, max_diffs=20, schedules={"lr": rate})
    plan, devices = next_word.build(model, optimizer=pygrid.optim.Adam()), pygrid.ClientConfig(epochs=2, batch_size=8)
    process = domain.host("next-word", model=model, plans=plan, client_config=devices, server_config=cycles)
    for number in range(30):
        threading.Thread(target=phone, args=(url, number), daemon=True).start()
    process.watch(evaluate=phones.messages(-1), stop_after=pygrid.EarlyStop(patience=2, min_delta=0.01))
    process.export_onnx("next-word.onnx", checkpoint="best")
    served = process.serve(f"next-word-{process.version}", checkpoint="best", allow_remote_inference=True)
    scores = served.predict({"words": phones.read("tomorrow we will cook")})["output"]
    return phones.WORDS[int(scores[0, -1].argmax())]


if __name__ == "__main__":
    print("tomorrow we will cook ...", main(sys.argv[1]))
