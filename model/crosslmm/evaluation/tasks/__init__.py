"""The benchmarks by name. A new one is a file here and a line in the registry."""

from crosslmm.errors import UsageError
from crosslmm.evaluation.tasks.questions import Questions
from crosslmm.evaluation.tasks.task import QuestionRow, Task

TASKS: dict[str, Task] = {task.name: task for task in (Questions(),)}


def get_task(name: str) -> Task:
    """Raises UsageError for a name that is not registered."""
    if name not in TASKS:
        raise UsageError(f"{name}: not a task; give one of {', '.join(TASKS)}")
    return TASKS[name]
