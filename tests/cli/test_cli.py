"""The command line as a person meets it: outputs, and one line for everything expected to fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import h5py
import pytest
from conftest import make_photos, parse_single_json, wrap_runs

from featcache import cli, extraction, store
from featcache.cli import options
from featcache.cli.fit_heads import _say_left_out
from featcache.core import atomic
from featcache.models import stitching
from featcache.scoring import leaderboard
from featcache.selection.fit_heads import fit_heads

VERBS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


@pytest.fixture(scope="module")
def made_once(tiny_backbone, tmp_path_factory):
    """A folder with extracted features, fitted heads and a stitched model, for `home` to copy."""
    folder = tmp_path_factory.mktemp("home")
    features = extraction.run(
        make_photos(folder / "my photos"),
        weights=str(tiny_backbone),
        cache_dir=folder / "cache",
        show_progress=False,
    ).features
    board = fit_heads(features, ["logreg", "rbf-svm"], cv=3, jobs=1, show_progress=False)
    stitching.run(board["logreg"], folder / "m.keras", show_progress=False)
    return folder


@pytest.fixture
def home(tmp_path, made_once):
    """A folder with extracted features, fitted heads and a stitched model in ./cache."""
    return shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)


def test_info_and_verify(home, photos, cli):
    (file,) = home.glob("cache/*/*.h5")
    text = cli("info", file).stdout
    assert "apple 7, pear 7, quince 7" in text
    assert "tiny.keras" in text
    described = parse_single_json(cli("info", file, "--json").stdout)
    assert described["classes"] == {"apple": 7, "pear": 7, "quince": 7}
    listed = parse_single_json(cli("info", "--json").stdout)
    assert [one["n_images"] for one in listed["files"]] == [21]
    assert "is whole: 21 rows" in cli("verify", file).stdout
    with h5py.File(file) as opened:
        offset = opened["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(file.read_bytes())
    data[offset + 40] ^= 1
    file.write_bytes(data)
    done = cli("verify", file)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"Error: Feature file '{file}' is damaged: features of rows 0–20."
    )
    mended = parse_single_json(cli("verify", file, "--repair", "--json").stdout)
    assert (mended["computed"], mended["rows"]) == (21, [[0, 20]])
    assert "is whole" in cli("verify", file).stdout


def test_info_of_a_model(home, cli):
    told = parse_single_json(cli("info", "m.keras", "--json").stdout)
    assert told["size"]["head_parameters"] > 0
    assert told["size_bytes"] == (home / "m.keras").stat().st_size
    table = cli("info", "m.keras").stdout
    assert f"{told['size']['backbone_parameters']:,} parameters" in table
    assert all(name in table for name in told["class_names"])


def test_info_where_there_is_nothing_or_damage(tmp_path, cli):
    assert cli("info").returncode == 1
    (tmp_path / "cache" / "x").mkdir(parents=True)
    (tmp_path / "cache" / "x" / "f.h5").write_text("hello")
    done = cli("info", "cache")
    assert "truncated or no HDF5" in done.stderr


def test_a_miss_says_why(photos, tiny_backbone, cli):
    cli("extract", photos, "--weights", tiny_backbone)
    done = cli(
        "extract", photos, "--weights", tiny_backbone, "--dtype", "float16", "--pooling", "max"
    )
    assert done.stderr == (
        "No cached features: pooling was avg, is max; dtype was float32, is float16.\n"
    )


@pytest.mark.slow
def test_every_verb_in_json_from_start_to_end(photos, tiny_backbone, cli, tmp_path):
    done = cli("extract", photos, "--weights", tiny_backbone, "--json")
    extracted = parse_single_json(done.stdout)
    assert extracted["shape"] == [21, 12]
    assert extracted["computed"] == 21
    done = cli("fit-heads", "--cv", "3", "--heads", "logreg,linear-svm", "--jobs", "1", "--json")
    board = parse_single_json(done.stdout)
    assert {row["head"] for row in board["results"]} == {"dummy", "logreg", "linear-svm"}
    assert "Took the newest feature file" in done.stderr
    done = cli("stitch", "--head", "logreg", "--json")
    model = parse_single_json(done.stdout)
    assert model["parity"]["n_same_class"] == 21
    assert "Took the newest heads" in done.stderr
    done = cli("predict", model["model"], photos / "pear", "--top", "2", "--json")
    predictions = parse_single_json(done.stdout)["predictions"]
    assert [len(one["classes"]) for one in predictions] == [2] * 7
    done = cli("finetune", model["model"], "--unfreeze", "1", "--epochs", "1", "--json")
    tuned = parse_single_json(done.stdout)
    assert len(tuned["stages"][0]["validation_loss"]) == 2
    assert (tmp_path / tuned["model"]).name.endswith("-finetuned.keras")


def test_extract_says_what_it_did(photos, tiny_backbone, cli):
    (photos / "pear" / "broken\nname.jpg").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    for name in ("apple/1.heic", "apple/2.HEIC", "apple/@eaDir/apple.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    first = cli("extract", photos, "--weights", tiny_backbone)
    assert "21 images of 3 classes, 12 features each" in first.stdout
    done = "Computed 21, reused 0, removed 0, failed 1, passed over 3 other files: 2 .heic, 1 .txt."
    assert done in first.stdout
    assert first.stderr.splitlines() == [
        "Note: Left out folders that are hidden, or made by file managers and servers: 1 @eaDir.",
        "Note: Pictures in .heic are not read; convert them to JPEG or PNG.",
        "Note: Images lost in files that were passed over: 2 of 9 of class 'apple'.",
        "Note: Images lost since they could not be read: 1 of 8 of class 'pear'.",
        "unreadable: pear/broken name.jpg: no known image format",
    ]
    second = cli("extract", photos, "--weights", tiny_backbone)
    assert second.stdout.startswith("Found")
    assert "Computed 0, reused 21" in second.stdout


def test_predict_prints_a_table_and_writes_csv(home, photos, cli):
    done = cli("predict", "m.keras", photos / "pear", "--out", "out.csv", "--top", "2")
    assert "pear" in done.stdout
    lines = (home / "out.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,class,score,class_2,score_2,error"
    assert len(lines) == 8
    plain = cli("predict", "m.keras", photos / "pear", "--out", "out.csv")
    assert plain.returncode == 0
    assert (home / "out.csv").read_text(encoding="utf-8").startswith("path,class,score,error\n")


def test_a_stdin_that_is_closed_has_no_paths(home, cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    done = cli("predict", "m.keras", "-")
    assert done.stderr == "Error: No paths came on stdin; give one per line.\n"


def test_a_working_directory_that_was_deleted(cli, monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", gone)
    done = cli("info")
    assert done.stderr.startswith("Error: The working directory was deleted.")
    assert done.returncode == 1


@pytest.mark.slow
def test_finetune_says_what_came_of_it(home, cli, eager_steps):
    done = cli("finetune", "m.keras", "--unfreeze", "2", "--epochs", "1", "--out", "t.keras")
    assert done.returncode == 0, done.stderr
    assert ("Held out (" in done.stdout) != ("Not improved" in done.stdout)
    assert (home / "t.keras").is_file()
    assert (home / "t.html").is_file()


WRONG_USE = [
    (["extract", "{photos}", "--backbone", "resnet"], "Nearest: resnet50"),
    (
        ["extract", "{photos}", "--pooling", "mean"],
        "pooling must be one of avg, max, flatten, gram, none",
    ),
    (["extract", "{photos}", "--dtype", "int8"], "dtype must be one of"),
    (["extract", "{photos}", "--image-size", "-5"], "image_size"),
    (
        ["extract", "{photos}", "--batch-size", "0"],
        "must be auto or a whole number, 1 or more; got 0",
    ),
    (["extract", "{photos}", "--batch-size", "many"], "batch_size must be auto or a whole number"),
    (["extract", "{photos}", "--limit", "0"], "limit must be a whole number, 1 or more"),
    (["extract", "{photos}", "--device", "tpu"], "device must be one of"),
    (["extract", "{photos}", "--weights", "nowhere.h5"], "there is no file 'nowhere.h5'"),
    (["extract", "{photos}", "--colour"], "--colour"),
    (["extract", "example:cats"], "example:clipart"),
    (["exract"], "exract"),
    (["predict", "m.keras"], "Missing argument 'images'"),
]
FAILURES = [
    (["extract", "nowhere"], "does not exist"),
    (["extract", "{empty}"], "has no images"),
    (["extract", "{broken}", "--weights", "{tiny}"], "None of 2 images"),
    (["fit-heads"], "There is no feature file in 'cache'. Run `featcache extract`"),
    (["fit-heads", "{text}"], "truncated or no HDF5 file"),
    (["fit-heads", "{empty}"], "is a folder"),
    (["stitch"], "There are no heads in 'cache'. Run `featcache fit-heads`"),
    (["stitch", "{empty}"], "has no leaderboard.json"),
    (["predict", "m.keras", "{photos}"], "Model 'm.keras' does not exist"),
    (["finetune", "m.keras"], "Model 'm.keras' does not exist"),
]
FAILURES_OF_LARGE_NETWORKS = [
    (
        ["extract", "{photos}", "--weights", "{tiny}", "--backbone", "vgg16"],
        "architecture of vgg16",
    ),
    (["extract", "{photos}", "--weights", "{text}", "--backbone", "mobilenet"], "notes.h5"),
]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        *[(*case, 2) for case in WRONG_USE],
        *[(*case, 1) for case in FAILURES],
        *[pytest.param(*case, 1, marks=pytest.mark.slow) for case in FAILURES_OF_LARGE_NETWORKS],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_nothing_left(arguments, message, code, photos, tiny_backbone, tmp_path, cli):
    places = {"photos": photos, "tiny": tiny_backbone}
    for name in ("empty", "broken"):
        places[name] = tmp_path / name
        places[name].mkdir()
    for name in ("a", "b"):
        (tmp_path / "broken" / name).mkdir()
        (tmp_path / "broken" / name / "x.jpg").write_text(f"broken {name}")
    places["text"] = tmp_path / "notes.h5"
    places["text"].write_text("hello")
    done = cli(*(argument.format(**places) for argument in arguments))
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    # hidden files are the cache folder's own bookkeeping
    assert not [path for path in (tmp_path / "cache").glob("*") if not path.name.startswith(".")]


def test_heads_that_cannot_be_compared(tmp_path, tiny_backbone, cli):
    cli("extract", make_photos(tmp_path / "p", a_class=3), "--weights", tiny_backbone)
    done = cli("fit-heads")
    assert done.returncode == 1
    assert "Class 'apple' has 2 different training images, fewer than the 5" in done.stderr
    cli("extract", make_photos(tmp_path / "q", classes=("one",)), "--weights", tiny_backbone)
    done = cli("fit-heads")
    assert "two classes or more" in done.stderr
    done = cli("fit-heads", "--heads", "svm")
    assert (done.returncode, "choose from dummy, centroid" in done.stderr) == (2, True)
    assert not list(tmp_path.glob("cache/*/[!.]*.heads*"))  # a lock may stay, it means nothing


def test_what_the_quick_set_leaves_out_is_said(capsys):
    reasons = {"logreg": "takes about 2 min", "dense": "never", "random-forest": "never"}
    board = types.SimpleNamespace(left_out=reasons, task="classification")
    _say_left_out(board, ["quick"])
    assert capsys.readouterr().err.splitlines() == [
        "Left out logreg: takes about 2 min.",
        "Left out dense, random-forest: never.",
        "To have one: --heads quick,random-forest; all: --heads all.",
    ]
    _say_left_out(board, ["lda"])
    assert "--heads" not in capsys.readouterr().err


def test_fit_heads_with_its_options_and_the_report_again(photos, tiny_backbone, cli, tmp_path):
    cli("extract", photos, "--weights", tiny_backbone)
    done = cli(
        *("fit-heads", "--cv", "3", "--jobs", "1", "--heads", "lda,linear-svm,logreg"),
        *("--metric", "log-loss", "--learning-curve", "--tensorboard", tmp_path / "board"),
        *("--class-weight", "balanced", "--prefer", "simple"),
    )
    assert done.returncode == 0, done.stderr
    assert "Left out linear-svm: log-loss needs probabilities" in done.stderr
    assert "Note: Class 'apple' has 6 training images" in done.stderr
    assert "log-loss (95 %)" in done.stdout
    assert "more labels would help is not shown" in done.stdout
    page = Path(done.stdout.split("See ")[1].strip())
    page = page if page.is_absolute() else tmp_path / page
    assert "apple" in page.read_text(encoding="utf-8")
    assert (tmp_path / "board" / "projector_config.pbtxt").exists()
    page.unlink()
    done = cli("report", "--tsne", "--json")
    assert parse_single_json(done.stdout)["report"].endswith("report.html")
    assert page.exists()
    done = cli("report", "--out", tmp_path / "no" / "page.html")
    assert (done.returncode, "lies in none that exists" in done.stderr) == (2, True)


def test_missing_gpu(photos, tiny_backbone, cli):
    from featcache.core.tensorflow import import_tensorflow

    if import_tensorflow().config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    done = cli("extract", photos, "--weights", tiny_backbone, "--device", "gpu")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: device is gpu, but TensorFlow sees no GPU.")


def test_a_cache_folder_that_is_a_file(photos, tiny_backbone, tmp_path, cli):
    (tmp_path / "cache").write_text("x")
    done = cli("extract", photos, "--weights", tiny_backbone)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: 'cache'")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_is_one_line_and_keeps_what_was_done(photos, tiny_backbone, cli, monkeypatch):
    batches = iter(range(3))

    def interrupted(run, images):
        if next(batches) == 2:
            raise KeyboardInterrupt
        return run(images)

    arguments = ("extract", photos, "--weights", tiny_backbone, "--batch-size", "4", "--json")
    with monkeypatch.context() as patch:
        wrap_runs(patch, interrupted)
        done = cli(*arguments)
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.startswith("Interrupted.")
    assert done.stderr.count("\n") == 1
    assert parse_single_json(cli(*arguments).stdout)["reused"] == 8


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_ended_by_another_program_it_tidies_up_and_says_so(home, cli, monkeypatch, name):
    number = getattr(signal, name)
    before = sorted(home.rglob("*"))

    def ended(self, *args, **options):
        with atomic.replacing(home / "made") as made:
            made.mkdir()
            (made / "half").write_text("x")
            os.kill(os.getpid(), number)
            time.sleep(10)  # which the signal ends

    monkeypatch.setattr(store, "newest_heads", ended)
    done = cli("report")
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr.startswith("Terminated. ")
    assert done.stderr.count("\n") == 1
    assert sorted(home.rglob("*")) == before
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_read_only_cache_serves_whoever_only_reads(
    home, made_once, tiny_backbone, cli, read_only, monkeypatch
):
    (file,) = home.glob("cache/*/*.h5")
    heads, cache = file.with_suffix(".heads"), file.parent.parent
    for path in home.glob("m.*"):
        path.rename(file.parent / path.name)
    model = file.parent / "m.keras"
    fitted = ("--heads", "logreg,rbf-svm", "--cv", "3", "--jobs", "1")
    read_only(cache)
    for arguments in (
        ("info", file),
        ("info", cache),
        ("verify", file),
        ("extract", made_once / "my photos", "--weights", tiny_backbone),
        ("fit-heads", file, *fitted),
        ("fit-heads", *fitted),
        ("report", heads, "--out", "page.html"),
        ("report", heads, "--cache-dir", "mine"),
        ("stitch", heads, "--head", "logreg", "--out", "own.keras"),
        ("stitch", heads, "--head", "logreg", "--cache-dir", "mine"),
        ("predict", model, made_once / "my photos"),
        ("evaluate", model),
        ("fit-heads", file, "--heads", "lda", "--cv", "3", "--jobs", "1", "--cache-dir", "mine"),
    ):
        done = cli(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert store.Features(file).arrays()[0].shape == (21, 12)
    mine = home / "mine" / file.parent.name
    assert (mine / f"{file.stem}.report.html").is_file()
    assert (mine / f"{file.stem}.keras").is_file()
    board = leaderboard.load(mine / heads.name)
    assert [result.name for result in board.results] == ["lda", "dummy"]
    assert board.features[0].path == file
    monkeypatch.setattr("featcache.selection.parallel.processes", None)  # nothing is fitted again
    assert (
        cli("fit-heads", file, "--heads", "lda", "--cv", "3", "--cache-dir", "mine").returncode == 0
    )
    for verb in (("fit-heads", "--heads", "ridge"), ("report",), ("stitch", "--overwrite")):
        done = cli(*verb)
        assert (done.returncode, "Neither 'cache/my photos' nor" in done.stderr) == (1, True)
    (heads_alone := home / "alone").mkdir()
    shutil.copy(file, heads_alone)
    read_only(heads_alone)
    done = cli("fit-heads", heads_alone / file.name, "--heads", "lda", "--cv", "3", "--jobs", "1")
    assert "Neither" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, cli):
    done = cli(verb, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "--json" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (["fit-heads", "--cv", "x"], "featcache fit-heads --help"),
        (["stitch", "--out"], "featcache stitch --help"),
        (["nonsense"], "featcache --help"),
    ],
)
def test_wrong_use_points_to_the_help_of_its_own_verb(cli, arguments, helps):
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"See `{helps}`.")


def test_without_arguments_it_helps(cli):
    done = cli()
    assert "extract" in done.stdout
    assert done.stderr == ""
    assert cli("--version").stdout.startswith("featcache ")


def test_a_terminal_that_knows_only_ascii(home):
    done = subprocess.run(
        [sys.executable, "-m", "featcache", "fit-heads", "--cv", "3", "--heads", "logreg,rbf-svm"],
        cwd=home,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert b"accuracy (95 %)" in done.stdout


def test_json_has_null_for_what_is_undefined(capsys):
    options.result(True, {"test": {"log-loss": float("nan"), "accuracy": 1.0}}, "")
    assert capsys.readouterr().out == '{"test": {"log-loss": null, "accuracy": 1.0}}\n'
