"""What a run writes down, as typed records. Everybody who writes or reads a run's files goes through this package.

`base`         how records are written and read; losses that are NaN or infinite are None, since JSON has no word for them
`journal`      lines of the journal
`facts`        what was decided when a run began
`results`      what a run reached; its task card
`predictions`  what a model says of rows
`compared`     runs of a comparison
"""

from tandemtune.runs.records.base import (
    DIGITS,
    SCHEMA,
    Loss,
    Record,
    Versioned,
    from_loss,
    rounded,
    to_loss,
)
from tandemtune.runs.records.compared import (
    ComparedRun,
    ComparedRuns,
    SweepPoint,
)
from tandemtune.runs.records.facts import (
    Facts,
    StretchFacts,
    TemplateScore,
    TemplatesTogether,
    TunableFacts,
)
from tandemtune.runs.records.journal import (
    Actions,
    Costs,
    EndRecord,
    Evaluation,
    Gain,
    GenerationRecord,
    HandOverRecord,
    JournalRecord,
    PromptRecord,
    ProposalRecord,
    RaceEntry,
    RaceRecord,
    Restart,
    StartRecord,
    StepRecord,
    StepSize,
    TurnRecord,
    from_line,
    to_line,
)
from tandemtune.runs.records.predictions import (
    Assessment,
    PredictionRecord,
)
from tandemtune.runs.records.results import (
    CalibratedScores,
    FinalCosts,
    FurtherTemplate,
    NamedScores,
    Result,
    RowCounts,
    Scores,
    TaskCard,
    UnseenClasses,
    YardstickScores,
)

__all__ = [
    "DIGITS",
    "SCHEMA",
    "Actions",
    "Assessment",
    "CalibratedScores",
    "ComparedRun",
    "ComparedRuns",
    "Costs",
    "EndRecord",
    "Evaluation",
    "Facts",
    "FinalCosts",
    "FurtherTemplate",
    "Gain",
    "GenerationRecord",
    "HandOverRecord",
    "JournalRecord",
    "Loss",
    "NamedScores",
    "PredictionRecord",
    "PromptRecord",
    "ProposalRecord",
    "RaceEntry",
    "RaceRecord",
    "Record",
    "Restart",
    "Result",
    "RowCounts",
    "Scores",
    "StartRecord",
    "StepRecord",
    "StepSize",
    "StretchFacts",
    "SweepPoint",
    "TaskCard",
    "TemplateScore",
    "TemplatesTogether",
    "TunableFacts",
    "TurnRecord",
    "UnseenClasses",
    "Versioned",
    "YardstickScores",
    "from_line",
    "from_loss",
    "rounded",
    "to_line",
    "to_loss",
]
