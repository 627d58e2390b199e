"""The shape of the code: which way imports point, where heavy packages may appear, what the wheel carries."""

import ast
import functools
import importlib.metadata
import importlib.resources
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rollout", "worldmodel", "trainer", "launch")
ARROWS = {
    "rollout": {"rollout"},
    "worldmodel": {"worldmodel", "rollout"},
    "trainer": {"trainer", "rollout"},
    "launch": {"launch", "rollout", "worldmodel", "trainer"},
}
TORCH = {"torch", "trl", "deepspeed", "accelerate", "peft"}
HEAVY = ("torch", "trl", "ray", "deepspeed", "accelerate")
LIGHT = [
    "rollout.types",
    "rollout.protocols",
    "rollout.errors",
    "rollout.config",
    "rollout.scheduler",
    "rollout.store",
    "worldmodel.types",
    "worldmodel.config",
    "worldmodel.domains.terminal",
    "trainer.config",
    "trainer.options",
    "launch.config",
    "launch.cli",
    "launch.errors",
    "launch.report.render",
]


def sources() -> dict[str, Path]:
    """Module name -> file, for all our packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()
MODULES = set(SOURCES)
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


@functools.cache
def imports(tree: ast.AST, runtime_only: bool = False) -> frozenset[str]:
    """Absolute names imported anywhere in ``tree``; ``from a import b`` gives ``a.b``, and ``a`` too unless all
    that is taken from it are modules. With ``runtime_only``, blocks under ``if TYPE_CHECKING`` are left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write the whole name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(names if names <= MODULES else {str(node.module), *names})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return frozenset(found)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in TREES.items()
        for target in imports(tree)
        if target.split(".")[0] in PACKAGES and target.split(".")[0] not in ARROWS[name.split(".")[0]]
    ]
    assert not wrong


def test_no_import_cycle() -> None:
    """Over modules, function-local imports included."""
    graph = {name: {t for t in imports(tree, runtime_only=True) if t in SOURCES} for name, tree in TREES.items()}
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) != 1, "import cycle: " + " -> ".join([*path[path.index(name) :], name])
        if name in state:
            return
        state[name] = 1
        for target in sorted(graph[name] - {name}):
            visit(target, (*path, name))
        state[name] = 2

    for name in graph:
        visit(name, ())


def in_torch_land(module: str) -> bool:
    return module.startswith("trainer.") or module.startswith("rollout.samplers.hf")


def in_ray_land(module: str) -> bool:
    return module.startswith(("rollout.ray_", "launch."))


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_fences(module: str) -> None:
    """torch and its family, ray, and the loading of tokenizers each have their place. ``launch`` may touch torch
    only inside functions, so that the command line starts without it."""
    tops = {name.split(".")[0] for name in imports(TREES[module])}
    if not in_torch_land(module) and not module.startswith("launch."):
        assert not tops & TORCH, f"{module} imports {tops & TORCH}"
    if not in_ray_land(module):
        assert "ray" not in tops, f"{module} imports ray"
    if module != "rollout.chat":
        text = SOURCES[module].read_text(encoding="utf-8")
        loads = re.findall(r"(?:Tokenizer\w*|AutoProcessor)\.from_pretrained", text)
        assert not loads, f"{module} loads a tokenizer: {loads}"
    if not in_torch_land(module):
        trainers = {n for n in imports(TREES[module]) if n.startswith("transformers.") and "Trainer" in n}
        assert not trainers, f"{module} imports {trainers}"


@pytest.mark.slow  # the gate runs this file whole, before the fast tests
def test_light_modules_stay_light() -> None:
    """In a fresh interpreter, each in turn: a module that pulls in something heavy is named."""
    domains = [name for name in SOURCES if name.startswith("worldmodel.domains.")]
    configs = [name for name in SOURCES if name.endswith(".config")]
    modules = [*dict.fromkeys([*LIGHT, *domains, *configs])]
    assert {"rollout.config", "worldmodel.config", "trainer.config", "launch.config"} <= set(configs)
    code = f"""
import importlib, json, sys
blame = {{}}
for module in {modules!r}:
    importlib.import_module(module)
    for heavy in {HEAVY!r}:
        if heavy in sys.modules and heavy not in blame:
            blame[heavy] = module
print(json.dumps(blame))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_import_is_declared() -> None:
    """A dependency that merely happens to be installed is missing on a clean machine."""
    table = project()["project"]
    declared = [*table["dependencies"], *(d for extra in table["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[<>=~! ]", d)[0].lower().replace("_", "-") for d in declared}
    installed = importlib.metadata.packages_distributions()
    missing = {
        f"{module} imports {top}"
        for module, tree in TREES.items()
        for top in {name.split(".")[0] for name in imports(tree)}
        if top not in sys.stdlib_module_names and top not in PACKAGES
        if not names & {d.lower().replace("_", "-") for d in installed.get(top, [])}
    }
    assert not missing


def test_every_package_is_listed() -> None:
    listed = set(project()["tool"]["setuptools"]["packages"])
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES.values()}
    assert listed == folders | {"launch.configs"}
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in folders)


@pytest.mark.slow
def test_wheel_contains_code_and_data(tmp_path) -> None:
    """Every module and data file under our packages and ``configs/`` is in the wheel that is really built."""
    tree, skip = tmp_path / "tree", shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        packed = set(wheel.namelist())
    wanted = {
        re.sub(r"^configs/", "launch/configs/", path.relative_to(tree).as_posix())
        for name in (*PACKAGES, "configs")
        for path in (tree / name).rglob("*")
        if path.is_file()
    }
    assert wanted - packed == set()
    assert {"launch/report/page.css", "launch/configs/quickstart.yaml"} <= packed


def test_configs_are_readable_as_package_data() -> None:
    if importlib.util.find_spec("launch.configs") is None:
        pytest.skip("the distribution is not installed here")
    names = {item.name for item in importlib.resources.files("launch.configs").iterdir()}
    assert "quickstart.yaml" in names


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_module_says_what_it_owns(module: str) -> None:
    tree = TREES[module]
    assert not tree.body or ast.get_docstring(tree), f"{module} has no docstring"


def test_nothing_in_the_tree_names_this_machine() -> None:
    """Committed text holds no absolute home or work path."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    suspicious = re.compile(r"(?<![\w.])/(?:root|work|opt/(?:wheels|pypi))/")
    named = []
    for name in done.stdout.split():
        path = ROOT / name
        if path == Path(__file__) or not path.is_file() or path.stat().st_size > 2_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        named += [f"{name}: {m.group()}" for m in suspicious.finditer(text)]
    assert not named
