"""The service that is put through it: four workers, one small model."""

import e2i_serving


@e2i_serving.service(workers=4, threads=4, traffic={"timeout": 30})
class Chaos(e2i_serving.ClassificationService):
    """Serves the probe model."""

    model = "probe:latest"
