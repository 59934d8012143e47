"""The command line and configuration files: values, precedence, and suggestions for misspelled names."""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hgfast.cli import parse
from hgfast.config import FLAG_ALIASES, Config
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.predict import PredictConfig
from hgfast.train import parse_config


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("batch_size: 8\ntrain:\n  lr: 0.5\n  epochs: 7\n")
    config = parse(Config, ["--config", str(tmp_path / "a.yaml"), "--train.lr", "0.25", "--seed=9"])
    assert (config.batch_size, config.train.epochs, config.train.lr, config.seed) == (8, 7, 0.25, 9)
    assert config.train.warmup == Config().train.warmup


def test_flags_win_over_the_file_wherever_it_stands(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("batch_size: 8\nseed: 8\ntrain:\n  lr: 0.5\n")
    second.write_text("seed: 9\n")
    words = ["--batch-size", "4", "-e", "mine", f"--config={first}", "--train.lr", "0.25", "--config", str(second)]
    config = parse(Config, words, flag_aliases=FLAG_ALIASES)
    assert (config.batch_size, config.train.lr, config.exp, config.seed) == (4, 0.25, "mine", 9)


def test_short_flags_and_dashes() -> None:
    config = parse(
        Config,
        ["-e", "mine", "-m", "0.5", "--batch-size", "4", "--overwrite", "--train.val-interval=2"],
        flag_aliases=FLAG_ALIASES,
    )
    assert (config.exp, config.train.max_iters, config.batch_size, config.train.val_interval) == ("mine", 0.5, 4, 2)
    assert config.overwrite


def test_help_shows_short_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Config, ["--help"], flag_aliases=FLAG_ALIASES)
    printed = capsys.readouterr().out
    for flags in (
        "-e EXP, --exp EXP",
        "-c RESUME, --continue RESUME, --resume",
        "-m MAX_ITERS, --max-iters MAX_ITERS",
    ):
        assert printed.count(f"  {flags}") == 1
    assert "null" not in printed and "Union" not in printed


def test_positionals_anywhere_and_negative_values() -> None:
    words = ["--flip-test", "a.pt", "--box", "-5,1,2,3", "b.jpg", "--draw", "false", "c.jpg", "--padding=1.5"]
    config = parse(PredictConfig, words, positional="checkpoint", variadic="images")
    assert (config.checkpoint, config.images) == (Path("a.pt"), [Path("b.jpg"), Path("c.jpg")])
    after = parse(PredictConfig, ["a.pt", "--", "-b.jpg", "--box"], positional="checkpoint", variadic="images")
    assert after.images == [Path("-b.jpg"), Path("--box")]
    assert (config.box, config.padding, config.flip_test, config.draw) == ("-5,1,2,3", 1.5, True, False)


def test_exp_defaults_to_dataset() -> None:
    assert [parse(Config, w).exp for w in ([], ["--dataset", "mpii"], ["--exp", "x"])] == ["freihand", "mpii", "x"]


def test_config_round_trip(tmp_path: Path) -> None:
    config = parse(Config, ["--data", "somewhere", "--model.stem", "[8,8,8]", "--versions", "[gs,hom]"])
    config.write_yaml(tmp_path / "c.yaml")
    assert parse(Config, ["--config", str(tmp_path / "c.yaml")]) == config


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train.lrr", "1"], "unknown flag --train.lrr (did you mean --train.lr?)"),
        (["--train.clip", "1"], "unknown flag --train.clip (now --train.grad-clip); --help lists them all"),
        (["--train.wait-minutes=1"], "unknown flag --train.wait-minutes (now --train.dist-timeout)"),
        (["--shares", "[1,0]"], "unknown flag --shares (now --split-fractions)"),
        (["--loader", "torch"], "bad value for loader: torch is not one of dali, opencv, fixed"),
        (["--batch-siz", "1"], "did you mean --batch-size?"),
        (["--batch-size", "many"], "bad value for batch_size"),
        (["--dataset", "freehand"], "bad value for dataset"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_flags_are_one_sentence_and_exit_code_2(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_main(lambda: parse(Config, words))
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:\n  lrr: 1\n", "unknown key 'train.lrr' in the configuration (did you mean train.lr?)"),
        ("trian:\n  lr: 1\n", "unknown key 'trian.lr' in the configuration (did you mean train.lr?)"),
        ("batch_sise: 1\n", "did you mean batch_size?"),
        ("train:\n  epochs: many\n", "train.epochs: many is not a whole number"),
        ("", "must hold lines such as"),
        ("- 1\n", "must hold lines such as"),
        ("train: 3\n", "train in the configuration bad.yaml must hold indented lines"),
        ("train:\n", "must hold indented lines"),
        ("a: [1\n", "bad.yaml is not valid YAML"),
        (
            "data: !!python/object/apply:os.system ['touch exploded']\n",
            "a constructor for the tag … in line 1",
        ),
        ("config: other.yaml\n", "bad.yaml names another file as 'config', which is not read: copy its lines instead"),
        ("train: other.yaml\n", "train in the configuration bad.yaml must hold indented lines"),
    ],
)
def test_bad_files(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    with pytest.raises(HgfastError) as error:
        parse(Config, ["--config", "bad.yaml"])
    assert sentence in str(error.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train.lr", "-1"], "train.lr is -1.0, must be above 0"),
        (["--batch-size", "0"], "batch_size is 0, must be at least 1"),
        (["--augment.scale-min", "3"], "augment.scale_min is 3.0"),
        (["--exp", "../elsewhere"], "must be a plain name"),
        (["--train.grad-accum", "2", "--train.compile", "graphs"], "train.grad_accum is 2, must be 1 with train.compile graphs"),
        (["-c", "nothing"], "no experiment 'nothing' to continue"),
    ],
)
def test_values_out_of_range(words: list[str], sentence: str) -> None:
    with pytest.raises(HgfastError, match=sentence.replace(".", r"\.")):
        parse_config(words)


INTERNALS = (
    "jsonargparse",
    "Namespace",
    "typehint",
    "alidat",
    "ActionTypeHint",
    "<class",
    "Subtypes",
    "Union",
    "Optional",
    "ons+",
)


@pytest.mark.parametrize(
    "words",
    [
        "--train", "--train null", "--train 5", "--train bomb.yaml", "--model tiny", "--train.lr", "--train.lr ''", 
        "--train.lr 1e400",
        "--train.lr nan", "--train.lr [1]", "--train.lr {a:1}", "--train.lr null", "--batch-size 1.5", "--batch-size 1e3",
        "--batch-size ''", "--batch-size null", "--model.stem 1", "--model.stem [1,2]", "--model.stem [a,b,c]", "--model.stem {}",
        "--versions", "--versions '[gs,'", "--allow nothing", "--dataset", "--dataset ''", "--dataset null", "--overwrite maybe",
        "--overwrite=5", "--overwrite=null", "--exp a/b", "--exp ..", "--exp .", "--exp 'a\nb'", "--exp '\x1b[31m'",
        f"--exp {'x' * 300}", f"--exp {'é' * 120}", "--seed -1", "--seed 1e400", "--seed inf", "-- x", "x", "--x", "-x", "-",
        "--config", "--config ''", "--config /dev/zero", "--config nowhere/a.yaml", "--\u202e", "--box-size inf", "--box-size -1",
        "--valid-fraction 2", "--augment.rotation 1e400", "--train.epochs 1e400", "--pixel-offset 1e400", "--threads -5",
        "--loading.storage-timeout inf", "--train.dist-timeout 1e400", "--train.lr-milestones [a]",
        "--train.lr-milestones [1,inf]",        "--help.x", "--loss.unlabeled x", "--print_config=x",
    ],
)  # fmt: skip
def test_hostile_command_lines_are_one_sentence(words: str) -> None:
    with pytest.raises(HgfastError) as error:
        parse_config(shlex.split(words))
    sentence = str(error.value)
    assert sentence.isprintable() and len(sentence) < 500 and not [word for word in INTERNALS if word in sentence]


def test_files_that_are_no_configuration_are_not_quoted(tmp_path: Path) -> None:
    for text in ("root:$6$secret:19000:0:99999:7:::\n", "a b: *secret\n", "secret: [\n", "!secret x: 1\n", "a: 'secret\n"):
        (tmp_path / "shadow").write_text(text)
        with pytest.raises(HgfastError) as error:
            parse(Config, ["--config", str(tmp_path / "shadow")])
        assert "secret" not in str(error.value).replace(str(tmp_path), "")


def test_a_configuration_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe").write_text, "train:\n  lr: 0.125\n")
        assert parse(Config, ["--config", str(tmp_path / "pipe")]).train.lr == 0.125


def test_another_seed_is_refused_at_resume(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Config(seed=3).write_yaml(tmp_path / "run/config.yaml")
    words = ["-c", "run", "--out", str(tmp_path)]
    with pytest.raises(HgfastError, match="run has the seed 3, which decides the order of its samples: leave out --seed"):
        parse_config([*words, "--seed", "4"])
    assert parse_config([*words, "--seed", "3"]).seed == parse_config(words).seed == 3


def test_names_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(
        HgfastError, match=r"h\\udce4nde' is not text in utf-8: rename the file or folder, or reach it through a link$"
    ):
        parse(Config, ["--data", os.fsdecode(b"h\xe4nde")])
