"""A training watched in a real browser: ten device processes, and a Domain that is killed and started again.

Should happen: the page shows every accepted report; its counts are those of the store, also after the restart.
Should not happen: a reload by hand; a report that is shown twice; a violation of the policy of the page.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from support.browser import Person, open_chromium, shoot
from support.console_app import ANN, MODEL, PLAN, ROOT, App, owner, sign_in
from support.eventually import eventually_blocking
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NUM_DEVICES, NUM_CYCLES = 10, 3
WATCH = """() => {
  window.seen = [];
  const note = () => {
    const cycle = document.querySelector("[data-field=cycle]");
    const reported = document.querySelector("dd[data-field=reported]");
    const now = cycle && reported && `${cycle.textContent}:${reported.textContent}`;
    if (now && window.seen.at(-1) !== now) window.seen.push(now);
  };
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
  note();
}"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path / "domain")
    yield app
    app.stop()


def start_devices(app: App, folder: Path, numbers: range) -> list[subprocess.Popen[bytes]]:
    """Devices, each with data of its own, which train until the training is over."""
    with np.load(ROOT / "examples/data/digits.npz") as file:
        pixels, labels = file["pixels"].astype(np.float32) / 16, file["labels"].astype(np.int64)
    devices = []
    for number in numbers:
        data = folder / f"{number}.npz"
        np.savez(data, x=pixels[number::NUM_DEVICES], y=labels[number::NUM_DEVICES])
        command = [sys.executable, "-m", "pygrid", "edge", app.url, "--model", "digits", "--data", str(data), "--quiet"]
        with (folder / "devices.log").open("ab") as log:
            devices.append(subprocess.Popen([*command, "--cache-dir", str(folder / "cache")], stdout=log, stderr=log))
    return devices


def test_ten_devices_are_watched_over_a_restart(app: App, tmp_path: Path) -> None:
    domain = owner(app)
    process = domain.host(
        "digits",
        "1.0",
        model=MODEL,
        plans={"training_plan": PLAN},
        client_config={"epochs": 1, "batch_size": 16, "lr": 0.1},
        server_config={"num_cycles": NUM_CYCLES, "cycle_length": 600, "max_diffs": NUM_DEVICES},
    )
    with open_chromium() as chromium:
        ann = Person(chromium, app.url)
        sign_in(ann, ANN)
        ann.page.goto("/admin/processes/1")
        expect(ann.page.get_by_role("status")).to_have_text("Live")
        ann.page.evaluate(WATCH)
        # Half of the devices report, and wait for the others: the Domain is killed in the middle of a cycle.
        devices = start_devices(app, tmp_path, range(NUM_DEVICES // 2))
        reported = ann.page.locator("dd[data-field=reported]")
        expect(reported).to_have_text(str(NUM_DEVICES // 2), timeout=120_000)
        shoot(ann, "training")
        app.kill()
        expect(ann.page.get_by_role("status")).to_have_text("Reconnecting")
        app.start_again()
        expect(ann.page.get_by_role("status")).to_have_text("Live", timeout=60_000)
        expect(reported).to_have_text(str(NUM_DEVICES // 2))
        devices += start_devices(app, tmp_path, range(NUM_DEVICES // 2, NUM_DEVICES))
        for device in devices:
            assert device.wait(240) == 0, (tmp_path / "devices.log").read_text()
        expect(ann.page.locator("#live .badge").first).to_contain_text("finished", timeout=60_000)
        domain.login(ANN, PASSWORD)
        cycles = process.cycles()
        assert [cycle.num_reports for cycle in cycles] == [NUM_DEVICES] * NUM_CYCLES
        rows = ann.page.locator("#cycles tbody tr")
        expect(rows).to_have_count(NUM_CYCLES)
        shown = [[int(row.locator("td").nth(at).text_content() or "") for at in (0, 2)] for row in rows.all()]
        assert shown == [[cycle.sequence, cycle.num_reports] for cycle in reversed(cycles)]
        norms = json.loads(ann.page.locator("[data-chart=norms]").get_attribute("data-series") or "{}")
        contributions = process.contributions()
        assert len(norms["x"]) == len(contributions) == NUM_DEVICES * NUM_CYCLES
        loss = json.loads(ann.page.locator('[data-chart="metric loss"]').get_attribute("data-series") or "{}")
        assert loss["series"][0]["values"] == [cycle.metrics["loss"] for cycle in cycles]
        seen = [tuple(map(int, one.split(":"))) for one in ann.page.evaluate("window.seen")]
        assert seen == sorted(seen), "counts only grow"
        assert (1, NUM_DEVICES // 2) in seen, "reports were seen as they came, without a reload"
        # The browser tells of requests that failed while the Domain was away.
        ann.faults = [one for one in ann.faults if "ERR_CONNECTION" not in one and "ERR_INCOMPLETE" not in one]
        ann.close()
    eventually_blocking(lambda: all(device.poll() is not None for device in devices))
