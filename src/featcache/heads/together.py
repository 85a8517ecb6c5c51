"""Several functions, minimised at once by L-BFGS: each round evaluates those still under way.

Where evaluating is a pass over a file, one pass then serves all of them. Each is minimised as it
would be alone, with the options that scikit-learn gives SciPy's solver.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

Points = dict[int, np.ndarray]  # number of a function -> where it is asked for
Value = tuple[float, np.ndarray, bool]  # the function, its gradient, and whether that will do
Values = dict[int, Value]


@dataclass
class Minimum:
    """Where a function is least."""

    x: np.ndarray
    n_iterations: int
    complaint: str  # of the solver, where it gave up


class _StopError(Exception):
    """Not one of trouble: a point was found that will do."""


def minimised(
    starts: Points, evaluate: Callable[[Points], Values], max_iter: int
) -> dict[int, Minimum]:
    """Return the minimum of each function, by its number.

    Parameters
    ----------
    starts : of each function, (size,) float64.
    evaluate : given some functions' points, returns their values; the first point whose value says
        that it will do ends a function.
    """
    asked: SimpleQueue[tuple[int, np.ndarray | None]] = SimpleQueue()
    answers: dict[int, SimpleQueue[Value | BaseException]] = {
        number: SimpleQueue() for number in starts
    }

    def minimise(number: int) -> Minimum:
        from scipy import optimize

        found = Minimum(starts[number], 0, "")

        def value(x: np.ndarray) -> tuple[float, np.ndarray]:
            asked.put((number, x.copy()))
            answer = answers[number].get()
            if isinstance(answer, BaseException):
                raise answer
            if answer[2]:
                found.x = x.copy()
                raise _StopError
            return answer[:2]

        def count(_: np.ndarray) -> None:
            found.n_iterations += 1

        # SciPy's own tolerance is of the gradient in the solver's coordinates
        options = {"maxiter": max_iter, "maxls": 50, "gtol": 0, "ftol": 64 * np.finfo(float).eps}
        try:
            result = optimize.minimize(
                value, found.x, method="L-BFGS-B", jac=True, options=options, callback=count
            )
        except _StopError:
            found.n_iterations += 1
        else:
            found.x, found.complaint = result.x, "" if result.success else str(result.message)
        finally:
            asked.put((number, None))  # it asks no more
        return found

    with ThreadPoolExecutor(max(len(starts), 1)) as pool:
        futures = {number: pool.submit(minimise, number) for number in starts}
        n_running = len(starts)
        points: Points = {}
        try:
            while n_running:
                number, x = asked.get()
                if x is None:
                    n_running -= 1
                else:
                    points[number] = x
                if points and len(points) == n_running:
                    for one, answer in evaluate(points).items():
                        answers[one].put(answer)
                    points = {}
        except BaseException as error:  # those who wait for an answer have to end, too
            for waiting in answers.values():
                waiting.put(error)
            raise
    return {number: future.result() for number, future in futures.items()}
