"""Mistakes: type checkers refuse each line below the imports."""

from pygrid import Aggregation, ServerOptimizer
from pygrid.client import ClientConfig, ServerConfig, connect, count, mean
from pygrid.client.display.tables import Table, TableColumn
from pygrid.errors import PygridError

config_1 = ServerConfig(num_cycles=5)
ServerConfig(cycle_length=60, num_cycle=5)
ServerConfig(cycle_length=60, num_cycles="5")
ServerConfig(cycle_length=60, pool_selection="first")
Aggregation(name="median")
ServerOptimizer(name="fedavgm")
ClientConfig(epochs="2")
ClientConfig(batchsize=2)
connect(5000)
connect("http://127.0.0.1:5000").log_in("ann@example.org", "password")
connect("http://127.0.0.1:5000").login("ann@example.org")
connect().host("moons", "1.0")
connect().host("moons", 1, model={}, plans={})
connect().processes().name
connect().process("moons").cycles(after="1")
connect().process("moons").cycles()[0].losses
connect().process("moons").wait().completed
connect().datasets.upload("cells", {}, visibility="secret")
connect().jobs(state="done")
connect().job(4)
connect().submit("p.plan", dataset="cells", model={})
connect().submit("p.plan", dataset="cells", model={}, reason="why", epsilon="3")
connect().submit("p.plan", dataset="cells", model={}, reason="why", unit="person")
connect().statistics("cells", [mean("age")], reason="why")
connect().statistics("cells", [count(keys=5)], reason="why")
state_1: int = connect().job("4f1c09").state
text_1: str = connect().job("4f1c09").wait()
sheet_1: dict[str, str] = connect().job("4f1c09").sheet()
answer_1: float = connect().job("4f1c09").answers()[0]["kind"]
answer_2: object = connect().job("4f1c09").answers()[0]["mean"]
params_1: list[float] = connect().job("4f1c09").params()
connect().workers.add("gpu")
connect().serve("digits", b"", visibility="private")
PygridError()
Table[str](["a"]).text("wide")
TableColumn("name", lambda item: item, align="middle")
