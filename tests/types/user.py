"""Lines that users write: type checkers accept each of them. They are checked, never run."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import pygrid
import pygrid.client
import pygrid.edge
from pygrid.client import ClientConfig, DomainClient, Job, Process, ServerConfig, count, histogram, mean, quantile
from pygrid.errors import Conflict, PygridError
from pygrid.plans import Plan, Runner


# The first training of the tutorial.
@pygrid.plan(
    data={"x": pygrid.Tensor["batch", 2], "y": pygrid.Label(2)},
    hyper={"lr": pygrid.Float(0.1, min=1e-4, max=1.0)},
)
def moons(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(x)
    return torch.nn.functional.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}


net = torch.nn.Linear(2, 2)
plan: Plan = moons.build(net, optimizer=pygrid.optim.SGD(momentum=0.9))
domain: DomainClient = pygrid.client.connect("http://127.0.0.1:5000").login("ann@example.org", "password")
process: Process = domain.host(
    "moons",
    "1.0",
    model=net,
    plans=plan,
    client_config={"epochs": 2, "batch_size": 16, "lr": 0.1, "a key of mine": [1]},
    server_config={"num_cycles": 5, "cycle_length": 60, "min_diffs": 3, "max_diffs": 3},
)
process.watch()
loaded: torch.nn.Linear = process.load_into(torch.nn.Linear(2, 2), checkpoint=3)
again: torch.nn.Linear = pygrid.load_into(torch.nn.Linear(2, 2), "moons.safetensors")
exported: bytes = process.export_onnx()
written: Path = process.export_onnx("moons.onnx", checkpoint=1)
moons_id: str = process.serve("moons-1", allow_remote_inference=True, visibility="public").id
num_recorded: int = process.log_to(csv="moons.csv", tensorboard=Path("runs"), mlflow="http://127.0.0.1:5001")
scores_again: torch.Tensor = moons(net, torch.zeros(1, 2), torch.zeros(1))[0]
weights: npt.NDArray[np.generic] = process.download(path="moons.safetensors")["weight"]

# Configurations, processes, cycles.
server = ServerConfig(
    cycle_length=None,
    aggregation=pygrid.Aggregation(name="mean", weights="examples"),
    server_optimizer=pygrid.ServerOptimizer(name="adam", learning_rate=0.01),
    authentication=pygrid.Authentication(secret="s" * 32, require_exp=True),
)
client: ClientConfig = pygrid.ClientConfig(epochs=1, lr=0.5, hyper={"momentum": 0.9}, extra={"app": {"theme": "dark"}})
domain.host(
    "moons", "1.1", model="moons.safetensors", plans={"p": "p.plan"}, client_config=client, server_config=server
)
names: list[str] = [info.name for info in domain.processes("moons")]
losses: list[float] = [cycle.metrics["loss"] for cycle in process.cycles(after=1) if cycle.state == "completed"]
accuracy: float = process.evaluate({"x": np.zeros((4, 2), np.float32)}, checkpoint=2)["accuracy"]
print(process.cycles().text(120), process.checkpoints().html(), domain.workers().tsv())
state: str = process.wait(3, timeout_s=60).state
trained: dict[str, float] = Runner(process.plan()).evaluate(process.download(), {"x": np.zeros((1, 2), np.float32)})

# Datasets and jobs.
dataset = domain.datasets.upload(
    "cells", {"age": np.arange(3)}, columns={"age": "int64,unit=years"}, visibility="listed", tags=["a"]
)
rows: int = domain.datasets["cells"].info().num_records
left: float = dataset.budget().your_left
column: str = dataset.schema.columns[0].name
job: Job = domain.submit(
    plan, dataset=dataset, model=net, epsilon=3.0, delta=1e-6, reason="to learn", hyper={"lr": 1.0}
)
params: dict[str, npt.NDArray[np.generic]] = job.wait().params()
epsilon: float = job.cost.epsilon if job.cost is not None else 0.0
asked = domain.statistics("cells", [count(), mean("age", lower=0, upper=120)], epsilon=1.0, delta=1e-6, reason="why")
for answer in asked.wait("released", progress=False).answers():
    print(answer["kind"], answer.get("value"), answer.get("noise_std", 0.0) * 2)
domain.statistics("cells", quantile("age", 0.9, candidates=[1, 2]), reason="why")
domain.statistics("cells", histogram("age", edges=[0, 1, 2], by="sex", keys=["f", "m"]), reason="why")
for request in domain.requests:
    print(request.approve("fine").state if request.state == "waiting" else request.sheet())
mine: list[str] = [one.id for one in domain.jobs(mine=True) if one.kind == "train"]

# Served models, Networks, trainings across Domains, devices.
model = domain.serve("digits", Path("digits.onnx"), allow_remote_inference=True, visibility="public")
scores = model.predict({"x": [[0.0, 1.0]]})["scores"]
network = pygrid.client.connect_network()
found = network.search("age", tags=["oncology"], dtype="int32", kinds="dataset")
print(found.datasets[0].open().name, len(found), network.domains("pending"))
run = pygrid.client.federate(
    plan,
    net,
    [dataset, (domain, "cells")],
    coordinator=domain,
    rounds=2,
    reason="why",
    server_optimizer={"name": "adam"},
)
average: dict[str, npt.NDArray[np.generic]] = run.wait(timeout_s=60).model()
device = pygrid.edge.participate("http://127.0.0.1:5000", "moons", {"x": np.zeros((1, 2), np.float32)}, version="1.0")
try:
    domain.job("4f1c09").cancel()
except Conflict as error:
    print(error.code, error.detail, error.status, isinstance(error, PygridError))
