"""Owners serve ONNX models; other users request predictions, or download the model, where the owner allows it."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.clock import Clock
from pygrid.compute.inference import InferenceLimits, InferenceWorkers
from pygrid.features.models.routes import model_routes
from pygrid.features.models.service import ModelsService
from pygrid.lifecycle import Feature
from pygrid.settings import DomainSettings
from pygrid.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class ModelsFeature(Feature):
    """The served models of a Domain."""

    service: ModelsService


def build(clock: Clock, store: Store, settings: DomainSettings) -> ModelsFeature:
    inference = InferenceWorkers(
        InferenceLimits(settings.inference_models, wall_s=settings.inference_wall_s, idle_s=settings.inference_idle_s),
        allow_weak_sandbox=settings.allow_weak_sandbox,
    )
    models = ModelsService(store, inference, clock, max_request_bytes=settings.inference_questions_mb * 1024**2)
    return ModelsFeature(
        service=models, services=(models,), routes=tuple(model_routes), start=models.recover, close=inference.close
    )
