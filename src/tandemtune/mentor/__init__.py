"""A language model as mentor: it is told what a task is and which prompts did how well, and proposes new ones. Text only.

`brief`       what it is told
`requests`    how, in two styles: `chat` for strong models, `complete` for small ones
`client`      a question, an answer, and the interface of whoever answers
`endpoint`    an OpenAI-compatible endpoint
`address`     where it lies, and the key that it gets
`wire`        what it sends, in whatever form
`llama`       a local GGUF model
`letters`     a person, or a chat window without an API
`transcript`  all that was said, in one file: record, replay, ledger and caps
`thoughts`    from an answer to its final part
`replies`     which answers are not read, and where they stand
`structured`  from JSON in it to prompts
`parse`       from an answer to candidates
`judge`       which of them may be tried
`mentor`      one turn
`clients`     who answers, as a recipe says
`trial`       whether its answers can be read
`grading`     grades of texts: a judge as a reward
`wordings`    the same for templates and label words
`steering`    the same for the rounds of a search

Importing this loads neither the SDK nor llama.cpp.
"""

from tandemtune.mentor.brief import Brief, Misread, Tried
from tandemtune.mentor.client import Client, Reply, Request
from tandemtune.mentor.endpoint import EndpointClient
from tandemtune.mentor.letters import FileClient
from tandemtune.mentor.llama import LlamaClient
from tandemtune.mentor.mentor import Mentor, Proposals
from tandemtune.mentor.steering import Course, LayerGain
from tandemtune.mentor.transcript import Budget, Ledger, RecordedClient, Transcript

__all__ = [
    "Brief",
    "Budget",
    "Client",
    "Course",
    "EndpointClient",
    "FileClient",
    "LayerGain",
    "Ledger",
    "LlamaClient",
    "Mentor",
    "Misread",
    "Proposals",
    "RecordedClient",
    "Reply",
    "Request",
    "Transcript",
    "Tried",
]
