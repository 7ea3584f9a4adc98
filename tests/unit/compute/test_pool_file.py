"""The file of pools: what it may say, and where a fault is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pygrid.compute.pool_file import PoolConfig, read_pools
from pygrid.errors import InvalidConfig

GOOD = """\
[[pool]]
name = "hpc"
driver = "slurm"
folder = "/shared"
places = 4

[[pool]]
name = "gpu-ray"
driver = "ray"
address = "http://ray-head:8265/"
cpus = 4
memory_mb = 16000
wall_s = 7200
start_s = 60

[[pool]]
name = "k8s"
driver = "kubernetes"
namespace = "grid"
image = "pygrid:1"
"""


def test_pools_are_read_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "pools.toml"
    file.write_text(GOOD)
    assert read_pools(file) == (
        PoolConfig("hpc", "slurm", places=4, folder="/shared"),
        PoolConfig("gpu-ray", "ray", cpus=4, memory_mb=16000, wall_s=7200, start_s=60, address="http://ray-head:8265"),
        PoolConfig("k8s", "kubernetes", namespace="grid", image="pygrid:1"),
    )
    file.write_text("")
    assert read_pools(file) == ()


@pytest.mark.parametrize(
    ("before", "after", "line", "key", "text"),
    [
        ('"hpc"', '"HPC"', 2, "name", "a-z"),
        ('"hpc"', '"local"', 2, "name", "always exists"),
        ('"k8s"', '"hpc"', 17, "name", "names two pools"),
        ('name = "k8s"\n', "", 16, "name", "needs it"),
        ('driver = "slurm"', 'driver = "pbs"', 3, "driver", "use slurm, ray or kubernetes"),
        ('driver = "slurm"\n', "", 1, "driver", "None is not an engine"),
        ('"/shared"', '"shared"', 4, "folder", "absolute"),
        ('folder = "/shared"\n', "", 1, "folder", "needs it"),
        ("places = 4", "places = 0", 5, "places", "from 1 to 10000"),
        ("places = 4", "places = true", 5, "places", "from 1 to 10000"),
        ("places = 4", "address = 'http://x'", 5, "address", "it is for ray and kubernetes"),
        ("places = 4", "plcaes = 4", 5, "plcaes", "unknown; the keys are"),
        ("cpus = 4", "gpus = 1", 11, "gpus", "CPUs only"),
        ('"http://ray-head:8265/"', '"ray-head"', 10, "address", "not an address"),
        ('"grid"', '"Grid!"', 19, "namespace", "namespace"),
        ('image = "pygrid:1"', "image = 3", 20, "image", "text"),
        ("[[pool]]\nname", "[pool]\nname", 7, None, "not TOML"),
        ("places = 4", "places = ", 5, None, "not TOML"),
        ("[[pool]]\nname", "color = 1\n[[pool]]\nname", 1, "color", "write .*pool"),
    ],
)
def test_a_fault_names_its_line_and_key(
    tmp_path: Path, before: str, after: str, line: int, key: str | None, text: str
) -> None:
    file = tmp_path / "pools.toml"
    assert before in GOOD
    file.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(InvalidConfig, match=text) as caught:
        read_pools(file)
    assert (caught.value.code, caught.value.fields["line"], caught.value.fields["key"]) == (
        "invalid_pools",
        line,
        key,
    )
    assert f"line {line}" in caught.value.detail


def test_a_file_that_is_away_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        read_pools(tmp_path / "none.toml")
    file = tmp_path / "pools.toml"
    file.write_text("#" * 70_000)
    with pytest.raises(InvalidConfig, match="larger than 64 KiB"):
        read_pools(file)
    file.write_text("".join(GOOD.split("\n\n")[0].replace("hpc", f"hpc-{number}") + "\n" for number in range(33)))
    with pytest.raises(InvalidConfig, match="at most 32"):
        read_pools(file)
