"""A model of who comes back to a hospital, from dates, categories and a laboratory value with gaps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pygrid

NUMBER, CRP = pygrid.Tensor["batch"], pygrid.Tensor["batch"].optional()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ward, self.out = nn.Embedding(3, 2), nn.Linear(6, 2)

    def forward(self, born: Tensor, seen: Tensor, crp: Tensor, sex: Tensor, ward: Tensor) -> Tensor:
        age, is_known = (seen - born) / 365.25, ~torch.isnan(crp)  # dates are days, a gap is NaN
        log_crp = torch.log(torch.where(is_known, crp, 12.0) + 1)
        numbers = torch.stack([age / 20 - 3, log_crp - 2.5, is_known.float(), sex.float()], 1)
        scores: Tensor = self.out(torch.cat([numbers, self.ward(ward)], 1))
        return scores


@pygrid.plan(
    data={
        "born": NUMBER,
        "seen": NUMBER,
        "crp": CRP,
        "sex": pygrid.Label(2),
        "ward": pygrid.Label(3),
        "readmitted": pygrid.Label(2),
    },
    hyper={"lr": pygrid.Float(1.0, min=0.01, max=10.0)},
)
def readmission(
    model: nn.Module, born: Tensor, seen: Tensor, crp: Tensor, sex: Tensor, ward: Tensor, readmitted: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Will the patient come back?"""
    scores = model(born, seen, crp, sex, ward)
    return F.cross_entropy(scores, readmitted), {"accuracy": (scores.argmax(1) == readmitted).float().mean()}
