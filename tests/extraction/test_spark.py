"""The recipe for Spark, where Java and PySpark are."""

from __future__ import annotations

import runpy
import shutil
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, make_photos

import featcache as fc

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # PySpark's own


@pytest.fixture(scope="module")
def spark():
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    pytest.importorskip("pandas")
    sql = pytest.importorskip("pyspark.sql")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        made = (
            sql.SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .getOrCreate()
        )
        yield made
        made.stop()


def test_rows_are_those_of_inline(spark, tiny_backbone, tmp_path):
    recipe = runpy.run_path(str(REPOSITORY / "pipelines" / "spark_extract.py"))
    root = make_photos(tmp_path / "photos")
    (root / "apple" / "broken.jpg").write_bytes(b"\xff\xd8no image")
    options = {"weights": str(tiny_backbone), "show_progress": False, "runtime": "openvino"}
    inline = fc.extract(root, cache_dir=tmp_path / "inline", **options)
    with recipe["SparkExecutor"](spark) as executor:
        other = fc.extract(root, cache_dir=tmp_path / "spark", executor=executor, **options)
        np.testing.assert_array_equal(other.X, inline.X)
        assert other.ids == inline.ids
        assert other.failures == inline.failures
        # what a worker refuses is said in our words, and not tried again
        gone = tmp_path / "gone.keras"
        shutil.copyfile(tiny_backbone, gone)
        more = options | {"weights": str(gone)}
        real = executor.submit

        def without_weights(function, /, *args, **kept):
            gone.unlink(missing_ok=True)
            return real(function, *args, **kept)

        executor.submit = without_weights
        with pytest.raises(fc.FeatcacheError, match="cannot have the backbone"):
            fc.extract(root, cache_dir=tmp_path / "none", executor=executor, **more)
