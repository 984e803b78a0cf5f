"""Who a worker is, written at the head of every segment of its journal."""

from __future__ import annotations

import os
import time

import e2i_serving
from e2i_serving.journal import new_life_id
from e2i_serving.record import Deployment, Life, ModelInfo
from e2i_serving.runtime.definition import ServiceDefinition, code_digest
from e2i_serving.settings import Settings, instance_name


def new_life(definition: ServiceDefinition, model: ModelInfo, bento: tuple[str, str], settings: Settings) -> Life:
    """The life of this process, as a worker of a service, from now on.

    Args:
        definition: The service.
        model: The model it serves, if it has exactly one.
        bento: Name and version of the bento.
        settings: They say where it runs.
    """
    name, version = bento
    return Life(
        life=new_life_id(),
        service=definition.name,
        started_ns=time.time_ns(),
        pid=os.getpid(),
        release=e2i_serving.__version__,
        bento=name,
        bento_version=version,
        code_digest=code_digest(definition.inner),
        model=model,
        deployment=Deployment(
            settings.environment,
            settings.namespace,
            settings.pod or instance_name(settings),
            settings.revision,
            settings.arm,
        ),
    )
