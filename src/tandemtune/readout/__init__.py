"""Readouts: what the labelled rows say about a frozen model's features and label logits, solved and not searched.

`design`          features and label logits of the labelled rows as kernels, and what each row counts
`squares`         least squares on the labels, with exact leave-one-out predictions
`logistic`        penalised logistic regression, with approximate leave-one-out predictions
`fitting`         strength and weights by the leave-one-out loss, then the solution as parameters

There is no model in sight, all is float64, and everything may have a population's dimension in front.
"""

from tandemtune.readout.design import Design, Prior
from tandemtune.readout.fitting import FORMS, Form, FormName, Readout, Settings, choose, leave_one_out, solve

__all__ = [
    "FORMS",
    "Design",
    "Form",
    "FormName",
    "Prior",
    "Readout",
    "Settings",
    "choose",
    "leave_one_out",
    "solve",
]
