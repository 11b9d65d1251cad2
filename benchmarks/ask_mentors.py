"""Asks mentors for the prompts that benchmarks/race.toml races, and keeps what was said in benchmarks/transcripts.

    python benchmarks/ask_mentors.py --data FOLDER --who strong [--tasks trec ...] [--out runs/ask]     # a person or a chat window answers
    python benchmarks/ask_mentors.py --data FOLDER --who smollm2-135m                                    # a local model
    python benchmarks/ask_mentors.py --data FOLDER --who permuted                                        # controls, after `strong`

Each task is run up to the last question, with the rows of the first seed; the same prompts then serve all seeds. Questions hold training rows
(a few that are misread), losses and counts of training rows, and nothing of dev or test rows. The strong mentor's questions are written to
OUT/strong/TASK/mentor; save its answers beside them and give the same command again. Small mentors, which make nothing of losses, are asked
once, before any training. Two controls are the strong mentor's questions with one thing
made wrong: in `permuted` each tried prompt has the loss, score and probabilities of another one, in `other-rows` the misread rows are another
task's.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from tandemtune.callbacks import Callback, TurnView
from tandemtune.comparisons.plan import Cell, read_plan
from tandemtune.config import RunConfig, load_config
from tandemtune.errors import AnswerAwaited
from tandemtune.mentor import FileClient, Request, Transcript
from tandemtune.mentor.judge import normal
from tandemtune.mentor.parse import read
from tandemtune.runs.journal import read_journal, read_lines
from tandemtune.runs.records import ProposalRecord
from tandemtune.tasks.catalogue import TASKS

HERE = Path(__file__).parent
TRANSCRIPTS, PLAN = HERE / "transcripts", HERE / "race.toml"
MENTORS = {
    "strong": {"client": "file"},
    "smollm2-135m": {"client": "local", "mentor": "pypi:smollm2-135m-gguf", "style": "complete"},
    "qwen2.5-coder-1.5b": {"client": "local", "mentor": "pypi:qwen2.5-coder-1.5b-gguf", "style": "complete"},
}
ROWS = "Rows that it gets wrong:"
Change = Callable[[str, str], str]


def cells(data: Path, model: str | None) -> dict[str, Cell]:
    """The first seed's run of a race for each task of the plan."""
    settings = [f"task.data={data}"] + ([f"model.name={model}"] if model else [])
    plan = read_plan(PLAN, Path("runs"), settings)
    found = {}
    for cell in plan.cells:
        if cell.method == "race, mutation" and cell.task not in found:
            found[cell.task] = cell
    return found


def recipe(cell: Cell, who: str, data: Path) -> RunConfig:
    """A race of the plan, asked of a mentor; a small mentor is asked once, for the prompts of all rounds."""
    content = cell.config.model_dump(mode="json")
    content["alternate"] |= {"proposer": {"kind": "mentor"}, "final_steps": 0}
    content["mentor"] |= MENTORS[who]
    if MENTORS[who]["client"] == "local":
        rounds, count = content["alternate"]["rounds"], content["alternate"]["proposals"]
        content["alternate"] |= {"rounds": 1, "round_steps": 0, "proposals": rounds * count}
    for part in ("train", "test"):
        source = content["task"][part]
        if source is not None:
            content["task"][part] = str(data / Path(source).name)
    return load_config(content)


class EnoughError(Exception):
    """The last question is answered."""


class UntilLast(Callback):
    """Ends a run behind its last proposal.

    Args:
        rounds: of the run.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        """What races would come of it is not wanted here."""
        if record.round == self._rounds:
            raise EnoughError


def ask(cell: Cell, who: str, data: Path, out: Path) -> None:
    """Run one task up to its last question, or as far as there are answers."""
    from tandemtune.api import resume, tune

    folder, settings = out / who / cell.task, recipe(cell, who, data)
    watching = [UntilLast(settings.alternate.rounds)]
    try:
        if (folder / "recipe.json").exists():
            resume(folder, callbacks=watching, progress="none")
        else:
            tune(settings.model_dump(mode="json"), folder, callbacks=watching, progress="none")
    except EnoughError:  # more would cost time and say nothing
        pass
    except AnswerAwaited as awaited:
        print(f"{cell.task}: {awaited}")
        return
    proposals = [line for line in read_journal(folder / "journal.jsonl") if isinstance(line, ProposalRecord)]
    count = cell.config.alternate.proposals
    texts = [draft.text for line in proposals for draft in line.drafts]
    keep(who, TASKS[cell.task].summary, [texts[first : first + count] for first in range(0, len(texts), count)])
    publish(folder / "conversations.jsonl", TRANSCRIPTS / f"{who}-{cell.task}.jsonl")
    for line in proposals:
        print(f"{cell.task}, round {line.round}: {[draft.text for draft in line.drafts]}, refused: {line.refused}")


def keep(who: str, definition: str, rounds: list[list[str]]) -> None:
    """Add prompts to the list that races read."""
    path = TRANSCRIPTS / "prompts.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known.setdefault(who, {})[definition] = rounds
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(said: Path, place: Path) -> None:
    """Copy what was said, without the texts of rows."""
    lines = read_lines(said)
    for line in lines:
        for message in line.get("request", {}).get("messages", ()):
            message["content"] = re.sub(
                r'(?m)^- ".*" is (".*"), read as ', r'- "[a row]" is \1, read as ', message["content"]
            )
    place.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


# ---- controls ------------------------------------------------------------------------------------------------------


def permuted(question: str, task: str) -> str:
    """The list of tried prompts stays sorted by loss, and each of them gets another one's numbers."""
    lines = question.split("\n")
    forms = [re.fullmatch(r'(\d+\. )(".*?")( loss .*)', line) for line in lines]
    places = [number for number, form in enumerate(forms) if form]
    texts = [form[2] for form in forms if form]
    for place, other in zip(places, derangement(len(places), random.Random(task)), strict=True):
        form = forms[place]
        assert form is not None
        lines[place] = form[1] + texts[other] + form[3]
    return "\n".join(lines)


def derangement(count: int, generator: random.Random) -> list[int]:
    """An order in which nothing stays where it was, if there is one."""
    order = list(range(count))
    while count > 1 and any(place == number for place, number in enumerate(order)):
        generator.shuffle(order)
    return order


def with_rows_of(rows: str) -> Change:
    """The question with other rows in place of those that are misread."""
    return lambda question, task: re.sub(rf"{ROWS}\n(?:- .*\n?)+", lambda _: rows, question)


def rows_of(task: str, out: Path) -> str:
    """The misread rows that the strong mentor was shown of a task."""
    asked = [line for line in read_lines(out / "strong" / task / "conversations.jsonl") if "request" in line]
    found = re.search(rf"{ROWS}\n(?:- .*\n?)+", asked[0]["request"]["messages"][1]["content"])
    if found is None:
        raise ValueError(f"no misread rows in the question about {task}")
    return found[0]


def control(task: str, who: str, change: Change, out: Path) -> None:
    """Ask the strong mentor's questions of a task again, with something made wrong."""
    folder = out / who / task
    folder.mkdir(parents=True, exist_ok=True)
    transcript = Transcript(folder / "conversations.jsonl", FileClient(folder / "mentor", tell=print))
    rounds: list[list[str]] = []
    strong = read_lines(out / "strong" / task / "conversations.jsonl")
    answers = {line["answered"]: list(read(line["reply"]["text"]).prompts) for line in strong if "answered" in line}
    for line in strong:
        if "request" not in line:
            continue
        said = line["request"]
        messages = tuple((each["role"], change(each["content"], task)) for each in said["messages"])
        if all(each["content"] == text for each, (_, text) in zip(said["messages"], messages, strict=True)):
            rounds.append(answers[line["asked"]])  # there was nothing to make wrong
            continue
        request = Request("chat", said["max_tokens"], said["temperature"], said["seed"], messages)
        try:
            reply = transcript.ask(request)
        except AnswerAwaited:
            return
        known = {normal(text) for texts in rounds for text in texts}
        rounds.append([text for text in read(reply.text).prompts if normal(text) not in known])
    keep(who, TASKS[task].summary, rounds)
    publish(folder / "conversations.jsonl", TRANSCRIPTS / f"{who}-{task}.jsonl")
    print(f"{task}: {rounds}")


def main() -> None:
    """Ask whoever is named about each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--who", required=True, choices=[*MENTORS, "permuted", "other-rows"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the tasks' files")
    parser.add_argument("--model", help="the model's folder, instead of the plan's name")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("runs/ask"))
    options = parser.parse_args()
    found = cells(options.data, options.model)
    names = options.tasks or list(found)
    for name in names:
        if options.who in MENTORS:
            ask(found[name], options.who, options.data, options.out)
        elif options.who == "permuted":
            control(name, options.who, permuted, options.out)
        else:
            every = list(found)
            other = every[(every.index(name) + 1) % len(every)]
            control(name, options.who, with_rows_of(rows_of(other, options.out)), options.out)


if __name__ == "__main__":
    main()
