"""Counts of words and logistic regression, by scikit-learn: seconds on any machine, and hard to beat where rows are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tandemtune.plugins import register
from tandemtune.yardsticks.base import Answers, Yardstick

STRENGTH = 10.0
"""Inverse of the penalty (``C``): text features of length one want less of it than scikit-learn's default."""


@register
class TfIdf(Yardstick):
    """Words and pairs of words, weighted by how rare they are, and a penalised logistic regression on them."""

    kind: ClassVar[str] = "tf-idf"
    summary: ClassVar[str] = "TF-IDF of words and pairs of words, logistic regression"
    source: ClassVar[str] = "Salton and Buckley 1988; scikit-learn"
    package: ClassVar[str] = "sklearn"
    extra: ClassVar[str] = "baselines"

    def answers(self, texts: Sequence[str], labels: Sequence[str], others: Sequence[str]) -> Answers:
        """Fit both to the labelled texts, and answer for the others."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        reader = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]")
        known = reader.fit_transform(texts)
        fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(known, labels)
        found = (
            np.asarray(fitted.predict_proba(reader.transform(others))) if others else np.zeros((0, len(set(labels))))
        )
        return Answers(tuple(map(str, fitted.classes_)), found)


def tfidf(texts: Sequence[str], labels: Sequence[str], others: Sequence[str]) -> Answers:
    """TF-IDF and logistic regression fitted to labelled texts, asked about others.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    TfIdf.check()
    return TfIdf().answers(texts, labels, others)
