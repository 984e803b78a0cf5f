"""Serve the classifier of breast tumours."""

from __future__ import annotations

import e2i_serving


@e2i_serving.service(workers=2, traffic={"timeout": 10})
class BreastCancer(e2i_serving.ClassificationService):
    """Is a breast tumour malignant or benign? From 30 measures of its cell nuclei."""

    model = "breast_cancer:latest"
    label_names = ("brand", "region", "segment")
