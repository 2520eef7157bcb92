"""Who may import whom (the rules are in CONTRIBUTING.md), read from the sources without running them."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kerascv_course", "export")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

#: Modules that may import others of ours inside functions, and what those imports spare a start.
LAZY: dict[str, str] = {
    "kerascv_course.finish": "TensorFlow, whose start is silenced",
    "kerascv_course.look": "matplotlib",
    "kerascv_course.calc": "matplotlib, for scaling --plot",
    "export.benchmark.engines": "onnxruntime, in the processes of other engines",
    "kerascv_course.ablate": "TensorFlow, whose start is silenced",
    "kerascv_course.evaluate": "TensorFlow, whose start is silenced",
    "kerascv_course.scenes": "TensorFlow, whose start is silenced",
    "kerascv_course.train": "TensorFlow, whose start is silenced",
    "kerascv_course.compare": "matplotlib, for --plot",
    "kerascv_course.report": "TensorFlow, whose start is silenced",
    "kerascv_course.theory.__main__": "matplotlib",
    "export.commands.benchmark": "matplotlib, without --plot",
    "export.commands.doctor": "TensorFlow, without a run",
    "export.commands.inspect": "onnx, where it is not installed",
    "export.commands.quantize": "TensorFlow, without a run",
    "export.commands.run": "TensorFlow, for --help and galleries",
    "export.diagnostics.doctor": "Keras, without a model",
}

COMMANDS = ("train", "ablate", "evaluate", "compare", "look", "analyze", "calc", "report", "scenes", "theory.__main__", "cli")


def _nodes(tree: ast.AST, *, functions: bool) -> Iterator[ast.AST]:
    """Nodes that run, without those for type checkers; `functions`: those inside functions too."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _nodes(child, functions=functions)


def _imported(node: ast.AST) -> set[str]:
    """Names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        return {name if name in MODULES else str(node.module) for name in names}
    return set()


@functools.cache
def imports(module: str, *, top_level_only: bool = False) -> frozenset[str]:
    """Modules that a module imports; with top_level_only those that it imports when it is imported."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset().union(*map(_imported, _nodes(tree, functions=not top_level_only)))


def reached(module: str) -> set[str]:
    """Everything that importing a module imports, through our own modules."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        for found in imports(todo.pop(), top_level_only=True):
            parents = {".".join(found.split(".")[: i + 1]) for i in range(found.count(".") + 1)}
            todo += [part for part in parents - seen if part in MODULES]
            seen |= parents
    return seen


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def within(*packages: str) -> list[str]:
    return [name for name in MODULES if is_within(name, *packages)]


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected components of more than one)."""
    closure = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            fresh = graph.get(todo.pop(), set()) - seen
            seen |= fresh
            todo += fresh
        closure[start] = seen
    groups = {frozenset({a} | {b for b in closure[a] if a in closure.get(b, ())}) for a in graph if a in closure[a]}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_no_cycles_of_modules():
    graph = {name: {found for found in imports(name) if found in MODULES and found != name} for name in MODULES}
    assert cycles(graph) == []


def test_no_cycles_of_packages():
    def package(module: str) -> str:
        """The room: ``kerascv_course.data``, ``export.gallery``; a module at the top is one of its own."""
        return ".".join(module.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name in MODULES:
        if name not in PACKAGES:  # their lazy public names refer to every room
            graph.setdefault(package(name), set()).update(package(found) for found in imports(name) if found in MODULES)
    assert cycles({name: found - {name} for name, found in graph.items()}) == []


@pytest.mark.parametrize("module", list(MODULES))
def test_no_imports_of_our_own_inside_functions(module):
    inside = imports(module) - imports(module, top_level_only=True)
    ours = {name for name in inside if is_within(name, *PACKAGES)}
    if module in LAZY:
        assert ours, f"{module} has none any more: take it from the list"
    else:
        assert not ours


def outside_core(modules: frozenset[str]) -> set[str]:
    return {name for name in modules if is_within(name, "kerascv_course") and not is_within(name, "kerascv_course.core")}


@pytest.mark.parametrize("module", within("export"))
def test_export_imports_core_only(module):
    if not is_within(module, "export.commands"):
        assert outside_core(imports(module)) <= {"kerascv_course", "kerascv_course._version"}


@pytest.mark.parametrize(
    "module",
    [
        *within("export.predictor", "export.contract", "export.__main__", "export.commands.predict"),
        *("export", "export.commands.inspect", "export.commands.search"),
    ],
)
def test_the_predictor_needs_numpy_onnxruntime_and_pillow_only(module):
    roots = {name.split(".")[0] for name in reached(module)} - set(PACKAGES) - set(sys.stdlib_module_names)
    assert roots <= {"numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("module", within("kerascv_course.core"))
def test_core_imports_nothing_of_ours_but_core(module):
    ours = {name for name in imports(module) if is_within(name, *PACKAGES)}
    assert not {name for name in ours if not is_within(name, "kerascv_course.core", "kerascv_course._version")}


@pytest.mark.parametrize(
    "module", ["kerascv_course", "kerascv_course.recipes", *(f"kerascv_course.{name}" for name in COMMANDS)]
)
def test_listing_and_help_import_no_tensorflow(module):
    if module not in MODULES:
        pytest.skip(f"{module} does not exist yet")
    roots = {name.split(".")[0] for name in reached(module)}
    heavy = {"keras", "tensorflow", "sklearn", "matplotlib", "onnx", "onnxruntime"}
    assert not roots & heavy


@pytest.mark.parametrize("module", within("kerascv_course.models"))
def test_models_import_core_only(module):
    ours = {name for name in imports(module) if is_within(name, *PACKAGES)}
    assert not {name for name in ours if not is_within(name, "kerascv_course.models", "kerascv_course.core")}


@pytest.mark.parametrize("module", within("kerascv_course.data", "kerascv_course.training"))
def test_data_and_training_import_neither_models_nor_tasks(module):
    assert not {name for name in imports(module) if is_within(name, "kerascv_course.models", "kerascv_course.tasks")}


@pytest.mark.parametrize("module", within("kerascv_course.analysis"))
def test_analysis_imports_no_models(module):
    assert not {name for name in imports(module) if is_within(name, "kerascv_course.models")}


@pytest.mark.parametrize("module", list(MODULES))
def test_only_plots_imports_matplotlib(module):
    figures = {name for name in imports(module, top_level_only=True) if is_within(name, "matplotlib")} - {"matplotlib.figure"}
    assert is_within(module, "kerascv_course.plots") or not figures


@pytest.mark.parametrize("module", list(MODULES))
def test_nobody_imports_commands_scripts_or_tests(module):
    commands = [f"kerascv_course.{name}" for name in COMMANDS] + ["export.__main__"]
    if module == "kerascv_course.__main__":
        commands.remove("kerascv_course.cli")
    assert not {name for name in imports(module) if is_within(name, "scripts", "tests", *commands)}


@pytest.mark.parametrize("module", list(MODULES))
def test_nothing_but_definitions_runs_at_import(module):
    allowed = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and module == "kerascv_course" and ast.unparse(node) == "register_own_layers()":
            continue
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{module}:{node.lineno} runs at import"
        else:
            assert isinstance(node, allowed), f"{module}:{node.lineno} runs at import"


@pytest.mark.parametrize("module", MODULES)
def test_paths_in_suggested_commands_are_quoted(module):
    command = re.compile(r"(--(resume|file|logdir|directory|output|data-dir)|python -m (export|kerascv_course)[.\w -]*) $")
    names = ("recipe", "setting", "PROG")  # words without blanks
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for text, value in itertools.pairwise(node.values):
                if isinstance(text, ast.Constant) and isinstance(value, ast.FormattedValue) and command.search(str(text.value)):
                    said = ast.unparse(value.value)
                    assert said.startswith("shell_word(") or said in names, f"{module}:{node.lineno} {said}"


def test_no_class_name_exists_twice():
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
