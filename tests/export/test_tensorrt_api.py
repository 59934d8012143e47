"""Check every name and keyword of TensorRT, Torch-TensorRT and cuda-bindings that the project uses against their real wheels.

They do not run without a GPU. The bindings of TensorRT can be imported with stub libraries and document their classes, methods,
parameters and return types. The sources of Torch-TensorRT are parsed. cuda-bindings can be imported.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TIMEOUT

ROOT = Path(__file__).parents[2]
BINDINGS = Path(sys.prefix) / "witnesses"
SOURCES = [
    ROOT / "hgfast/runtime/tensorrt_engine.py",
    ROOT / "export/exporter/trt_builder.py",
    ROOT / "export/exporter/torch_trt.py",
]
# class of the variables, parameters and attributes of these names in those files
CLASS_OF_VARIABLE = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "fault": "ParserError",
    "inspector": "EngineInspector",
    "kernels": "IRuntimeCache",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "runtime_cache": "IRuntimeCache",
    "runtime_config": "IRuntimeConfig",
    "serialized": "IHostMemory",
    "settings": "IRuntimeConfig",
    "tensor": "ITensor",
}
ONLY_RTX = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "EngineInvalidityDiagnostics",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.set_runtime_cache",
    "Runtime.engine_header_size",
    "Runtime.get_engine_validity",
}
NEEDED = {
    "Builder.build_serialized_network",
    "EngineInspector.get_engine_information",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.set_timing_cache",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.device_memory_size_v2",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.set_device_memory",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_tensor_address",
    "IOptimizationProfile.set_shape",
    "OnnxParser.parse",
    "ParserError.desc",
    "Runtime.deserialize_cuda_engine",
}
DUMP = """
import importlib, inspect, json, sys
library = importlib.import_module(sys.argv[1])
content = {}
for name, value in vars(library).items():
    if inspect.isclass(value):
        content[name] = {attribute: getattr(value, attribute).__doc__ if callable(getattr(value, attribute)) else None
                         for attribute in dir(value)}
    elif inspect.isfunction(value):
        content[name] = list(inspect.signature(value).parameters)
    else:
        content[name] = None
print(json.dumps(content))
"""
SYMBOLS = ["createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"]
SYMBOLS += ["createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion", "getInferLibVersion"]
SYMBOLS += ["initLibNvInferPlugins", "getPluginRegistry", "getLogger", "getBuilderPluginRegistry", "getPluginRegistryVersion"]

Parameters = list[tuple[str, bool]]  # name, and whether it is required


@dataclass
class BindingsApi:
    """A library's classes and their members: for a method, its signatures and the class that it returns."""

    name: str
    content: dict[str, Any]

    def signatures(self, owner: str, method: str) -> list[Parameters] | None:
        """Return the parameters of each overload without self, or None if it is not callable."""
        documented = self.content[owner][method]
        if documented is None:
            return None
        found = re.findall(rf"^(?:\d+\. )?{method}\((.*)\) -> .*$", documented, re.MULTILINE)
        lists = [_parameters(inner) for inner in found if inner != "*args, **kwargs"]
        return [[one for one in parameters if one[0] != "self"] for parameters in lists]

    def gives(self, owner: str, method: str) -> str | None:
        found = re.findall(rf"^(?:\d+\. )?{method}\(.*\) -> (.*)$", self.content[owner][method] or "", re.MULTILINE)
        name = re.split(r"::|\.", found[0])[-1] if found else ""
        return next((one for one in (name, name[1:]) if isinstance(self.content.get(one), dict)), None)


@dataclass
class ApiUsageVisitor(ast.NodeVisitor):
    """Collects what a file uses of a library, and in `wrong` what the library does not have."""

    library: BindingsApi
    wrong: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    functions: dict[str, list[str]] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=list)

    def read(self, source: str) -> ApiUsageVisitor:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = [argument.arg for argument in node.args.args if argument.arg != "self"]
        self.visit(tree)
        return self

    def visit_If(self, node: ast.If) -> None:
        self.conditions.append(ast.unparse(node.test))
        for part in (node.test, *node.body):
            self.visit(part)
        self.conditions.pop()
        for part in node.orelse:
            self.visit(part)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts) if both else [(target, node.value)]  # type: ignore[attr-defined]
            for one, value in pairs:
                kind = self.kind(value, report=False)
                name = one.attr if isinstance(one, ast.Attribute) else one.id if isinstance(one, ast.Name) else "?"
                if kind is not None and kind[0] == "instance" and CLASS_OF_VARIABLE.get(name) != kind[1]:
                    self.report_error(node, f"{name} holds a {kind[1]}, unlike CLASS_OF_VARIABLE")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        kind = self.kind(node.value, report=False) if node.value is not None else None
        if kind is not None and kind[0] == "instance":
            self.report_error(node, f"a {kind[1]} is returned, which cannot be followed")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.kind(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = self.kind(node.func, report=False)
        if called is not None and called[0] in ("method", "class", "function"):
            self.check_call(node, called)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for argument, parameter in zip(node.args, self.functions.get(name, [])):
            kind = self.kind(argument, report=False)
            if kind is not None and kind[0] == "instance" and CLASS_OF_VARIABLE.get(parameter) != kind[1]:
                self.report_error(node, f"a {kind[1]} is given to {name} as {parameter}")
        self.generic_visit(node)

    def kind(self, node: ast.expr, report: bool = True) -> tuple[str, str, str] | None:
        """Return the kind of an expression: module, class, instance, method or function of the library, or None."""
        if isinstance(node, ast.Name):
            return self.named(node.id)
        if isinstance(node, ast.Call):
            called = self.kind(node.func, report=False)
            if called is None:
                return None
            given = called[1] if called[0] == "class" else None
            if called[0] == "method":
                given = self.library.gives(called[1], called[2])
            return ("instance", given, "") if given else None
        if not isinstance(node, ast.Attribute):
            return None
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self.named(node.attr)
        owner = self.kind(node.value, report=False)
        if owner is None:
            return None
        place = {"module": self.library.content}.get(owner[0], self.library.content.get(owner[1]))
        full = node.attr if owner[0] == "module" else f"{owner[1]}.{node.attr}"
        if owner[0] not in ("module", "class", "instance"):
            return None
        if place is None or node.attr not in place:
            guarded = any(word in text for text in self.conditions for word in ("tensorrt_rtx", "compute_capabilities"))
            if report and not ({full, owner[1]} & ONLY_RTX and guarded):
                self.report_error(node, f"has no {full}")
            return None
        self.used.add(full)
        if owner[0] == "module":
            what = place[node.attr]
            return ("class", node.attr, "") if isinstance(what, dict) else ("function", "", node.attr) if what else None
        return ("method", owner[1], node.attr) if owner[0] == "instance" and place[node.attr] is not None else None

    def named(self, name: str) -> tuple[str, str, str] | None:
        return (
            ("module", "", "")
            if name == "trt"
            else ("instance", CLASS_OF_VARIABLE[name], "")
            if name in CLASS_OF_VARIABLE
            else None
        )

    def check_call(self, node: ast.Call, called: tuple[str, str, str]) -> None:
        kind, owner, name = called
        if kind == "function":
            overloads: list[Parameters] | None = [[(one, True) for one in self.library.content[name]]]
        else:
            overloads = self.library.signatures(owner, "__init__" if kind == "class" else name)
        if not overloads:
            return self.report_error(node, f"does not document how to call {ast.unparse(node.func)}")
        if not any(_fits(node, parameters) for parameters in overloads):
            self.report_error(node, f"does not take {ast.unparse(node)}")

    def report_error(self, node: ast.AST, what: str) -> None:
        self.wrong.append(f"line {getattr(node, 'lineno', 0)}: {self.library.name} {what}")


def _fits(node: ast.Call, parameters: Parameters) -> bool:
    names = [name for name, _ in parameters]
    keywords = [one.arg for one in node.keywords]
    starred = any(isinstance(one, ast.Starred) for one in node.args)
    positional = len(node.args) - starred
    left = [name for name, must in parameters[positional:] if must and name not in keywords]
    return positional <= len(names) and set(keywords) <= set(names[positional:]) and (starred or not left)


def _parameters(inner: str) -> Parameters:
    """`a: int, b: tuple[int, int] = (1, 2)` -> a, which is required, and b."""
    parts, depth, begin = [], 0, 0
    for place, letter in enumerate(inner):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(inner[begin:place])
            begin = place + 1
    parts.append(inner[begin:])
    return [(part.split(":")[0].split("=")[0].strip(), " = " not in part) for part in parts if part.strip()]


def _witness(name: str) -> Path:
    folder = BINDINGS / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: make test installs it")
    return folder


def _stub_libraries(folder: Path, major: int) -> dict[str, str]:
    """Return an environment with stub libraries that have TensorRT's entry points."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler cc, which builds the stubs of NVIDIA's libraries")
    source = folder / "nothing.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / name, source, f"-Wl,-soname,{name}"], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(_witness(f"tensorrt{major}"))}


@pytest.fixture(scope="module", params=["10", "11", "RTX"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BindingsApi:
    if request.param == "RTX":
        pytest.importorskip("tensorrt_rtx_bindings", reason="pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings")
        module, environment = "tensorrt_rtx_bindings", dict(os.environ)
    else:
        environment = _stub_libraries(tmp_path_factory.mktemp(f"tensorrt{request.param}"), int(request.param))
        module = "tensorrt_bindings"
    done = subprocess.run([sys.executable, "-c", DUMP, module], env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return BindingsApi(f"TensorRT {request.param}", json.loads(done.stdout))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_names_are_there(library: BindingsApi, source: Path) -> None:
    found = ApiUsageVisitor(library).read(source.read_text())
    assert not found.wrong


def test_visitor_sees_all_uses(library: BindingsApi) -> None:
    used = {name for source in SOURCES for name in ApiUsageVisitor(library).read(source.read_text()).used}
    assert used >= NEEDED and len(used) > 50
    for name in ONLY_RTX:
        owner, _, member = name.partition(".")
        assert (member in library.content.get(owner, {}) if member else owner in library.content) == ("RTX" in library.name), name


@pytest.mark.parametrize(
    "before, after, complaint",
    [
        ("config.set_memory_pool_limit(", "config.set_memory_limit(", "has no IBuilderConfig.set_memory_limit"),
        ("trt.ProfilingVerbosity.DETAILED", "trt.ProfilingVerbosity.VERBOSE", "has no ProfilingVerbosity.VERBOSE"),
        ("cache = config.get_timing_cache()", "stash = config.get_timing_cache()", "stash holds a ITimingCache"),
        ("set_timing_cache(cache, False)", "set_timing_cache(cache, ignore=False)", "does not take config.set_timing_cache"),
        ("trt.OnnxParser(network, logger)", "trt.OnnxParser(network)", "does not take trt.OnnxParser"),
        ("build_serialized_network(network, config)", "build_serialized_network(network)", "does not take builder.build_ser"),
        ("_parse_onnx(trt, network, logger", "_parse_onnx(trt, config, logger", "a IBuilderConfig is given to _parse_onnx"),
        ("fault.desc()", "fault.description()", "has no ParserError.description"),
        ("config.get_timing_cache()", "config.get_timing_cash()", "has no IBuilderConfig.get_timing_cash"),
    ],
)
def test_finds_mistakes(library: BindingsApi, before: str, after: str, complaint: str) -> None:
    source = (ROOT / "export/exporter/trt_builder.py").read_text()
    assert before in source
    assert any(complaint in words for words in ApiUsageVisitor(library).read(source.replace(before, after)).wrong)


@pytest.mark.parametrize("major", [10, 11])
def test_tensorrt_that_does_not_start(tmp_path: Path, major: int) -> None:
    """The stubs return no builder, like the real library without a driver."""
    code = """
from pathlib import Path
from hgfast.export.exporter.trt_builder import BuildOptions, TrtBackend, build
from hgfast.runtime.tensorrt_engine import import_tensorrt
from hgfast.errors import HgfastError
from hgfast.runtime.sidecar import BatchRange
trt = import_tensorrt("tensorrt")
try:
    build(Path("no.onnx"), BatchRange(1, 1, 1), TrtBackend("tensorrt", trt.__version__, trt, "", False), BuildOptions())
except HgfastError as error:
    print(error)
"""
    environment = _stub_libraries(tmp_path, major)
    environment["PYTHONPATH"] += f":{ROOT}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout.startswith(f"TensorRT {major}.") and "does not start" in done.stdout, done.stdout + done.stderr


def test_tensorrt_without_its_libraries() -> None:
    code = """
from hgfast.runtime.tensorrt_engine import import_tensorrt
from hgfast.errors import HgfastError
try:
    import_tensorrt("tensorrt")
except HgfastError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": f"{_witness('tensorrt11')}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert re.fullmatch(r"TensorRT cannot be imported \(lib\w+\.so\.11: .*\): pip install tensorrt-cu13\n", done.stdout), (
        done.stdout + done.stderr
    )


def _uses(source: str, module: str) -> Iterator[tuple[list[str], ast.Call | None]]:
    """Yield the names after `module.` that a file uses, with the call if it is one."""
    tree = ast.parse(source)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        names: list[str] = []
        part: ast.AST = node
        while isinstance(part, ast.Attribute) and part.attr != module:
            names.insert(0, part.attr)
            part = part.value
        if names and module in (getattr(part, "attr", ""), getattr(part, "id", "")) and id(node) not in inner:
            yield names, calls.get(id(node))


def _definition(folder: Path, names: list[str]) -> ast.AST | None:
    """Return the definition of a name in a package, following the imports in its __init__.py."""
    name, *rest = names
    if rest:
        return _definition(folder / name, rest)
    for node in ast.walk(ast.parse((folder / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            module = str(node.module).split(".")[-1]
            for found in ast.parse((folder / f"{module}.py").read_text()).body:
                if isinstance(found, (ast.FunctionDef, ast.ClassDef)) and found.name == name:
                    return found
                if isinstance(found, ast.Assign) and name in [getattr(target, "id", "") for target in found.targets]:
                    return found
    return None


def _torch_tensorrt_complaints(source: str) -> tuple[list[str], set[str]]:
    package = _witness("torch_tensorrt") / "torch_tensorrt"
    wrong, seen = [], set()
    for names, call in _uses(source, "torch_tensorrt"):
        full = ".".join(names)
        seen.add(full)
        found = _definition(package, names)
        if found is None:
            wrong.append(f"there is no {full}")
        elif call is not None:
            keywords = {str(one.arg) for one in call.keywords}
            if isinstance(found, ast.FunctionDef):
                known = {one.arg for one in [*found.args.args, *found.args.kwonlyargs]}
                positional = len(found.args.args)
            else:  # a class whose constructor takes **kwargs
                made = next(one for one in ast.walk(found) if isinstance(one, ast.FunctionDef) and one.name == "__init__")
                known = {str(one.value) for one in ast.walk(made) if isinstance(one, ast.Constant)}
                positional = 1
            wrong += [f"{full} takes no {one}" for one in keywords - known]
            wrong += [f"{full} takes {positional} positional arguments"] if len(call.args) > positional else []
    return wrong, seen


def test_torch_tensorrt() -> None:
    wrong, seen = _torch_tensorrt_complaints((ROOT / "export/exporter/torch_trt.py").read_text())
    assert not wrong
    assert seen == {"Input", "dynamo.convert_exported_program_to_serialized_trt_engine", "__version__"}


@pytest.mark.parametrize(
    "before, after, complaint",
    [
        ("hardware_compatible=options", "hardware_compat=options", "takes no hardware_compat"),
        ("min_shape=", "minimum_shape=", "Input takes no minimum_shape"),
        ("dynamo.convert_exported", "dynamo.convert_an_exported", "there is no dynamo.convert_an_exported"),
    ],
)
def test_torch_tensorrt_mistakes(before: str, after: str, complaint: str) -> None:
    source = (ROOT / "export/exporter/torch_trt.py").read_text()
    assert before in source
    assert any(complaint in words for words in _torch_tensorrt_complaints(source.replace(before, after))[0])


def test_torch_tensorrt_internals() -> None:
    """Assumptions beyond the interface: output names, the logger, and no runtime in version-compatible engines."""
    package = _witness("torch_tensorrt") / "torch_tensorrt"
    interpreter = (package / "dynamo/conversion/_TRTInterpreter.py").read_text()
    assert 'name = f"output{i}"' in interpreter and "EXCLUDE_LEAN_RUNTIME" in interpreter
    assert 'getLogger("torch_tensorrt [TensorRT Conversion Context]")' in (package / "logging.py").read_text()


CUDA_SOURCES = [ROOT / "hgfast/runtime/tensorrt_engine.py", ROOT / "hgfast/runtime/cuda_memory.py"]


def _cudart_complaints(source: str) -> tuple[list[str], set[str]]:
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    wrong, seen = [], set()
    for names, call in _uses(source, "cudart"):
        full = ".".join(names)
        seen.add(full)
        found = cudart
        for name in names:
            found = getattr(found, name, None)
        if found is None:
            wrong.append(f"there is no {full}")
        elif inspect.isroutine(found):
            # a function that is passed on frees a resource and takes only its handle
            number = len(call.args) if call is not None else 1
            parameters = list(inspect.signature(found).parameters)
            if number != len(parameters) or (call is not None and call.keywords):
                wrong.append(f"{full} takes {', '.join(parameters)}")
    return wrong, seen


def test_cudart() -> None:
    found = [_cudart_complaints(source.read_text()) for source in CUDA_SOURCES]
    assert not [words for wrong, _ in found for words in wrong]
    seen = {name for _, names in found for name in names}
    allocated = {"cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaGraphInstantiate", "cudaStreamEndCapture"}
    freed = {"cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaGraphExecDestroy", "cudaGraphDestroy"}
    assert seen >= allocated | freed | {"cudaError_t.cudaSuccess", "cudaMemcpyKind.cudaMemcpyHostToDevice"}


@pytest.mark.parametrize(
    "before, after, complaint",
    [
        ("cudart.cudaMallocHost(size)", "cudart.cudaMallocHost(size, 0)", "cudaMallocHost takes size"),
        ("cudart.cudaFreeHost", "cudart.cudaHostFree", "there is no cudaHostFree"),
        ("cudart.cudaFreeHost", "cudart.cudaMemcpyAsync", "cudaMemcpyAsync takes dst, src"),
        ("cudaMemcpyHostToDevice", "cudaMemcpyToDevice", "there is no cudaMemcpyKind.cudaMemcpyToDevice"),
        ("self.cudart.cudaError_t.cudaSuccess", "self.cudart.cudaError_t.cudaSucces", "no cudaError_t.cudaSucces"),
        ("kind, stream.handle)", "kind)", "cudaMemcpyAsync takes dst, src, count, kind, stream"),
        ("cudaGraphInstantiate(graph, 0)", "cudaGraphInstantiate(graph, flags=0)", "cudaGraphInstantiate takes graph, flags"),
    ],
)
def test_cudart_mistakes(before: str, after: str, complaint: str) -> None:
    source = (ROOT / "hgfast/runtime/cuda_memory.py").read_text()
    assert before in source
    assert any(complaint in words for words in _cudart_complaints(source.replace(before, after))[0])
