"""A study at two hospitals: Table 1; a model that is trained at both; its evaluation on the visits of a later year.

python examples/ward_study.py http://127.0.0.1:5000 http://127.0.0.1:5001 http://127.0.0.1:5002
"""

import sys

import pygrid.client
import ward_data
from plans.readmission import Net, readmission
from pygrid.client import count, mean, quantile, variance

PASSWORD = "a password of her own"
TABLE_1 = [
    count(),
    count(by="sex", keys=["f", "m"]),
    count(by="ward", keys=list(ward_data.WARDS)),
    count(by="seen", per="year", keys=[2023]),
    mean("born", lower="1925-01-01", upper="2005-01-01"),
    mean("readmitted", lower=0, upper=1),
    mean("crp", lower=0, upper=100),
    variance("crp", lower=0, upper=100),
    quantile("crp", candidates=[3, 5, 8, 10, 12, 15, 20, 30, 50]),
]


def main(university_url: str, *hospital_urls: str) -> None:
    university, *hospitals = [
        pygrid.client.connect(url).login("ann@example.org", PASSWORD, sign_up=True)
        for url in (university_url, *hospital_urls)
    ]
    for hospital in hospitals:
        job = hospital.statistics("visits-2023", TABLE_1, epsilon=4.0, delta=1e-5, reason="describe the patients")
        print(hospital.url, job.wait().answers(), sep="\n")
    model = Net()
    plan = readmission.build(model, private=True)
    run = pygrid.client.federate(
        plan,
        model,
        [hospital.datasets["visits-2023"] for hospital in hospitals],
        coordinator=university,
        rounds=5,
        batch_size=100,
        epsilon=8.0,
        delta=1e-5,
        reason="predict who comes back",
    )
    print(run.wait().history)
    jobs = [
        hospital.submit(plan, dataset="visits-2024", model=run.model(), kind="evaluate", reason="is it right?")
        for hospital in hospitals
    ]
    for job in jobs:
        print(job.wait().result())


if __name__ == "__main__":
    main(*sys.argv[1:])
