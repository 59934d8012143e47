"""The console command `hgfast VERB [FLAGS]`, also available as `python -m hgfast`.

A verb's module is imported when the verb is called; `hgfast --help` imports neither torch nor numpy.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

VERBS: dict[str, str | dict[str, str]] = {
    "train": "hgfast.train",
    "evaluate": "hgfast.evaluate",
    "predict": "hgfast.predict",
    "export": {"onnx": "hgfast.export.to_onnx", "torchscript": "hgfast.export.torchscript", "tensorrt": "hgfast.export.trt"},
    "convert": "hgfast.convert",
    "check": "hgfast.pipelines.check",
    "self-test": "hgfast.pipelines.self_test",
    "cache": "hgfast.pipelines.cache",
    "synthetic": "hgfast.pipelines.synthetic",
    "report": "hgfast.report",
    "bench": {
        "latency": "hgfast.bench.latency",
        "loader": "hgfast.bench.loader",
        "train_step": "hgfast.bench.train_step",
        "session_overhead": "hgfast.bench.session_overhead",
        "decode": "hgfast.bench.decode",
        "pckh": "hgfast.bench.pckh",
        "recipes": "hgfast.bench.recipes",
        "run_all": "hgfast.bench.run_all",
        "compare": "hgfast.bench.compare",
        "gpu_check": "hgfast.bench.gpu_check",
        "gpu_kit": "hgfast.bench.gpu_kit",
    },
}
HELP = """usage: hgfast VERB [FLAGS]

  train         train a network on MPII, FreiHAND or COCO keypoints
  evaluate      measure the accuracy of a checkpoint on one split of a data set
  predict       find keypoints in images and videos with a checkpoint or an exported network
  export        export a checkpoint to onnx, torchscript or tensorrt: hgfast export FORMAT CHECKPOINT
  convert       convert weights to a checkpoint of hgfast, or annotations to COCO keypoints
  check         check the files of a data set
  self-test     test DALI on this machine's GPU
  cache         fill the crop cache, which speeds up data loading
  synthetic     write a synthetic data set
  report        write a run as one HTML page
  bench         run a benchmark: hgfast bench NAME

hgfast VERB --help shows the flags of a verb, hgfast --version the version."""


def find(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the module that the first words name, and the remaining words. Raises LookupError with a suggestion."""
    choices: Mapping[str, str | dict[str, str]] = VERBS
    for index, word in enumerate(words):
        if word not in choices:
            matches = difflib.get_close_matches(word, choices, 1)
            advice = f"did you mean {matches[0]}?" if matches else f"choose from {', '.join(choices)}"
            raise LookupError(f"hgfast: unknown {' '.join(['verb', *words[:index]])} {word!r}: {advice}")
        choice = choices[word]
        if isinstance(choice, str):
            return choice, list(words[index + 1 :])
        choices = choice
    raise LookupError(f"{' '.join(['hgfast', *words])} needs one more word: choose from {', '.join(choices)}")


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return
    if words[0] == "--version":
        from hgfast import __version__

        print(f"hgfast {__version__}")
        return
    if isinstance(names := VERBS.get(words[0]), dict) and words[1:] in (["-h"], ["--help"]):
        print(f"usage: hgfast {words[0]} NAME [FLAGS]\n\nNAME is one of {', '.join(names)}.")
        return
    try:
        module_name, rest = find(words)
    except LookupError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        raise SystemExit(2) from None
    sys.argv = [f"hgfast {' '.join(words[: len(words) - len(rest)])}", *rest]
    from hgfast.entry_point import run_main

    run_main(lambda: import_module(module_name).main())


if __name__ == "__main__":
    main()
