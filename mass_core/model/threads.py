"""Work shared among threads that each run PyTorch on one core.

PyTorch's own threads meet after every operation. Where an operation is short and a core is busy with something else, they mostly wait for
each other; tasks of many operations do not.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_threads(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """Results of a function for every task, without gradients; as many at a time as PyTorch has threads.

    A single task keeps all of PyTorch's threads to itself.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    if min(threads, len(tasks)) == 1:
        return [function(task) for task in tasks]

    def run(task: Task) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return function(task)

    try:
        with ThreadPoolExecutor(min(threads, len(tasks)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(run, tasks))
    finally:
        torch.set_num_threads(threads)  # the pool's setting is also that of threads yet to come
