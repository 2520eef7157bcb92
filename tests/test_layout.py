"""Who may import whom (the rules stand in CONTRIBUTING.md), read from the sources without running them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kerascv_course", "export")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Names of the modules a file imports; with top_level_only those that run when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            nodes.append(child)
            visit(child)

    visit(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # "from package import module" imports the module
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def reached(module: str) -> set[str]:
    """Everything that importing a module imports at the top, through our own modules."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        for found in imports(MODULES[name], top_level_only=True):
            parents = {".".join(found.split(".")[: i + 1]) for i in range(found.count(".") + 1)}
            for part in parents - seen:
                seen.add(part)
                if part in MODULES:
                    todo.append(part)
    return seen


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("module", [name for name in MODULES if is_within(name, "kerascv_course")])
def test_only_the_conclusion_calls_the_export_layer_and_only_lazily(module):
    assert not {name for name in imports(MODULES[module], top_level_only=True) if is_within(name, "export")}
    if module != "kerascv_course.conclusion":
        assert not {name for name in imports(MODULES[module]) if is_within(name, "export")}


@pytest.mark.parametrize("module", ["export.predictor", "export.contract", "export.__main__", "export"])
def test_the_predictor_needs_numpy_onnxruntime_and_pillow_only(module):
    roots = {name.split(".")[0] for name in reached(module)} - set(PACKAGES) - set(sys.stdlib_module_names)
    assert roots <= {"numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize(
    "module",
    [
        "kerascv_course",
        "kerascv_course.train",
        "kerascv_course.evaluate",
        "kerascv_course.ablate",
        "kerascv_course.compare",
        "kerascv_course.look",
        "kerascv_course.recipes",
        "kerascv_course.theory.__main__",
    ],
)
def test_listing_and_help_import_no_tensorflow(module):
    roots = {name.split(".")[0] for name in reached(module)}
    assert not roots & {"keras", "tensorflow", "sklearn", "matplotlib", "onnx", "onnxruntime", "numpy"}


@pytest.mark.parametrize("module", [name for name in MODULES if is_within(name, "kerascv_course.models")])
def test_models_import_only_what_networks_are_made_of(module):
    ours = {name for name in imports(MODULES[module]) if is_within(name, *PACKAGES)}
    assert not {name for name in ours if not is_within(name, "kerascv_course.models", "kerascv_course.core")}


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if is_within(name, "kerascv_course.data", "kerascv_course.training")],
)
def test_data_and_training_do_not_import_models(module):
    assert not {name for name in imports(MODULES[module]) if is_within(name, "kerascv_course.models")}


@pytest.mark.parametrize("module", [name for name in MODULES if is_within(name, "kerascv_course.analysis")])
def test_analysis_imports_no_model_family(module):
    assert not {name for name in imports(MODULES[module]) if is_within(name, "kerascv_course.models")}


@pytest.mark.parametrize("module", list(MODULES))
def test_only_plots_imports_matplotlib_at_the_top(module):
    tree = imports(MODULES[module], top_level_only=True)
    figures = {name for name in tree if is_within(name, "matplotlib")} - {"matplotlib.figure"}
    assert is_within(module, "kerascv_course.plots") or not figures


COMMANDS = ("train", "ablate", "evaluate", "compare", "look", "analyze", "calc", "report", "scenes", "theory.__main__")


@pytest.mark.parametrize("module", list(MODULES))
def test_nobody_imports_commands_scripts_or_tests(module):
    commands = [f"kerascv_course.{name}" for name in COMMANDS] + ["export.__main__"]
    assert not {name for name in imports(MODULES[module]) if is_within(name, "scripts", "tests", *commands)}


@pytest.mark.parametrize("module", list(MODULES))
def test_nothing_but_definitions_runs_at_import(module):
    allowed = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{module}:{node.lineno} runs at import"
        else:
            assert isinstance(node, allowed), f"{module}:{node.lineno} runs at import"
