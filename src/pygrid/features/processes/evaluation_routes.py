"""Routes of evaluations of checkpoints."""

from __future__ import annotations

from litestar import Router, get, put
from litestar.datastructures import State
from litestar.params import JSONBody

from pygrid.core.access import Permission
from pygrid.features.processes.evaluations import EvaluationsService
from pygrid.messages.processes import EvaluationInfo, EvaluationList, EvaluationRequest
from pygrid.web.auth import require
from pygrid.web.parameters import AfterId, PageSize, PathId
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


@get("/processes/{process_id:int}/evaluations", guards=[require()], responses=describe_problems(400, 401, 404))
async def list_evaluations(
    request: AppRequest, state: State, process_id: PathId, after: AfterId = 0, limit: PageSize = 1000
) -> EvaluationList:
    """List the evaluations of checkpoints above number ``after``, in their order."""
    return EvaluationList(await service(state, EvaluationsService).list(request.user, process_id, after, limit))


@put(
    "/processes/{process_id:int}/evaluations/{checkpoint:int}",
    guards=[require(Permission.UPLOAD_DATA)],
    responses=describe_problems(400, 401, 403, 404),
)
async def put_evaluation(
    request: AppRequest, data: JSONBody[EvaluationRequest], state: State, process_id: PathId, checkpoint: PathId
) -> EvaluationInfo:
    """Store the metrics of a checkpoint on held-out data; they replace earlier ones."""
    return await service(state, EvaluationsService).put(request.user, process_id, checkpoint, data.metrics)


router = Router(
    "/model-centric",
    route_handlers=[list_evaluations, put_evaluation],
    tags=["processes"],
    exception_handlers=exception_handlers(Area.DATA),
)
