"""Changes to a dataset: its description, its budget and policy, its end."""

from __future__ import annotations

import msgspec
from litestar import Response, post
from litestar.datastructures import State

from pygrid import codes
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs.policies import PoliciesService
from pygrid.messages.datasets import UpdateDataset
from pygrid.ui.access import signed_in
from pygrid.ui.budget_forms import raises_privacy, read_policy
from pygrid.ui.confirmation import confirm_password
from pygrid.ui.console import see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, read_fields
from pygrid.ui.pages.datasets import find_budget, show_dataset
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


@post("/datasets/{dataset_id:int}/edit", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def edit_dataset(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Change the name, the description, the tags or the visibility."""
    fields = await read_fields(request)
    try:
        await service(state, DatasetsService).check_managed(request.user, dataset_id)
        tags = tuple(tag for part in fields.get("tags", "").split(",") if (tag := part.strip()))
        sent = {
            "name": fields.get("name", "").strip(),
            "description": fields.get("description", "").strip(),
            "tags": tags,
            "visibility": fields.get("visibility", "private"),
        }
        try:
            update = msgspec.convert(sent, UpdateDataset)
        except msgspec.ValidationError as error:
            raise InvalidInput(str(error), code=codes.INVALID_FORM) from error
        await service(state, DatasetsService).update(request.user, dataset_id, update)
    except PygridError as error:
        if error.status == 404:
            raise
        return await show_dataset(request, state, dataset_id, "about", error, fields)
    return see_other(f"/admin/datasets/{dataset_id}")


@post("/datasets/{dataset_id:int}/budget", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def change_budget(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Open a privacy budget, or change its policy."""
    fields = await read_fields(request)
    datasets = service(state, DatasetsService)
    try:
        await datasets.check_managed(request.user, dataset_id)
        budget = await find_budget(state, request.user, dataset_id)
        before = None if budget is None else budget.policy
        wanted = read_policy(fields, before)
        if raises_privacy(wanted, before):
            await confirm_password(request, state, fields, "raise what may be known about these records")
        await service(state, PoliciesService).put(request.user, dataset_id, wanted)
    except PygridError as error:
        if error.status == 404:
            raise
        return await show_dataset(request, state, dataset_id, "budget", error, fields)
    return see_other(f"/admin/datasets/{dataset_id}?tab=budget")


@post("/datasets/{dataset_id:int}/delete", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def delete_dataset(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Delete a dataset with all of its versions."""
    fields, datasets = await read_fields(request), service(state, DatasetsService)
    info = await datasets.get(request.user, dataset_id)
    try:
        await datasets.check_managed(request.user, dataset_id)
        if fields.get("name", "") != info.name:
            raise InvalidInput(
                "write the name of the dataset to delete it with all of its versions",
                code=codes.INVALID_FORM,
                field="name",
            )
        await confirm_password(request, state, fields, f"delete the dataset {info.name}")
        await datasets.delete(request.user, dataset_id)
    except PygridError as error:
        return await show_dataset(request, state, dataset_id, "about", error, fields)
    return see_other("/admin/datasets")
