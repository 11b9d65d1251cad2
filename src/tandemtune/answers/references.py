"""What a user should know of the right answers that a model is to learn to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tandemtune.models.answers import AnswerCoder
from tandemtune.tasks.wording import show


def notes_on(references: Sequence[str], coder: AnswerCoder) -> Iterator[str]:
    """One sentence for each thing that keeps a model from writing references as they are.

    Args:
        references: of the labelled rows.
        coder: turns them into tokens.
    """
    every = f"of {len(references):,} references"
    cut = {reference: coder.whole(reference) for reference in references}
    unknown = coder.tokenizer.unk_token_id
    lost = [reference for reference in references if unknown is not None and unknown in cut[reference]]
    if lost:
        signs = [
            sign
            for sign in dict.fromkeys("".join(lost))
            if not sign.isspace() and not sign.isalnum() and unknown in coder.whole(sign)
        ]
        shown = f", such as {' '.join(signs[:5])}" if signs else ""
        yield f"{len(lost):,} {every} hold what the tokenizer does not know{shown}: the model can neither learn nor write that"
    long = [reference for reference in references if len(cut[reference]) > coder.most]
    if long:
        yield (
            f"{len(long):,} {every} have more than max_new_tokens = {coder.most} tokens: the model learns and writes their beginnings only; "
            "raise it for whole ones"
        )
    stopped = [reference for reference in references if any(stop in reference for stop in coder.stop)]
    if stopped:
        said = ", ".join(show(stop) for stop in coder.stop if any(stop in reference for reference in stopped))
        yield f"{len(stopped):,} {every} hold what ends an answer ({said}): nothing from there on is ever written"
