"""Extraction on a Spark cluster: its shards as tasks, each through one `mapInPandas`.

Shows: an executor of `concurrent.futures` in a few lines, and so how any engine can run shards.
Workers need featcache with this process's version, and images and weights under the same paths.

    spark-submit pipelines/spark_extract.py PHOTOS --backbone mobilenet-v2

needs `pip install pyspark pandas pyarrow` and Java. Spark tries a task four times. The network is
built once in each Python process of Spark (`spark.python.worker.reuse`, its default); let a worker
have as many cores as a network shall use (`--conf spark.task.cpus=8`).

To expect on example:clipart: the file that `featcache extract example:clipart` writes, row by row.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import featcache as fc


class SparkExecutor(concurrent.futures.Executor):
    """Runs calls as Spark jobs of one task each, as many at once as Spark has slots for."""

    def __init__(self, spark: Any):
        context = spark.sparkContext
        per_task = int(context.getConf().get("spark.task.cpus", "1"))
        self._spark = spark
        self._max_workers = max(1, context.defaultParallelism // per_task)
        # each waits for a job; twice as many, so that Spark has the next one
        self._waiting = ThreadPoolExecutor(2 * self._max_workers)

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Have a function called by a worker."""
        return self._waiting.submit(self._run, pickle.dumps((function, args, options)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing more."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, call: bytes) -> Any:
        frame = self._spark.createDataFrame([(bytearray(call),)], "call binary")
        try:
            [(said,)] = frame.mapInPandas(called, "said binary").collect()
        # whatever Spark, Py4J or Java call it
        except Exception as error:
            raise concurrent.futures.BrokenExecutor(str(error).partition("\n")[0]) from error
        result, error = pickle.loads(said)
        if error is not None:
            raise error
        return result


def called(frames: Iterator[Any]) -> Iterator[Any]:
    """Yield what calls gave or raised; an error of ours is a result, and not tried again."""
    import pandas as pd

    for frame in frames:
        said = []
        for call in frame["call"]:
            function, args, options = pickle.loads(call)
            try:
                said.append(pickle.dumps((function(*args, **options), None)))
            except fc.FeatcacheError as error:
                said.append(pickle.dumps((None, error)))
        yield pd.DataFrame({"said": said})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="as `featcache extract` takes it")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--cache-dir", default="cache")
    options = parser.parse_args()
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.appName("featcache extract").getOrCreate()
    try:
        with SparkExecutor(spark) as executor:
            features = fc.extract(
                options.source, options.backbone, cache_dir=options.cache_dir, executor=executor
            )
    except fc.FeatcacheError as error:
        sys.exit(f"Error: {error}")
    finally:
        spark.stop()
    print(features)


if __name__ == "__main__":
    main()
