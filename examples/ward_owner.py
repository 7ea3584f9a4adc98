"""A hospital: upload the visits of two years, and open a budget that protects each patient.

python examples/ward_owner.py http://127.0.0.1:5001 north
"""

import sys
import tempfile
from pathlib import Path

import pygrid.client
import ward_data

PASSWORD = "correct horse battery staple"
COLUMNS = {
    "born": "date,min=1900-01-01",
    "seen": "date",
    "sex": "category,categories=f|m",
    "ward": f"category,categories={'|'.join(ward_data.WARDS)}",
    "crp": "float32,min=0,max=500,unit=mg/l",
    "readmitted": "bool",
}


def main(url: str, hospital: str) -> None:
    domain = pygrid.client.connect(url).login("owner@example.org", PASSWORD, sign_up=True)
    with tempfile.TemporaryDirectory() as folder:
        for year in (2023, 2024):
            file = ward_data.write(Path(folder) / "visits.csv", hospital, year)
            visits = domain.datasets.upload(
                f"visits-{year}",
                file,
                visibility="listed",
                columns=COLUMNS,
                subject="patient",
                max_records_per_subject=ward_data.MAX_VISITS,
            )
            print(visits.schema)
    policy = {"epsilon": 16.0, "epsilon_per_user": 16.0, "delta": 1e-5, "auto_approve": True}
    domain.datasets["visits-2023"].policy(**policy)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
