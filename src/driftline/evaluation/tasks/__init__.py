"""Problems with a checked answer: the lab's own, reasoning-gym's, a JSONL file, or the usual sets of the Hub."""

from driftline.evaluation.tasks.registry import open_task
from driftline.evaluation.tasks.task import Problem, Task

__all__ = ["Problem", "Task", "open_task"]
