"""Simple classifiers of the same rows: what a tuned model has to beat.

>>> tfidf(["good film", "bad film"], ["yes", "no"], ["a good one"]).predicted  # doctest: +SKIP
('yes',)
"""

from tandemtune.yardsticks.base import Answers, Yardstick
from tandemtune.yardsticks.embedding import EmbeddingRidge, embedding
from tandemtune.yardsticks.tf_idf import TfIdf, tfidf

__all__ = ["Answers", "EmbeddingRidge", "TfIdf", "Yardstick", "embedding", "tfidf"]
